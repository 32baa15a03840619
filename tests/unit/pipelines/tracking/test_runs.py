"""What of a run goes to MLflow, and in which state its runs end; no MLflow is started."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.metrics.companion import Companion, to_json
from lcia.metrics.matrix import metrics
from lcia.protocols import Progress
from lcia.report import signs
from lcia.report.run_folder import Session, write
from lcia.run import Outcome, run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions
from pipelines.launch import LaunchConfig
from pipelines.tracking import runs
from pipelines.tracking.mirror import Mirror, MirrorRun, Point
from pipelines.tracking.runs import RunTracker, run_key, tracked
from pipelines.tracking.sender import Send, Sender

VALUES = {
    "name": "stream",
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 8, "test_size": 2},
    "training": {"max_steps": 2, "batch_size": 4},
    "seed": 5,
    "grouping": {"enabled": True, "threshold": 0.4},
}


class Recorder(Mirror):
    """A mirror that keeps what it is sent."""

    def __init__(self, *_: object) -> None:
        self.begun: dict[str, MirrorRun] = {}
        self.status: dict[str, str] = {}
        self.whole: set[str] = set()
        self.sent: dict[tuple[str, str, int | None], Point] = {}
        self.files: list[tuple[str, str, str | None]] = []

    def has_all_of(self, key: str) -> bool:
        return key in self.whole

    def begin(self, run: MirrorRun, at: int) -> None:
        self.begun[run.key] = run
        self.status[run.key] = "RUNNING"

    def end(self, key: str, status: str, at: int) -> None:
        self.status[key] = status

    def points(self, key: str, points: Iterable[Point]) -> None:
        for point in points:
            self.sent.setdefault((key, point.name, point.step), point)

    def file(self, key: str, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.files.append((key, path.name, folder))

    def dataset(self, key: str, name: str, digest: str, source: str) -> None:
        assert key in self.begun


class AtOnce(Sender):
    """Sends to the recorder in the thread that puts, so that a test sees it at once."""

    closed = False

    def __init__(self, mirror: Mirror, may_send: Callable[[], bool]) -> None:
        self._recorder = mirror

    def put(self, what: str, send: Send) -> None:
        send(self._recorder)

    def close(self, timeout: float = 30.0) -> None:
        AtOnce.closed = True


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Store]:
    store = Store(str(tmp_path_factory.mktemp("runs") / "store"))
    executor = LocalExecutor(store, TrainOptions(micro_batch=4, logging_steps=1))
    return run([parse(RunConfig, VALUES, "test")], executor)[0], store


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(runs, "Mirror", lambda *_: recorder)
    monkeypatch.setattr(runs, "Sender", AtOnce)
    return recorder


@contextmanager
def _begun(finished: tuple[Outcome, Store], storage: Path) -> Iterator[RunTracker]:
    outcome, store = finished
    with tracked(LaunchConfig(storage=str(storage)), storage / "stream", "stream") as follower:
        follower.begin([outcome.prepared], store)
        yield follower


def _written(finished: tuple[Outcome, Store], folder: Path) -> Path:
    """The run folder of the finished run."""
    write([finished[0]], Session("stream", 1.0, {}), finished[1], folder)
    return folder


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
        points = {(name, step): point.value for (key, name, step), point in recorder.sent.items() if key == child}
        assert points == {("loss", 1): 2.5, ("samples_per_second", 1): 40.0}


def test_a_point_that_was_not_seen_is_as_old_as_the_next_one_that_was(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.runs.time.time", lambda: 7.0)
    child = f"{run_key(finished[0].config)}/0"
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0], 2))
        follower.watch({key: replace(stage, done=True) for key, stage in _under_way(finished[0], 2).items()})
    assert recorder.sent[child, "loss", 1].at == 7000
    assert recorder.sent[child, "loss", 2].value == 2.5


def test_a_stage_that_was_in_the_store_is_shown_as_finished_with_its_curve(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    key = run_key(finished[0].config)
    with _begun(finished, tmp_path) as follower:
        follower.finish(_written(finished, tmp_path / "stream"))
    assert recorder.status == dict.fromkeys([key, f"{key}/0", f"{key}/1"], "FINISHED")
    assert [step for run, name, step in recorder.sent if (run, name) == (f"{key}/1", "loss")] == [1, 2]
    assert recorder.sent[f"{key}/1", "train_samples_per_second", 2].value > 0
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    assert {name for run, name, folder in recorder.files if (run, folder) == (f"{key}/1", "adapter")} == adapter


def test_a_stage_that_mlflow_has_is_left_as_it_is(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    key = run_key(finished[0].config)
    recorder.whole = {f"{key}/0"}
    with _begun(finished, tmp_path) as follower:
        follower.finish(_written(finished, tmp_path / "stream"))
    assert set(recorder.begun) == {key, f"{key}/1"}


def test_what_the_run_folder_says_is_sent_and_nothing_else(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    outcome, key = finished[0], run_key(finished[0].config)
    with _begun(finished, tmp_path) as follower:
        follower.finish(_written(finished, tmp_path / "stream"))
    sent = {(name, step): point.value for (run, name, step), point in recorder.sent.items() if run == key}
    scores = outcome.matrix.scores
    accuracies = {("acc/VQAv2", 1): scores[0, 0], ("acc/VQAv2", 2): scores[1, 0], ("acc/OCR-VQA", 2): scores[1, 1]}
    figures = {(name, 2): m.value for name, m in metrics(outcome.matrix).items() if m.value is not None}
    watched = {
        (f"watch/{name}", number): value
        for number, stage in enumerate(signs.watch(outcome).stages, start=1)
        for name in ("fell", "gain", "at_bound", "kl")
        if (value := getattr(stage, name)) is not None
    }
    assert ("watch/kl", 2) in watched
    [run] = json.loads((tmp_path / "stream" / "summary.json").read_text())["runs"].values()
    assert sent == {**accuracies, **figures, **watched, ("watch/warnings", 2): len(run["warnings"])}
    assert [name for run, name, _ in recorder.files if run == key] == ["report.html", "summary.json"]


def test_what_was_looked_at_beside_the_stream_is_sent_by_the_tasks_learnt(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    outcome, key = finished[0], run_key(finished[0].config)
    with _begun(finished, tmp_path) as follower:
        folder = _written(finished, tmp_path / "stream")
        summary = json.loads((folder / "summary.json").read_text())
        values = np.array([[50.0, 0.5], [np.nan, 0.25], [40.0, np.nan]])
        table = Companion(("POPE",), ("mme/score",), ("(zero-shot)", *outcome.matrix.tasks), values)
        summary["runs"]["stream"]["general"] = to_json(table)
        (folder / "summary.json").write_text(json.dumps(summary))
        follower.finish(folder)
    sent = {(name, step): p.value for (run, name, step), p in recorder.sent.items() if run == key and "general" in name}
    assert sent == {
        ("general/POPE", 0): 50.0,
        ("general/POPE", 2): 40.0,
        ("general/mme/score", 0): 0.5,
        ("general/mme/score", 1): 0.25,
    }


def test_a_stage_says_what_tells_it_from_the_others(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    outcome = finished[0]
    with _begun(finished, tmp_path) as follower:
        follower.finish(_written(finished, tmp_path / "stream"))
    key = run_key(outcome.config)
    child, stage = recorder.begun[f"{key}/1"], outcome.prepared.plan.trains[1]
    assert (child.name, child.parent) == ("stream: 2. OCR-VQA", key)
    facts = {"run": "stream", "task": "OCR-VQA", "position": 2, "order": "VQAv2, OCR-VQA", "seed": 5, "group": "g0",
             "rows": 8}  # fmt: skip
    assert facts.items() <= child.params.items()
    assert {name: str(value) for name, value in facts.items()}.items() <= child.tags.items()
    assert (child.params["stage"], child.params["parent_stage"]) == (stage.key, stage.parent)
    assert child.params["strategy"]["kind"] == outcome.config.strategy.kind
    assert child.params["training"]["batch_size"] == 4
    assert child.params["lora"]["r"] == outcome.config.lora.r


def test_every_run_names_its_user_program_and_commit(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.tracking.surroundings.environment", lambda: {"commit": "abc1234"})
    monkeypatch.setattr("sys.argv", ["/usr/bin/lcia", "run", "secret.yaml"])
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0]))
    for one in recorder.begun.values():
        assert one.tags["mlflow.user"] == getpass.getuser()
        assert one.tags["mlflow.source.name"] == "lcia run"
        assert one.tags["mlflow.source.git.commit"] == "abc1234"


def test_the_machine_is_looked_at_while_something_runs(
    finished: tuple[Outcome, Store], recorder: Recorder, tmp_path: Path
) -> None:
    with _begun(finished, tmp_path) as follower:
        follower.watch(_under_way(finished[0]))
        follower.watch(_under_way(finished[0], 2))
    key = run_key(finished[0].config)
    assert 0 <= recorder.sent[key, "system/system_memory_usage_percentage", None].value <= 100


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
    assert AtOnce.closed


def _break(finished: tuple[Outcome, Store], storage: Path, error: BaseException) -> None:
    with _begun(finished, storage) as follower:
        follower.watch(_under_way(finished[0]))
        raise error
