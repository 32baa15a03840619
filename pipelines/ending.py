"""The end of a process that may still be inside Ray."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import psutil

SERVER = "lcia-server"
"""How the names of threads begin that serve a session, and may be inside a call of Ray for as long as a stage takes."""


def leave(code: int) -> NoReturn:
    """Ends the process with `code`, and the Ray that it started.

    Ray disconnects when the interpreter exits. A thread that calls it after that ends the process with code 1 and
    leaves Ray's own processes behind, and so does an interruption while Ray starts. Where a server still runs, or a
    local Ray, the interpreter does not get there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    serving = any(thread.name.startswith(SERVER) for thread in threading.enumerate())
    if serving or ("ray" in sys.modules and _children()):
        _end_with_ray(code)
    sys.exit(code)


def _children() -> list[psutil.Process]:
    """The raylet and the GCS of a local Ray: nothing else is started here and left running."""
    children: list[psutil.Process] = psutil.Process().children()
    return children


def _end_with_ray(code: int) -> NoReturn:
    """Kills what the local Ray started, then its raylet and GCS, and then itself.

    Ray's library ends this process with code 1 as soon as it sees the raylet go, and the raylet goes when an agent
    of its node does: the children stand still until everything below them is gone.
    """
    children = _children()
    _each(children, psutil.Process.suspend)
    _each([below for child in children for below in child.children(recursive=True)], psutil.Process.kill)
    _each(children, psutil.Process.kill)
    os._exit(code)


def _each(processes: Sequence[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """Does it to every process that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)
