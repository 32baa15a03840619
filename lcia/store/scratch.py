"""Folders that are filled before they are published, and what killed processes have left of them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """An empty folder below `parent`, deleted when the block ends. A lock says that its process lives."""
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
        # Between mkdir and lock another process may take the folder for a dead one's: then a new one is made.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # no locks on this file system: nothing is swept there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


@cache
def _sweep(parent: Path) -> None:
    """Deletes what killed processes of this machine left below `parent`; of other machines' it cannot be known.

    Once per process is enough: few folders are left behind.
    """
    for folder in parent.glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError):
            delete_unlocked(folder)


def delete_unlocked(folder: Path) -> None:
    """Deletes a folder unless its process lives; raises OSError where it does, or where it is another user's."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


@cache
def _prefix() -> str:
    """Stands for this machine since it was started: locks work within one kernel, not on every shared volume."""
    try:
        return f"lcia-{BOOT.read_text().strip()[:13]}-"
    except OSError:
        return f"lcia-{uuid.uuid4().hex[:12]}-"


@contextlib.contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Tells `is_occupied` in other processes of this machine that the block is under way; a kill ends that too."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # no locks on this file system
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def is_occupied(folder: Path) -> bool:
    """Whether a process that lives fills the folder or works on what it stands for."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(lock)
    return False


def leftovers(parent: Path, age_seconds: float) -> list[Path]:
    """Staging folders below `parent` of dead processes; those of other machines count when they are that old."""
    found = [folder for folder in parent.glob("lcia-*") if not is_occupied(folder)]
    return sorted(f for f in found if f.name.startswith(_prefix()) or time.time() - f.stat().st_mtime > age_seconds)
