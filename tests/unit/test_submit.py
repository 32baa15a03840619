"""Following a job, with a client that plays the Jobs API; the real one is in tests/integration/test_submit.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from lcia.config import RunConfig
from lcia.types import InputError
from pipelines import submit as module
from pipelines.launch import ClusterConfig, LaunchConfig, PoolConfig
from pipelines.submit import JobEnd, Surroundings, follow, launch, submit

LOG = "one\ntwo\nthree\n"


class Status(Enum):
    """As Ray's JobStatus, of which it plays the part."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        return self is not Status.RUNNING


@dataclass
class Info:
    status: Status
    message: str | None = None


@dataclass
class Client:
    """Streams `pieces`, then breaks if told to; answers the states one after another."""

    pieces: Sequence[str]
    states: list[Info]
    broken: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for piece in self.pieces:
            yield piece
        if self.broken:
            raise self.broken

    def get_job_info(self, job: str) -> Info:
        self.asked.append(job)
        return self.states[min(len(self.asked), len(self.states)) - 1]

    def get_job_logs(self, job: str) -> str:
        return LOG


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)


def followed(client: Client) -> tuple[JobEnd, list[str]]:
    shown: list[str] = []
    return follow(cast(Any, client), "job-1", shown.append), shown


def test_the_log_is_shown_once_and_the_end_reported() -> None:
    end, shown = followed(Client(["one\n", "two\nthree\n"], [Info(Status.SUCCEEDED, "done")]))
    assert "".join(shown) == LOG
    assert end == JobEnd("job-1", "SUCCEEDED", "done")
    assert end.succeeded


def test_a_broken_stream_neither_ends_the_job_nor_loses_a_line() -> None:
    states = [Info(Status.RUNNING), Info(Status.RUNNING), Info(Status.FAILED, "exit code 3")]
    end, shown = followed(Client(["one\ntw"], states, broken=RuntimeError("closed")))
    assert end == JobEnd("job-1", "FAILED", "exit code 3")
    assert not end.succeeded
    assert "".join(piece for piece in shown if not piece.startswith("[")) == LOG
    assert any("the log stream broke (closed)" in piece for piece in shown)


def test_a_mistake_of_ours_is_not_taken_for_a_broken_stream() -> None:
    with pytest.raises(KeyError):
        followed(Client(["one"], [Info(Status.SUCCEEDED)], broken=KeyError("bug")))


def test_a_secret_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match="HF_TOKEN would be readable"):
        submit("http://127.0.0.1:1", "true", Surroundings(env={"HF_TOKEN": "x"}))


def test_the_runtime_environment_holds_the_folder_and_the_variables(tmp_path: Path) -> None:
    given = Surroundings(working_dir=tmp_path, env={"A": "1"}).runtime_env()
    assert given == {"working_dir": str(tmp_path), "env_vars": {"A": "1"}}
    assert Surroundings().runtime_env() == {}


def test_an_address_without_a_scheme_is_explained() -> None:
    with pytest.raises(InputError, match="write http://HOST:8265"):
        submit("head:8265", "true")


CLUSTER = ClusterConfig(image="lcia:0.1.0", train=PoolConfig(cpu=8))


def test_the_target_rayjob_prints_what_renders_to_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = RunConfig(name="mine", seed=4)
    launch(run, LaunchConfig(storage="/mnt/lcia", cluster=CLUSTER), "rayjob")
    config_map, job = yaml.safe_load_all(capsys.readouterr().out)
    assert RunConfig.model_validate(yaml.safe_load(config_map["data"]["run.yaml"])) == run
    assert job["kind"] == "RayJob"


def test_the_text_of_the_run_is_mounted_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    where = LaunchConfig(storage="/mnt/lcia", cluster=CLUSTER)
    launch(RunConfig(name="mine"), where, "rayjob", run_yaml="# mine\nname: mine\n")
    config_map, _ = yaml.safe_load_all(capsys.readouterr().out)
    assert config_map["data"]["run.yaml"] == "# mine\nname: mine\n"


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match="there is no target 'slurm'"):
        launch(RunConfig(), LaunchConfig(), "slurm")


def test_a_relative_storage_is_refused_before_a_job_is_sent_elsewhere() -> None:
    with pytest.raises(InputError, match="give a full path"):
        launch(RunConfig(), LaunchConfig(storage="runs"), "jobs", "http://127.0.0.1:1")
