"""A run on this machine: who may connect to it while it trains, and what SIGTERM leaves of it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import config_file, launch_file, start

pytestmark = pytest.mark.timeout(600)

STRANGER = """
import sys
import ray
from ray._raylet import GcsClient

print(ray.init(address=sys.argv[1], logging_level="error") if sys.argv[2] == "init" else
      GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10))
print("CONNECTED")
"""

TWICE = """
import os, ray, tempfile
from pathlib import Path
from pipelines.stages.private import PrivateRay, environment

names = environment(Path(), 1)
before = {name: os.environ.get(name) for name in names}
for _ in range(2):
    private = PrivateRay(2, 100 * 2**20)
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    private.stop()
    assert not private.folder.exists()
    assert {name: os.environ.get(name) for name in names} == before
print("BOTH")
"""


@dataclass(frozen=True)
class Listening:
    """An open port of one of the run's processes."""

    process: str
    host: str
    port: int

    @property
    def on_loopback(self) -> bool:
        address = ipaddress.ip_address(self.host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


@dataclass(frozen=True)
class Running:
    """A run of two workers in mid-training."""

    process: subprocess.Popen[str]
    folder: Path
    open_ports: list[Listening]
    commands: list[str]
    token: Path

    @property
    def head(self) -> str:
        """Where Ray's control service listens."""
        [port] = {open_port.port for open_port in self.open_ports if "gcs_server" in open_port.process}
        return f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("private")
    process = start("run", config_file(folder, training={"max_steps": 5000}), "--launch", launch_file(folder))
    _wait_for_a_checkpoint(folder, process)
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = [_facts(one) for one in everything]
    tokens = {token for _, _, token in found if token}
    _let_others_go_first(everything)
    yield Running(
        process, folder, [port for ports, _, _ in found for port in ports], [c for _, c, _ in found],
        Path(tokens.pop() if tokens else "no token file is set"),
    )  # fmt: skip
    process.kill()
    process.communicate()
    psutil.wait_procs(everything, timeout=60)


def _wait_for_a_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list(folder.glob("runs/store/partial/*/*/complete.json")):
        assert time.monotonic() < deadline, "no checkpoint appeared"
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.2)


def _facts(process: psutil.Process) -> tuple[list[Listening], str, str]:
    """Open ports, command line, and the token file that it was told of; nothing of a process that ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        title = " ".join(process.cmdline())
        sockets = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        token = process.environ().get("RAY_AUTH_TOKEN_PATH", "")
        return [Listening(title, c.laddr.ip, c.laddr.port) for c in sockets], title, token
    return [], "", ""


def _let_others_go_first(processes: list[psutil.Process]) -> None:
    """The workers train for as long as the tests below look at the run, and another file is tested meanwhile."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                process.nice(19)


def _outer_addresses() -> list[str]:
    """IPv4 addresses of this machine that others could use."""
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == socket.AF_INET]
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def _connects(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


# While it trains --------------------------------------------------------------------------------------------------


def test_workers_control_service_and_driver_are_seen(running: Running) -> None:
    """Else the tests below would look at nothing."""
    titles = {port.process for port in running.open_ports}
    for part in ("gcs_server", "raylet", "pipelines.cli", "RayTrainWorker", "Answerer"):
        assert any(part in title for title in titles), f"{part} among {titles}"


def test_every_port_is_bound_to_loopback(running: Running) -> None:
    assert [port for port in running.open_ports if not port.on_loopback] == []


def test_nobody_connects_over_the_address_of_the_machine(running: Running) -> None:
    outer = _outer_addresses()
    if not outer:
        pytest.skip("this machine has no address but loopback")
    reached = [(host, port) for port in running.open_ports for host in outer if _connects(host, port.port)]
    assert reached == []


@pytest.mark.parametrize(("way", "token"), [("init", None), ("client", None), ("client", "0" * 64)])
def test_on_loopback_who_does_not_show_the_token_is_refused(
    running: Running, tmp_path: Path, way: str, token: str | None
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    # Else Ray would look for the service at the outer address, where it is not.
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", STRANGER, running.head, way]
    result = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert "CONNECTED" not in result.stdout
    assert "AuthenticationError" in result.stderr, result.stderr[-3000:]


def test_only_this_user_may_read_the_token_or_reach_the_sockets(running: Running) -> None:
    assert stat.S_IMODE(running.token.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.token.parent.stat().st_mode) == 0o700
    assert list(running.token.parent.rglob("plasma_store")), "Ray's sockets lie elsewhere"


def _bytes_while_there(path: Path) -> bytes:
    """The file's bytes; none where the run, which goes on, took the file away (an old checkpoint)."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_the_token_stands_in_no_command_line_and_in_no_file_of_the_run(running: Running) -> None:
    token = running.token.read_text()
    assert len(token) == 64
    assert [command for command in running.commands if token in command] == []
    files = [path for path in running.folder.rglob("*") if path.is_file()]
    files += [path for path in running.token.parent.rglob("*") if path.is_file() and path != running.token]
    assert [path for path in files if token.encode() in _bytes_while_there(path)] == []


# The end, for it ends the run: what needs no run comes after it -----------------------------------------------------


def test_sigterm_ends_a_run_as_ctrl_c_does_and_leaves_nothing_behind(running: Running) -> None:
    children = psutil.Process(running.process.pid).children(recursive=True)
    running.process.send_signal(signal.SIGTERM)
    _, err = running.process.communicate(timeout=100)
    assert running.process.returncode == 143, err[-3000:]
    assert err.endswith("lcia: stopped; what is finished is kept. To continue, run the same command again.\n")
    assert "Traceback" not in err
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert not running.token.parent.exists()


def test_one_process_may_start_one_after_the_other() -> None:
    """Ray's library remembers its first token unless it is told to forget it."""
    environment = {**os.environ, "RAY_AUTH_TOKEN": "a user's, for some cluster"}
    result = subprocess.run(
        [sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert result.stdout == "BOTH\n", result.stderr[-3000:]
