"""A run on Ray: what it leaves behind, and that it ends with the same bits if something was killed on the way."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from lcia.store.lease import ATTEMPTS
from tests.e2e.conftest import STREAM, call, config_file, launch_file, lcia, start, training_workers

JUDGE = str(Path(__file__).parents[1] / "programs" / "judge.py")

pytestmark = pytest.mark.timeout(1200)  # a test starts Ray up to three times


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a run of two tasks on two workers that nothing disturbed; a command judges each adapter."""
    folder = tmp_path_factory.mktemp("finished")
    judge = [sys.executable, JUDGE, "{output}", str(folder / "judged")]
    external = {"command": [*judge, "{adapter}"], "untuned": judge, "metrics": ["results/pope/accuracy,none"]}
    result = lcia("run", config_file(folder, evaluation={"external": external}), "--launch", launch_file(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "runs"


def test_a_run_leaves_matrix_metrics_predictions_adapters_and_report(finished: Path) -> None:
    folder = finished / "stream"
    summary = json.loads((folder / "summary.json").read_text())["runs"]["stream"]
    assert summary["order"] == ["VQAv2", "OCR-VQA"]
    assert set(summary["metrics"]) >= {"avg_acc", "forgetting", "new_acc", "bwt", "maa", "fwt"}
    assert summary["metrics"]["fwt"]["value"] is None
    assert summary["metrics"]["fwt"]["reason"]
    kept = {p.relative_to(folder / "predictions").as_posix() for p in folder.glob("predictions/*/*")}
    assert kept == {"1-VQAv2/VQAv2.parquet", "2-OCR-VQA/VQAv2.parquet", "2-OCR-VQA/OCR-VQA.parquet"}
    assert (folder / "adapters" / "g0" / "adapter_model.safetensors").is_file()
    assert "<html" in (folder / "report.html").read_text()[:200]


def test_both_workers_trained_and_agreed(finished: Path) -> None:
    stages = json.loads((finished / "stream" / "summary.json").read_text())["runs"]["stream"]["stages"]
    assert [stage["workers"] for stage in stages] == [2, 2]
    assert [stage["steps"] for stage in stages] == [STREAM["training"]["max_steps"]] * 2


def test_mlflow_holds_the_run_with_a_child_per_task(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lcia")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_name: run for run in runs}
    assert set(names) == {"stream", "stream: 1. VQAv2", "stream: 2. OCR-VQA"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    history = client.get_metric_history(names["stream"].info.run_id, "acc/VQAv2")
    assert [point.step for point in history] == [1, 2]
    points = client.get_metric_history(names["stream: 2. OCR-VQA"].info.run_id, "beta_q50")
    # In the order of their times, as a plot has them: some arrive while the stage trains, the rest when it has ended.
    steps = [point.step for point in sorted(points, key=lambda point: (point.timestamp, point.step))]
    assert steps == list(range(5, STREAM["training"]["max_steps"] + 1, 5))


def test_every_adapter_was_judged_once_by_the_command(finished: Path) -> None:
    assert sorted((finished.parent / "judged").read_text().split()) == ["adapter", "adapter", "base"]
    table = json.loads((finished / "stream" / "summary.json").read_text())["runs"]["stream"]["general"]
    # The stand-in says 1/4 and a sixteenth for every rank, which is 8.
    assert (table["external"], table["values"]) == (["results/pope/accuracy,none"], [[0.25], [0.75], [0.75]])
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("lcia").experiment_id], "attributes.run_name = 'stream'")
    [metric] = [name for name in run.data.metrics if name.startswith("general/")]
    points = client.get_metric_history(run.info.run_id, metric)
    assert {point.step: point.value for point in points} == {0: 0.25, 1: 0.75, 2: 0.75}


def test_the_same_command_again_trains_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", finished.parent / "run.yaml", "--launch", finished.parent / "launch.yaml", "--json") == 0
    assert {row["state"] for row in json.loads(capsys.readouterr().out)} == {"cached"}


def test_runs_lists_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("runs", "--storage", finished, "--json") == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["state"]) == ("stream", "finished")
    assert listed["runs"][0]["avg_acc"] is not None


def test_report_prints_the_summary_of_a_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", finished / "stream", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"]["stream"]["metrics"]["avg_acc"]["value"] is not None


# Killed and damaged -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repaired:
    """A finished run of which a result of each kind was damaged, run again; there a worker was killed in mid-stage."""

    folder: Path
    damaged: list[Path]
    newest: int
    """The step of the newest checkpoint when the worker was killed."""
    code: int
    err: str


@pytest.fixture(scope="module")
def repaired(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Repaired:
    folder = tmp_path_factory.mktemp("repaired")
    shutil.copytree(finished / "store", folder / "runs" / "store")
    damaged = [_results(folder, "shard")[0], _second_training(folder, finished), _results(folder, "eval")[0]]
    for result in damaged:
        _flip(max(result.iterdir(), key=lambda file: file.stat().st_size))
    process = _start(folder)
    _wait_for(folder, random.Random("worker").randint(10, 25))
    newest = int(_checkpoints(folder)[-1].name)
    first, _ = training_workers(process)
    first.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=400)
    return Repaired(folder, damaged, newest, process.returncode, err)


def test_a_run_whose_worker_was_killed_ends_by_itself(finished: Path, repaired: Repaired) -> None:
    assert repaired.code == 0, repaired.err[-3000:]
    [stage] = [stage for stage in _stages(repaired.folder) if "resumed_at" in stage]
    [step] = stage["resumed_at"]
    # The worker may have gone a step or two further before it was met.
    assert repaired.newest <= step <= repaired.newest + 10
    _assert_same_bits(repaired.folder, finished)


