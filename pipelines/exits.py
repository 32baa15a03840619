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

SERVER_THREAD = "lcia-server"
"""Prefix of the names of server threads; one may block inside Ray for a whole stage."""
FOLDERS_TO_REMOVE: set[Path] = set()
"""Folders of a local Ray, which are removed when it ends."""
END_SIGNALS: list[int] = []
"""Signals, other than Ctrl-C's, that have asked this process to end."""
HOW_TO_CONTINUE = "what is finished is kept. To continue, run the same command again."
_LEAVE_ANNOUNCED, _EXITING = threading.Event(), threading.Event()


class StageFailedError(RuntimeError):
    """Stages could not be executed; what was finished before is in the store."""


def describe(error: BaseException) -> str:
    """An error for people: with its type where the message was not written for them."""
    readable = isinstance(error, InputError | StageFailedError)
    return str(error) if readable else f"{type(error).__name__}: {error}"


def leave_announced() -> bool:
    """Whether this process will end by leave(), which ends a local Ray too."""
    return _LEAVE_ANNOUNCED.is_set()


def announce_leave() -> None:
    """Says that this process will end by leave()."""
    _LEAVE_ANNOUNCED.set()


def leave(code: int) -> NoReturn:
    """Ends the process with `code`, and the Ray that it started.

    Ray disconnects when the interpreter exits. A thread that calls it after that ends the process with code 1 and
    leaves Ray's own processes behind, and so does an interruption while Ray starts. Where a server still runs, or a
    local Ray, the interpreter does not get there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    serving = any(thread.name.startswith(SERVER_THREAD) for thread in threading.enumerate())
    if serving or ("ray" in sys.modules and _children()):
        _kill_ray_and_exit(code)
    _remove()
    sys.exit(code)


def watch_child(child: psutil.Process) -> None:
    """Says what has happened when this process of a local Ray ends early.

    Ray's library would end this process a moment later, without a word that a user could understand.
    """
    threading.Thread(target=_watch, args=(child.pid, child.name()), name="lcia-watch", daemon=True).start()


def _watch(pid: int, name: str) -> None:
    with contextlib.suppress(ChildProcessError):  # Ray has reaped it
        # WNOWAIT: Ray has to reap it, and so to hear of its end.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if leave_announced() and not (_EXITING.is_set() or END_SIGNALS):
        print(f"\nlcia: Ray's process {name} ended: it was killed, for lack of memory perhaps; {HOW_TO_CONTINUE}",
              file=sys.stderr)  # fmt: skip
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")  # the table of stages hides the cursor
        sys.stderr.flush()
        _kill_ray_and_exit(1)


def wait_if_exiting() -> None:
    """Blocks for ever where another thread is ending this process: what fails now fails because of that."""
    if _EXITING.is_set():
        threading.Event().wait()


def _children() -> list[psutil.Process]:
    """The raylet and the GCS of a local Ray; this process leaves no other child running."""
    children: list[psutil.Process] = psutil.Process().children()
    return children


def _kill_ray_and_exit(code: int) -> NoReturn:
    """Kills what the local Ray started, then its raylet and GCS, and then itself.

    Ray's library ends this process with code 1 as soon as it sees the raylet go, and the raylet goes when an agent
    of its node does: both are suspended until everything below them is gone.
    """
    _EXITING.set()
    children = _children()
    _for_each(children, psutil.Process.suspend)
    below = [below for child in children for below in child.children(recursive=True)]
    _for_each(below, psutil.Process.kill)
    _for_each(children, psutil.Process.kill)
    # A process that still writes into the folder would keep it from being removed.
    psutil.wait_procs([*below, *children], timeout=5)
    _remove()
    os._exit(code)


def _remove() -> None:
    for folder in FOLDERS_TO_REMOVE:
        shutil.rmtree(folder, ignore_errors=True)


def _for_each(processes: Sequence[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """Calls `do` on every process that still exists."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)
