"""How a process ends whose threads may be inside Ray."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import psutil
import pytest

PROCESS = """
    import atexit, os, subprocess, sys, threading, time, types
    from pipelines.ending import SERVER, leave

    # What Ray's library does to a process of which a thread calls it after it was disconnected.
    atexit.register(os._exit, 1)
    child = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    print(child.pid, child.stdout.readline().strip())
    if sys.argv[1] == "a server is inside Ray":
        threading.Thread(target=time.sleep, args=(600,), name=f"{SERVER}-0", daemon=True).start()
    else:
        sys.modules["ray"] = types.ModuleType("ray")
    leave(130)
"""


@pytest.mark.parametrize("state", ["a server is inside Ray", "Ray has just been started"])
def test_the_code_is_kept_and_the_children_end(state: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), state]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 130, process.stderr
    # A signal is sent before it has arrived: the children may end a little later than the process that sent it.
    until, pids = time.monotonic() + 30, [int(pid) for pid in process.stdout.split()]
    while any(map(_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(pids) == 2
    assert [pid for pid in pids if _alive(pid)] == []


def test_without_ray_the_interpreter_ends_as_ever() -> None:
    code = "import atexit; from pipelines.ending import leave; atexit.register(print, 'at exit'); leave(3)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (3, "at exit\n")


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
