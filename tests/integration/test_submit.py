"""Jobs through the Ray Jobs API of a real head, started and stopped here."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines.cli import app, guarded
from pipelines.kubernetes.submission import Submission
from pipelines.kubernetes.submit import JobEnd, Surroundings, run_job, submit, wait
from pipelines.launch import LaunchConfig
from pipelines.stages.private import authenticate_as_set

START_SECONDS = 420
STOP_SECONDS = 60
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    # Jobs find `lcia` as they do in the image, on the head's path.
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "120",
}

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
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *("--num-cpus=3", "--object-store-memory=100000000", f"--temp-dir={temp}", "--node-ip-address=127.0.0.1"),
        *(f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={listen}"),
        *(f"--dashboard-agent-grpc-port={grpc}", f"--runtime-env-agent-port={runtime_env}"),
    ]


def is_healthy(address: str) -> bool:
    try:
        asked = urllib.request.Request(
            f"{address}/api/gcs_healthz", headers={"Authorization": f"Bearer {ENVIRONMENT['RAY_AUTH_TOKEN']}"}
        )
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return b"success" in answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


STARTED = b"Ray runtime started"
"""What `ray start` prints when its node is there, too: on a busy machine it gives up on it after the GCS is healthy."""


def wait_until_healthy(process: subprocess.Popen[bytes], address: str, log: Path, deadline: float) -> bool:
    """The same question that KubeRay's submitter asks before it submits; False if the head ended first."""
    before = log.read_bytes().count(STARTED)
    while not (log.read_bytes().count(STARTED) > before and is_healthy(address)):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """`ray start --block` takes its own processes with it, and no other cluster's."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running_head(temp: str, log: Path, deadline: float) -> Iterator[str | None]:
    """The address of a Ray head of three CPUs: a number that no other cluster here has. None if it did not start."""
    (dashboard,) = free_ports(1)
    address = f"http://127.0.0.1:{dashboard}"
    with log.open("ab") as out:
        process = subprocess.Popen(
            head_command(temp, dashboard), stdout=out, stderr=out, env={**os.environ, **ENVIRONMENT}
        )
    try:
        yield address if wait_until_healthy(process, address, log, deadline) else None
    finally:
        stop(process)


@pytest.fixture(scope="module")
def token() -> Iterator[None]:
    """This process shows the head's token."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.setenv(name, ENVIRONMENT[name])
        authenticate_as_set()
        yield
    authenticate_as_set()


@pytest.fixture(scope="module")
def head(token: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where to submit; who does must show a token. Ray gives up starting on a busy machine, so it is started again
    until the deadline."""
    log, deadline = tmp_path_factory.mktemp("head") / "ray.log", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        # Sockets live below it, and their paths may have 107 characters at most.
        with (
            tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temp,
            running_head(temp, log, deadline) as address,
        ):
            if address:
                yield address
                return
    pytest.fail(f"no healthy head after {START_SECONDS} s:\n{log.read_text()[-4000:]}")


def submitted(address: str, entrypoint: str, surroundings: Surroundings = NONE) -> tuple[JobEnd, str]:
    """How a job ended, and its log."""
    shown: list[str] = []
    return submit(address, entrypoint, surroundings, shown.append), "".join(shown)


def test_who_shows_no_token_may_not_submit(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    authenticate_as_set()
    try:
        with pytest.raises(InputError, match="asks for a token: set RAY_AUTH_MODE=token"):
            submitted(head, "true")
    finally:
        monkeypatch.undo()
        authenticate_as_set()


def test_a_job_sees_its_folder_and_its_variables_and_its_log_arrives(head: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello from the folder")
    end, log = submitted(head, python(SCRIPT), Surroundings(working_dir=tmp_path, env={"COLOUR": "teal"}))
    assert end.status == "SUCCEEDED", (end.message, log)
    assert log.count("colour teal hello from the folder") == 1


@pytest.mark.parametrize(("entrypoint", "shown"), [(python(CLUSTER_SCRIPT), "cpus 3.0")])
def test_a_job_runs_on_the_cluster_that_took_it(head: str, entrypoint: str, shown: str) -> None:
    end, log = submitted(head, entrypoint)
    assert end.status == "SUCCEEDED", (end.message, log)
    assert shown in log


def test_the_doctor_finds_a_cluster_that_fits_and_what_a_launch_asks_too_much(head: str, tmp_path: Path) -> None:
    """On the head's own path to its cluster; the storage is written and read there, and left as it was."""
    end, log = submitted(head, f"lcia doctor --cluster --json --set storage={tmp_path}")
    assert end.status == "SUCCEEDED", (end.message, log)
    checks = {check["check"]: check for check in json.loads(log[log.index("[\n") :])}
    assert list(checks) == ["storage", "versions", "GPUs", "placement", "tracking"]
    assert checks["versions"]["found"].endswith("and the rest as here")
    assert checks["placement"]["found"] == "3 CPU and 0 GPU on 1 nodes"
    assert list((tmp_path / ".lcia-doctor").iterdir()) == []
    end, log = submitted(head, "lcia doctor --cluster --json --set storage=/proc/none --set gpus_per_worker=1")
    assert end.status == "FAILED"
    assert "mount the volume there" in log
    assert "no room for 1 training workers of 1 CPU and 1 GPU each" in log
    assert "checks that do not fit: 2" in log


def test_a_job_that_fails_is_reported_as_failed_with_its_log(head: str) -> None:
    end, log = submitted(head, python("print('before the end'); raise SystemExit(3)"))
    assert end.status == "FAILED"
    assert "before the end" in log, end.message


def test_the_command_line_runs_on_the_head_and_its_failure_is_reported(
    head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = LaunchConfig(storage=str(tmp_path))
    with pytest.raises(RuntimeError, match="FAILED"):
        run_job(Submission.of(RunConfig(), "nonsense: 1\n"), where, head)
    said = capsys.readouterr()
    assert "nonsense" in said.out, said.out
    job = re.search(r"lcia launch status (\S+) --address", said.err)[1]
    assert lcia("launch", "logs", job, "--address", head) == 0
    assert "nonsense" in capsys.readouterr().out
    assert lcia("launch", "status", job, "--address", head, "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "FAILED"
    assert lcia("launch", "stop", job, "--address", head) == 0
    assert "has ended already" in capsys.readouterr().out


def test_a_running_job_is_stopped_and_one_that_is_not_there_is_named(
    head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JobSubmissionClient(head).submit_job(entrypoint="sleep 600")
    assert lcia("launch", "stop", job, "--address", head) == 0
    assert "was told to stop" in capsys.readouterr().out
    assert wait(JobSubmissionClient(head), job).status == "STOPPED"
    assert lcia("launch", "status", "none", "--address", head) == 2
    assert job in capsys.readouterr().err


def lcia(*words: str) -> int:
    return guarded(lambda: app(list(words), standalone_mode=False))


def test_where_no_head_answers_the_message_says_so() -> None:
    (port,) = free_ports(1)
    with pytest.raises(InputError, match="no Ray dashboard answers"):
        submit(f"http://127.0.0.1:{port}", "true")
