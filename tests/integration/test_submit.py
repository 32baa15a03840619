"""Jobs through the Ray Jobs API of a real head, started and stopped here."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lcia.types import InputError
from pipelines.submit import Surroundings, submit

START_SECONDS = 180
STOP_SECONDS = 60

SCRIPT = "import os, pathlib; print('colour', os.environ['COLOUR'], pathlib.Path('note.txt').read_text())"
NONE = Surroundings()
CLUSTER_SCRIPT = "import ray; ray.init(); print('cpus', ray.cluster_resources()['CPU'])"


def python(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different because all are held at once."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


def head_command(temp: str, dashboard: int) -> list[str]:
    """The four agents' ports are pinned: a raylet whose agents look for ports too long gives up."""
    gcs, metrics, listen, grpc, runtime_env, client = free_ports(6)
    return [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
        *("--num-cpus=3", "--object-store-memory=100000000", f"--temp-dir={temp}", "--node-ip-address=127.0.0.1"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={listen}"),
        *(f"--dashboard-agent-grpc-port={grpc}", f"--runtime-env-agent-port={runtime_env}"),
    ]


def is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/gcs_healthz", timeout=5) as answer:
            return b"success" in answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def wait_until_healthy(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """The same question that KubeRay's submitter asks before it submits."""
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(address):
        assert process.poll() is None, f"ray start ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"no healthy head after {START_SECONDS} s:\n{log.read_text()}"
        time.sleep(1)


def stop(process: subprocess.Popen[bytes]) -> None:
    """`ray start --block` takes its own processes with it, and no other cluster's."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray head of three CPUs: a number that no other cluster here has."""
    # Sockets live below it, and their paths may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temp:
        (dashboard,) = free_ports(1)
        log = tmp_path_factory.mktemp("head") / "ray.log"
        env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        with log.open("wb") as out:
            process = subprocess.Popen(head_command(temp, dashboard), stdout=out, stderr=out, env=env)
        try:
            wait_until_healthy(process, f"http://127.0.0.1:{dashboard}", log)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            stop(process)


def run_job(address: str, entrypoint: str, surroundings: Surroundings = NONE) -> tuple[str, str]:
    """(status, log) of a job."""
    shown: list[str] = []
    return submit(address, entrypoint, surroundings, shown.append).status, "".join(shown)


def test_a_job_sees_its_folder_and_its_variables_and_its_log_arrives(head: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello from the folder")
    status, log = run_job(head, python(SCRIPT), Surroundings(working_dir=tmp_path, env={"COLOUR": "teal"}))
    assert status == "SUCCEEDED"
    assert log.count("colour teal hello from the folder") == 1


@pytest.mark.parametrize(("entrypoint", "shown"), [(python(CLUSTER_SCRIPT), "cpus 3.0")])
def test_a_job_runs_on_the_cluster_that_took_it(head: str, entrypoint: str, shown: str) -> None:
    status, log = run_job(head, entrypoint)
    assert status == "SUCCEEDED", log
    assert shown in log


def test_a_job_that_fails_is_reported_as_failed_with_its_log(head: str) -> None:
    status, log = run_job(head, python("print('before the end'); raise SystemExit(3)"))
    assert status == "FAILED"
    assert "before the end" in log


def test_where_no_head_answers_the_message_says_so() -> None:
    (port,) = free_ports(1)
    with pytest.raises(InputError, match="no Ray dashboard answers"):
        submit(f"http://127.0.0.1:{port}", "true")
