"""A local Ray for this user on this machine: loopback, a token, and a folder that other users cannot enter."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from lcia.store.scratch import delete_unlocked
from pipelines import exits

LOOPBACK = "127.0.0.1"
PREFIX = "lcia-ray-"
TOKEN = "token"
HIDDEN = ("RAY_AUTH_TOKEN",)
"""Ray would prefer a user's token for some cluster to the file; it would then open this Ray too."""


class PrivateRay:
    """A Ray that this process has started. Its processes talk over loopback, and only to clients with the token.

    Ray gives its folders mode 0777, so that other users could replace the sockets in them: they lie in a private one.
    """

    def __init__(self, cpus: int, object_store_memory: int | None) -> None:
        self.folder, self._lock = _private_folder()
        self._before: dict[str, str | None] = {}
        self._clusters = ray_constants.ENABLE_RAY_CLUSTER
        try:
            self._prepare(environment(self.folder, cpus))
            _start(self.folder, cpus, object_store_memory)
        except Exception:
            self._clean_up()
            raise

    def stop(self) -> None:
        """Ends its processes and removes token and folder. No other thread may be inside Ray."""
        ray.shutdown()
        self._clean_up()

    def _prepare(self, values: dict[str, str | None]) -> None:
        self._before = {name: os.environ.get(name) for name in values}
        _set_variables(values)
        # Ray reads this once, when it is imported.
        ray_constants.ENABLE_RAY_CLUSTER = False
        authenticate_as_set()

    def _clean_up(self) -> None:
        _set_variables(self._before)
        ray_constants.ENABLE_RAY_CLUSTER = self._clusters
        authenticate_as_set()
        shutil.rmtree(self.folder, ignore_errors=True)
        exits.FOLDERS_TO_REMOVE.discard(self.folder)
        os.close(self._lock)


def environment(folder: Path, processes: int) -> dict[str, str | None]:
    """Environment variables for this process and those that it starts; None: must not be set."""
    loopback = _loopback_interface()
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
        **dict.fromkeys(HIDDEN),
        # Ray's name for "take the loopback address for this machine's". Its servers then listen there only.
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        # Nothing reads the metrics, and their ports ask for no token.
        "RAY_enable_metrics_collection": "0",
        # Workers started ahead would lack the environment that Ray Train gives to its own.
        "RAY_prestart_worker_first_driver": "0",
        # More processes than cores need no warning: most of them wait most of the time.
        "RAY_worker_maximum_startup_concurrency": str(processes),
    }


def _start(folder: Path, cpus: int, object_store_memory: int | None) -> None:
    asked_to_end = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=object_store_memory,
             logging_level="warning", log_to_driver=False, _temp_dir=str(folder / "r"))  # fmt: skip
    # Ray sets a handler of its own; the command line's says how to continue.
    if callable(asked_to_end) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, asked_to_end)
    if (address := ray.util.get_node_ip_address()) != LOOPBACK:
        raise RuntimeError(f"the local Ray would listen on {address}, not only on {LOOPBACK}; its version is not known")
    for child in psutil.Process().children():
        exits.watch_child(child)


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def authenticate_as_set() -> None:
    """Makes Ray's library, which caches mode and token, read them again."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _loopback_interface() -> str:
    addresses: dict[str, Any] = psutil.net_if_addrs()
    return next(name for name, found in addresses.items() if LOOPBACK in {address.address for address in found})


# The folder -------------------------------------------------------------------------------------------------------


def _private_folder() -> tuple[Path, int]:
    """A new folder of mode 0700 with a token of mode 0600 in it, and its lock, held while this process lives."""
    _delete_abandoned()
    folder, lock = _new_locked_folder()
    exits.FOLDERS_TO_REMOVE.add(folder)
    with open(os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return folder, lock


def _new_locked_folder() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parent()))
        # Another run may delete it before it is locked: then a new one is made.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _parent() -> str:
    """A short path: the name of a socket has room for about 100 characters."""
    return os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())


def _delete_abandoned() -> None:
    """Deletes the folders of this user's killed processes."""
    for folder in Path(_parent()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or one in use
            delete_unlocked(folder)
