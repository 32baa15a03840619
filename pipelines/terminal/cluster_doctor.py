"""`lcia doctor --cluster`: whether the nodes of a Ray cluster fit this machine, the storage and the launch."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus

from lcia.addresses import is_anchored
from lcia.secrets import redacted
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.placement import Machine, unplaced
from pipelines.stages.nodes import Found, Node, look, nodes, versions
from pipelines.terminal.tables import add_row, console, new_table

TRACKING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, where, and what was found; `hint` says what to do, and is empty where all is well."""

    check: str
    node: str
    found: str
    hint: str = ""


def cluster_doctor(launch: LaunchConfig, as_json: bool) -> None:
    """Prints a line per check of the cluster that the launch or RAY_ADDRESS names.

    Raises:
        InputError: there is no such cluster, or something does not fit.
    """
    checks = list(examine(launch))
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        table = new_table("doctor --cluster", "check", "node", "found", "hint")
        for check in checks:
            add_row(table, check.check, check.node, check.found, check.hint)
        console().print(table)
    if wrong := sum(bool(check.hint) for check in checks):
        raise InputError(f"checks that do not fit: {wrong}; see the hints")


def examine(launch: LaunchConfig) -> Iterator[Check]:
    """All checks, in the order in which they are shown."""
    _connect(launch)
    there = nodes()
    yield Check("storage", "", launch.root, "" if is_anchored(launch.storage) else "relative: give a full path or URL")
    mine = versions()
    for node, found in look(there, launch.root).items():
        yield from _node(node, found, mine)
    yield _placement(there, launch)
    yield _tracking(launch)


def _connect(launch: LaunchConfig) -> None:
    from pipelines.stages.session import connect_to_ray

    address = launch.ray_address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise InputError("which cluster? Set RAY_ADDRESS, or ray_address in the launch file (--launch, --set)")
    try:
        connect_to_ray(launch)
    except InputError:
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        # Ray compares its own version and Python's as it connects.
        told = " ".join(str(error).split())
        raise InputError(
            f"cannot connect to the Ray cluster at {redacted(address)}: {redacted(told)}. If it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN)"
        ) from None


def _node(node: Node, found: Found, mine: Mapping[str, str]) -> Iterator[Check]:
    if found.trouble:
        yield Check("answer", node.name, "none", f"{found.trouble}: use the image of this version on all nodes")
        return
    other = {name: version for name, version in found.versions.items() if version != mine[name]}
    told = ", ".join(f"{name} {version} (here {mine[name]})" for name, version in other.items())
    equal = f"Python {mine['python']}, Ray {mine['ray']}, and the rest as here"
    yield Check("versions", node.name, told or equal, "use the same image everywhere" if other else "")
    yield Check("storage", node.name, found.storage or "written and read", found.storage and _storage_hint(found))
    visible = node.gpus if found.gpus is None else found.gpus
    lost = visible < node.gpus
    hint = "the driver or the container runtime hides GPUs from programs" if lost else ""
    yield Check("GPUs", node.name, f"{node.gpus} of Ray, {visible} that programs see", hint)


def _storage_hint(found: Found) -> str:
    if found.storage.startswith("cannot read"):
        return "the place is not shared: use a volume that all nodes mount, or s3:// or gs://"
    return "mount the volume there, or give the node's environment the keys of the bucket"


def _placement(there: list[Node], launch: LaunchConfig) -> Check:
    demands = [launch.workers(), launch.actors(embed=True)]
    left = unplaced([Machine(node.cpus, node.gpus) for node in there], demands)
    total = f"{sum(node.cpus for node in there):g} CPU and {sum(node.gpus for node in there)} GPU on {len(there)} nodes"
    hint = f"no room for {' and '.join(map(str, left))}: ask for less in the launch, or add nodes" if left else ""
    return Check("placement", "", total, hint)


def _tracking(launch: LaunchConfig) -> Check:
    """Only the driver writes to MLflow."""
    uri = launch.tracking_uri or ""
    if not launch.tracking.enabled or not uri.startswith(("http://", "https://")):
        return Check("tracking", "", "off" if not launch.tracking.enabled else redacted(uri) or "a file in the storage")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TRACKING_SECONDS) as answer:
            return Check("tracking", "", f"{uri} answers {answer.status}")
    except urllib.error.HTTPError as error:
        refused = error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if refused else "is that MLflow?"
        return Check("tracking", "", f"{uri} answers {error.code}", hint)
    except OSError as error:
        return Check("tracking", "", f"{uri}: {error}", "is the server running, and reachable from here?")
