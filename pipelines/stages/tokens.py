"""A Ray that listens beyond this machine must ask for a token: who can talk to it can run code as its user."""

from __future__ import annotations

import ipaddress
import json
import urllib.request
from collections.abc import Iterable

from lcia.types import InputError

ASKING_SECONDS = 5.0
WHAT_TO_DO = (
    "Who reaches its ports can run code there. Start it with RAY_AUTH_MODE=token, and set RAY_AUTH_MODE=token and "
    "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here too; or set ray_auth: none in the launch file if its network keeps "
    "all others out"
)


def check_token(dashboard: str | None) -> None:
    """Call when connected to a cluster; `dashboard`: HOST:PORT of its dashboard, if it has one.

    Raises:
        InputError: a node listens beyond loopback, and this process or the cluster goes without a token.
    """
    import ray

    beyond = beyond_loopback(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    if not beyond:
        return
    if not shows_token():
        raise InputError(f"the Ray cluster at {beyond} is used without a token. {WHAT_TO_DO}")
    if dashboard and asks_for(dashboard) == "disabled":
        raise InputError(f"the Ray cluster at {beyond} asks nobody for a token. {WHAT_TO_DO}")


def beyond_loopback(addresses: Iterable[str]) -> str | None:
    """The first address that other machines can reach; a name counts as one."""
    return next((address for address in addresses if not _is_loopback(address)), None)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def shows_token() -> bool:
    """Whether this process shows a token to the Ray that it talks to."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def asks_for(dashboard: str) -> str | None:
    """The mode that a dashboard says its cluster has, `token` or `disabled`; None: it cannot be asked from here."""
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/authentication_mode", timeout=ASKING_SECONDS) as answer:
            mode = json.load(answer)["authentication_mode"]
    except (OSError, ValueError, KeyError):
        return None
    return str(mode)
