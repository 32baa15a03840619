"""The end of a process that may still be inside Ray."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import psutil

from lcia.types import InputError

SERVER = "lcia-server"
"""Prefix of the names of server threads; one may block inside Ray for a whole stage."""
TO_REMOVE: set[Path] = set()
"""Folders of a local Ray that go with it."""
SIGNALS: list[int] = []
"""Signals other than Ctrl-C's that this process was asked to end with."""
TO_GO_ON = "what is finished is kept. To continue, run the same command again."
_LEAVING, _ENDING = threading.Event(), threading.Event()


class StageFailedError(RuntimeError):
    """Stages could not be executed; what was finished before is in the store."""


def described(error: BaseException) -> str:
    """An error for people: its type says something only where the message was not written for them."""
    told = isinstance(error, InputError | StageFailedError)
    return str(error) if told else f"{type(error).__name__}: {error}"


def leaving() -> bool:
    """Whether this process ends by leave(), so that a local Ray need not end in order before."""
    return _LEAVING.is_set()


def will_leave() -> None:
    """Says that this process ends by leave()."""
    _LEAVING.set()


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
    _remove()
    sys.exit(code)


def watch(child: psutil.Process) -> None:
    """Says what has happened when this process of a local Ray ends early.

    Ray's library would end this process a moment later, without a word that a user could understand.
    """
    threading.Thread(target=_watch, args=(child.pid, child.name()), name="lcia-watch", daemon=True).start()


def _watch(pid: int, name: str) -> None:
    with contextlib.suppress(ChildProcessError):  # Ray has heard of its end before
        # Ray still has to hear of it, so it is not reaped here.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if leaving() and not (_ENDING.is_set() or SIGNALS):
        print(f"\nlcia: Ray's process {name} ended: it was killed, for lack of memory perhaps; {TO_GO_ON}",
              file=sys.stderr)  # fmt: skip
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # the table of stages hides the cursor
        sys.stderr.flush()
        _end_with_ray(1)


def wait_if_ending() -> None:
    """Stands still where another thread is ending this process: what fails now fails because of that."""
    if _ENDING.is_set():
        threading.Event().wait()


def _children() -> list[psutil.Process]:
    """The raylet and the GCS of a local Ray: nothing else is started here and left running."""
    children: list[psutil.Process] = psutil.Process().children()
    return children


def _end_with_ray(code: int) -> NoReturn:
    """Kills what the local Ray started, then its raylet and GCS, and then itself.

    Ray's library ends this process with code 1 as soon as it sees the raylet go, and the raylet goes when an agent
    of its node does: the children stand still until everything below them is gone.
    """
    _ENDING.set()
    children = _children()
    _each(children, psutil.Process.suspend)
    below = [below for child in children for below in child.children(recursive=True)]
    _each(below, psutil.Process.kill)
    _each(children, psutil.Process.kill)
    # What still writes into the folder would keep it.
    psutil.wait_procs([*below, *children], timeout=5)
    _remove()
    os._exit(code)


def _remove() -> None:
    for folder in TO_REMOVE:
        shutil.rmtree(folder, ignore_errors=True)


def _each(processes: Sequence[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """Does it to every process that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)
