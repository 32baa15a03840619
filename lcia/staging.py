"""Folders that are filled before they are published, and what killed processes have left of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """An empty folder below `parent`; what is left of it goes with the block. A lock says that its process lives."""
    _sweep(parent)
    folder, lock = _claim(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / f"{_prefix()}{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        # Between mkdir and lock somebody may take the folder for a dead process's: then another one is made.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # no locks on this file system: nothing is swept there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


@cache
def _sweep(parent: Path) -> None:
    """Deletes what killed processes of this machine left below `parent`; those of others cannot be told from live.

    Once per process: as many folders as that are not left behind.
    """
    for folder in parent.glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError):
            _delete_unlocked(folder)


def _delete_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@cache
def _prefix() -> str:
    """Names this machine since it was started: locks are sure within one kernel, not on every shared volume."""
    try:
        return f"lcia-{BOOT.read_text().strip()[:13]}-"
    except OSError:
        return f"lcia-{uuid.uuid4().hex[:12]}-"
