"""How a process ends whose threads may be inside Ray."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

PROCESS = """
    import atexit, os, pathlib, subprocess, sys, tempfile, threading, time, types
    from pipelines.exits import SERVER_THREAD, FOLDERS_TO_REMOVE, leave

    # What Ray's library does to a process of which a thread calls it after it was disconnected.
    atexit.register(os._exit, 1)
    child = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    private = pathlib.Path(tempfile.mkdtemp())
    (private / "token").write_text("secret")
    FOLDERS_TO_REMOVE.add(private)
    print(private, child.pid, child.stdout.readline().strip())
    if sys.argv[1] == "a server is inside Ray":
        threading.Thread(target=time.sleep, args=(600,), name=f"{SERVER_THREAD}-0", daemon=True).start()
    else:
        sys.modules["ray"] = types.ModuleType("ray")
    leave(130)
"""


@pytest.mark.parametrize("state", ["a server is inside Ray", "Ray has just been started"])
def test_the_code_is_kept_the_children_end_and_the_private_folder_goes(state: str) -> None:
    process = _python(PROCESS, state)
    assert process.returncode == 130, process.stderr
    private, *children = process.stdout.split()
    # A signal is sent before it has arrived: the children may end a little later than the process that sent it.
    until, pids = time.monotonic() + 30, [int(pid) for pid in children]
    while any(map(_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(pids) == 2
    assert [pid for pid in pids if _alive(pid)] == []
    assert not Path(private).exists()


def test_without_ray_the_interpreter_ends_as_ever() -> None:
    process = _python("import atexit; from pipelines.exits import leave; atexit.register(print, 'at exit'); leave(3)")
    assert (process.returncode, process.stdout) == (3, "at exit\n")


def test_a_process_of_ray_that_is_killed_is_named_with_how_to_go_on() -> None:
    process = _python("""
        import subprocess, psutil, time
        from pipelines import exits

        child = subprocess.Popen(["sleep", "600"])
        exits.announce_leave()
        exits.watch_child(psutil.Process(child.pid))
        child.kill()
        time.sleep(60)
    """)
    assert process.returncode == 1
    assert "Ray's process sleep ended: it was killed" in process.stderr
    assert process.stderr.endswith("what is finished is kept. To continue, run the same command again.\n")


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_command_that_is_asked_to_end_says_how_to_go_on(number: str, code: int) -> None:
    process = _python(f"""
        import os, signal, time
        from pipelines import cli

        def app(standalone_mode):
            os.kill(os.getpid(), signal.{number})
            time.sleep(60)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.app = app
        cli.main()
    """)
    assert process.returncode == code
    told = "lcia: stopped; what is finished is kept. To continue, run the same command again."
    assert process.stderr.strip() == told


def test_failed_stages_are_told_without_a_type_and_with_how_to_go_on() -> None:
    process = _python("""
        from pipelines import cli
        from pipelines.exits import StageFailedError

        def app(standalone_mode):
            raise StageFailedError("1 of 2 stages failed")

        cli.app = app
        cli.main()
    """)
    assert process.returncode == 1
    told = "lcia: 1 of 2 stages failed\nwhat is finished is kept. To continue, run the same command again.\n"
    assert process.stderr == told


def test_an_error_of_ray_itself_is_told_with_how_to_go_on() -> None:
    process = _python("""
        from pipelines import cli

        class ActorDiedError(Exception):
            __module__ = "ray.exceptions"

        def app(standalone_mode):
            raise ActorDiedError("the broker is gone")

        cli.app = app
        cli.main()
    """)
    assert process.returncode == 1
    assert process.stderr.startswith("lcia: ActorDiedError: the broker is gone\nwhat is finished is kept.")


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