def test_damaged_results_of_every_kind_are_made_again_and_the_rest_can_be_cleaned(
    repaired: Repaired, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = repaired.folder
    for result in repaired.damaged:
        assert f"{result} is damaged" in repaired.err
    assert call("clean", "--storage", folder / "runs", "--unreferenced", "--yes") == 0
    assert capsys.readouterr().out.count("damaged result, set aside") == 3
    assert call("plan", folder / "run.yaml", "--launch", folder / "launch.yaml", "--json") == 0
    assert {row["state"] for row in json.loads(capsys.readouterr().out)} == {"cached"}


def test_the_same_command_goes_on_after_a_lost_machine_a_newer_attempt_and_ctrl_c(
    finished: Path, tmp_path: Path
) -> None:
    _copy_first_stage(finished, tmp_path)
    process, steps = _start(tmp_path), random.Random("machine")
    _wait_for(tmp_path, steps.randint(10, 20))
    everything = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for victim in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait()
    assert psutil.wait_procs(everything, timeout=60)[1] == []
    before, newest = _checkpoints(tmp_path)[-2:]
    _flip(newest / "state.safetensors")

    older = _start(tmp_path)
    _wait_for(tmp_path, steps.randint(25, 35))
    # As a scheduler does that starts a run again while its last attempt still lives.
    with _paused(*training_workers(older)):
        attempts = _attempts(tmp_path)
        newer = _start(tmp_path)
        _wait_until(lambda: _attempts(tmp_path) != attempts, "no newer attempt appeared")
    said = older.communicate(timeout=300)[1]
    assert older.returncode == 1
    told = f"damaged checkpoints passed over: {newest.name}; continued after step {int(before.name)}"
    assert told in said
    assert "another attempt at 'stream' has begun in this storage, so this one" in said
    _wait_for(tmp_path, steps.randint(45, 60))
    _stop_by_ctrl_c(newer)
    [mirrored] = _mlflow_runs(tmp_path, "stream")
    assert mirrored.info.status == "KILLED"
    interrupted = int(_checkpoints(tmp_path)[-1].name)

    again = lcia(*_command(tmp_path))
    assert again.returncode == 0, again.stderr[-3000:]
    assert told in (tmp_path / "runs" / "stream" / "report.html").read_text()
    [stage] = [stage for stage in _stages(tmp_path) if "resumed_at" in stage]
    assert (stage["resumed_at"][0], stage["resumed_at"][-1]) == (int(before.name), interrupted)
    assert len(stage["resumed_at"]) == 3
    assert stage["damaged_checkpoints"] == [newest.name]
    [mirrored] = _mlflow_runs(tmp_path, "stream")
    assert mirrored.info.status == "FINISHED"
    _assert_same_bits(tmp_path, finished)


def _stop_by_ctrl_c(process: subprocess.Popen[str]) -> None:
    """Ends a run as a user would, who is told how to go on."""
    of_ray = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err[-3000:]
    assert psutil.wait_procs(of_ray, timeout=60)[1] == []
    assert "To continue, run the same command again." in err
    assert "Traceback" not in err


def _mlflow_runs(folder: Path, name: str) -> list[Any]:
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lcia")
    return list(client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'"))


def _copy_first_stage(finished: Path, home: Path) -> None:
    """The finished run's store without its second training and without any answers."""
    shutil.copytree(finished / "store", home / "runs" / "store")
    for result in (_second_training(home, finished), *_results(home, "eval")):
        shutil.rmtree(result)


def _start(folder: Path) -> subprocess.Popen[str]:
    config_file(folder)
    launch_file(folder)
    return start(*_command(folder))


def _wait_for(folder: Path, step: int) -> None:
    """Until the second stage has two checkpoints at least, the newest of that step or a later one."""
    _wait_until(lambda: len(found := _checkpoints(folder)) >= 2 and int(found[-1].name) >= step, "no checkpoint came")


def _wait_until(true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


@contextlib.contextmanager
def _paused(*processes: psutil.Process) -> Iterator[None]:
    """Holds processes, so that they cannot get further before something else has begun."""
    for one in processes:
        one.suspend()
    try:
        yield
    finally:
        for one in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()


def _attempts(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "runs" / ATTEMPTS / "stream"))


def _results(home: Path, kind: str) -> list[Path]:
    records = sorted((home / "runs" / "store").glob("??/*/stage.json"))
    return [record.parent for record in records if json.loads(record.read_text())["kind"] == kind]


def _second_training(home: Path, finished: Path) -> Path:
    """The second stage's folder in a copy of the finished run's store."""
    key = _stages(finished.parent)[1]["key"]
    return home / "runs" / "store" / key[:2] / key


def _command(folder: Path) -> tuple[object, ...]:
    return ("run", folder / "run.yaml", "--launch", folder / "launch.yaml")


def _checkpoints(folder: Path) -> list[Path]:
    """Mid-stage checkpoints of the second stage, oldest first."""
    store = folder / "runs" / "store"
    published = {path.parent.name for path in store.glob("??/*/steps.jsonl")}
    # The first stage's own checkpoints may still lie there for a moment after it is published.
    complete = (path.parent for path in store.glob("partial/*/*/complete.json") if published)
    return sorted(path for path in complete if path.parent.name not in published and path.name.isdigit())


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _stages(folder: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = json.loads((folder / "runs" / "stream" / "summary.json").read_text())["runs"][
        "stream"
    ]["stages"]
    return stages


def _assert_same_bits(folder: Path, finished: Path) -> None:
    """Adapters, importances and statistics of every stage."""
    for key in (stage["key"] for stage in _stages(folder)):
        one, two = (storage / "store" / key[:2] / key for storage in (folder / "runs", finished))
        for name in ("adapter_model.safetensors", "kept.safetensors", "steps.jsonl"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} of {key}"
