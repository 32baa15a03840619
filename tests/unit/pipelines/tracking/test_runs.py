"""What of a run goes to MLflow, and in which state its runs end; no MLflow is started."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.protocols import Progress
from lcia.report.run_folder import Session
from lcia.run import Outcome, run
from lcia.store.folders import Store
from lcia.training.fit import FitOptions
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.tracking import runs
from pipelines.tracking.runs import RunTracker, run_key, tracked

VALUES = {
    "name": "stream",
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 8, "test_size": 2},
    "training": {"max_steps": 2, "batch_size": 4},
    "seed": 5,
    "grouping": {"enabled": True, "threshold": 0.4},
}


class Recorder:
    """A tracker that keeps what it is told."""

    def __init__(self, *_: object) -> None:
        self.begun: dict[str, dict[str, Any]] = {}
        self.status: dict[str, str] = {}
        self.points: dict[tuple[str, str, int], float] = {}
        self.times: dict[tuple[str, str, int], int | None] = {}
        self.closed = False

    def begin(
        self, key: str, name: str, params: Mapping[str, object], tags: Mapping[str, str], parent: str | None = None
    ) -> None:
        self.begun[key] = {"name": name, "params": params, "tags": tags, "parent": parent}
        self.status[key] = "RUNNING"

    def finish(self, key: str, status: str = "FINISHED") -> None:
        self.status[key] = status

    def metric(self, key: str, name: str, value: float, step: int, at: int | None = None) -> None:
        if (key, name, step) not in self.points:
            self.points[key, name, step] = value
            self.times[key, name, step] = at

    def next_step(self, key: str, name: str) -> int:
        return sum(known[:2] == (key, name) for known in self.points)

    def artifact(self, key: str, path: Path, folder: str = "") -> None:
        assert path.exists()

    def dataset(self, key: str, name: str, digest: str, source: str) -> None:
        assert key in self.begun

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Store]:
    store = Store(str(tmp_path_factory.mktemp("runs") / "store"))
    executor = LocalExecutor(store, FitOptions(micro_batch=4, logging_steps=1))
    return run([parse(RunConfig, VALUES, "test")], executor)[0], store


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(runs, "Tracker", lambda *_: recorder)
    return recorder


@contextmanager
def _begun(finished: tuple[Outcome, Store], storage: Path) -> Iterator[RunTracker]:
    outcome, store = finished
    with tracked(LaunchConfig(storage=str(storage)), "stream") as follower:
        follower.begin([outcome.prepared], store)
        yield follower


def _under_way(outcome: Outcome, step: int = 1) -> dict[str, Progress]:
    """A snapshot in which the first stage trains, the second waits."""
    values = {"loss": 2.5, "samples_per_second": 40.0, "batch_size": 4}
    first = outcome.prepared.plan.trains[0]
    return {first.key: Progress(first.key, "train", first.label, step, 2, values)}


def test_a_stage_is_open_while_it_trains_and_not_before(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    key = run_key(finished[0].config)
    with _begun(finished, tmp_path) as follower:
        assert recorder.status == {key: "RUNNING"}
        follower.watch(_under_way(finished[0]))
        assert recorder.status == {key: "RUNNING", f"{key}/0": "RUNNING"}
        done = {key: replace(stage, done=True) for key, stage in _under_way(finished[0]).items()}
        follower.watch(done)
        assert recorder.status == {key: "RUNNING", f"{key}/0": "FINISHED"}


def test_the_figures_of_a_stage_arrive_while_it_trains(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    child = f"{run_key(finished[0].config)}/0"
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0]))
        points = {known: value for known, value in recorder.points.items() if known[0] == child}
        assert points == {(child, "loss", 1): 2.5, (child, "samples_per_second", 1): 40.0}


def test_a_point_that_was_not_seen_is_as_old_as_the_next_one_that_was(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.runs.time.time", lambda: 7.0)
    child = f"{run_key(finished[0].config)}/0"
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0], 2))
        follower.watch({key: replace(stage, done=True) for key, stage in _under_way(finished[0], 2).items()})
    assert recorder.times[child, "loss", 1] == 7000
    assert recorder.points[child, "loss", 2] == 2.5


def test_a_stage_that_was_in_the_store_is_shown_as_finished_with_its_curve(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    outcome, store = finished
    key = run_key(outcome.config)
    with _begun(finished, tmp_path) as follower:
        follower.finish([outcome], Session("stream", 1.0, {}), store)
    assert recorder.status == dict.fromkeys([key, f"{key}/0", f"{key}/1"], "FINISHED")
    assert [step for run, name, step in recorder.points if (run, name) == (f"{key}/1", "loss")] == [1, 2]
    assert recorder.points[f"{key}/1", "train_samples_per_second", 2] > 0


def test_a_stage_says_what_tells_it_from_the_others(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    outcome, store = finished
    with _begun(finished, tmp_path) as follower:
        follower.finish([outcome], Session("stream", 1.0, {}), store)
    key = run_key(outcome.config)
    child, stage = recorder.begun[f"{key}/1"], outcome.prepared.plan.trains[1]
    assert (child["name"], child["parent"]) == ("stream: 2. OCR-VQA", key)
    facts = {"run": "stream", "task": "OCR-VQA", "position": 2, "order": "VQAv2, OCR-VQA", "seed": 5, "group": "g0",
             "rows": 8}  # fmt: skip
    assert facts.items() <= child["params"].items()
    assert {name: str(value) for name, value in facts.items()}.items() <= child["tags"].items()
    assert (child["params"]["stage"], child["params"]["parent_stage"]) == (stage.key, stage.parent)
    assert child["params"]["strategy"]["kind"] == outcome.config.strategy.kind
    assert child["params"]["training"]["batch_size"] == 4
    assert child["params"]["lora"]["r"] == outcome.config.lora.r


def test_every_run_names_its_user_program_and_commit(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.surroundings.environment", lambda: {"commit": "abc1234"})
    monkeypatch.setattr("sys.argv", ["/usr/bin/lcia", "run", "secret.yaml"])
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0]))
    for one in recorder.begun.values():
        assert one["tags"]["mlflow.user"] == getpass.getuser()
        assert one["tags"]["mlflow.source.name"] == "lcia run"
        assert one["tags"]["mlflow.source.git.commit"] == "abc1234"


def test_the_machine_is_looked_at_while_something_runs(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0]))
        follower.watch(_under_way(finished[0], 2))
    key = run_key(finished[0].config)
    assert 0 <= recorder.points[key, "system/system_memory_usage_percentage", 0] <= 100
    assert (key, "system/cpu_utilization_percentage", 1) not in recorder.points


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_an_end_before_the_end_is_written_to_every_open_run(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)):
        _break(finished, tmp_path, error)
    key = run_key(finished[0].config)
    assert recorder.status == {key: status, f"{key}/0": status}
    assert recorder.closed


def _break(finished: tuple[Outcome, Store], storage: Path, error: BaseException) -> None:
    with _begun(finished, storage) as follower:
        follower.watch(_under_way(finished[0]))
        raise error


def test_a_storage_folder_that_cannot_be_made_is_named(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    launch = LaunchConfig(storage=str(tmp_path / "file" / "runs"))
    with pytest.raises(InputError, match=r"file/runs cannot be used"), tracked(launch, "stream"):
        pass


def test_a_run_says_which_results_it_needs_before_it_trains(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    outcome, store = finished
    with _begun(finished, tmp_path):
        keys = json.loads((tmp_path / "stream" / "keys.json").read_text())
    assert sorted(keys) == sorted(path.name for path in Path(store.base).glob("??/*"))
    assert {stage.key for stage in (*outcome.prepared.plan.trains, *outcome.prepared.plan.evals)} <= set(keys)
