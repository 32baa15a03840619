"""A run on Ray: what it leaves behind, and that a killed one ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import config_file, launch_file, lcia, start


def test_a_run_leaves_matrix_metrics_predictions_adapters_and_report(finished: Path) -> None:
    folder = finished / "stream"
    summary = json.loads((folder / "summary.json").read_text())["runs"]["stream"]
    assert summary["order"] == ["VQAv2", "OCR-VQA"]
    assert set(summary["metrics"]) >= {"avg_acc", "forgetting", "new_acc", "bwt", "maa", "fwt"}
    assert summary["metrics"]["fwt"]["value"] is None
    assert summary["metrics"]["fwt"]["reason"]
    assert {p.name for p in (folder / "predictions").iterdir()} == {"VQAv2.parquet", "OCR-VQA.parquet"}
    assert (folder / "adapters" / "g0" / "adapter_model.safetensors").is_file()
    assert "<html" in (folder / "report.html").read_text()[:200]


def test_both_workers_trained_and_agreed(finished: Path) -> None:
    stages = json.loads((finished / "stream" / "summary.json").read_text())["runs"]["stream"]["stages"]
    assert [stage["workers"] for stage in stages] == [2, 2]
    assert [stage["steps"] for stage in stages] == [150, 150]


def test_mlflow_holds_the_run_with_a_child_per_task(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lcia")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_name: run for run in runs}
    assert set(names) == {"stream", "1. VQAv2", "2. OCR-VQA"}
    history = client.get_metric_history(names["stream"].info.run_id, "acc/VQAv2")
    assert [point.step for point in history] == [1, 2]
    assert len(client.get_metric_history(names["2. OCR-VQA"].info.run_id, "beta_q50")) == 30


def test_the_same_command_again_trains_nothing(finished: Path) -> None:
    result = lcia("plan", finished.parent / "run.yaml", "--launch", finished.parent / "launch.yaml", "--json")
    assert result.returncode == 0, result.stderr
    assert {row["state"] for row in json.loads(result.stdout)} == {"cached"}


def test_report_prints_the_summary_of_a_run(finished: Path) -> None:
    result = lcia("report", finished / "stream", "--json")
    assert json.loads(result.stdout)["runs"]["stream"]["metrics"]["avg_acc"]["value"] is not None


@pytest.mark.parametrize("victim", ["worker", "everything"])
def test_a_killed_run_continues_and_ends_with_the_same_bits(finished: Path, tmp_path: Path, victim: str) -> None:
    config, launch = config_file(tmp_path), launch_file(tmp_path)
    process = start("run", config, "--launch", launch)
    _wait_for_checkpoint(tmp_path / "runs" / "store")
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "RayTrainWorker" in _title(child)]
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    if victim == "worker":
        assert process.wait(timeout=400) == 0
    else:
        # Driver and workers at once, as when a machine is lost; workers that only lost their driver may still finish.
        workers[1].send_signal(signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        psutil.wait_procs(children, timeout=60)
        again = lcia("run", config, "--launch", launch)
        assert again.returncode == 0, again.stderr[-3000:]
    _assert_resumed_to_the_same_bits(tmp_path / "runs", finished)


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(finished: Path, tmp_path: Path) -> None:
    command = ("run", config_file(tmp_path), "--launch", launch_file(tmp_path))
    process = start(*command)
    _wait_for_checkpoint(tmp_path / "runs" / "store")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err[-3000:]
    assert "To continue, run the same command again." in err
    assert "Traceback" not in err
    again = lcia(*command)
    assert again.returncode == 0, again.stderr[-3000:]
    _assert_resumed_to_the_same_bits(tmp_path / "runs", finished)


def _assert_resumed_to_the_same_bits(storage: Path, finished: Path) -> None:
    stages = json.loads((storage / "stream" / "summary.json").read_text())["runs"]["stream"]["stages"]
    assert any("resumed_at" in stage for stage in stages)
    for key in (stage["key"] for stage in stages):
        assert _adapter(storage, key) == _adapter(finished, key)


def _title(process: psutil.Process) -> str:
    """The name that Ray gives its worker; empty for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _wait_for_checkpoint(store: Path) -> None:
    """Until the second stage has left a mid-stage checkpoint."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        published = {path.parent.name for path in store.glob("??/*/steps.jsonl")}
        # The first stage's own checkpoints may still lie there for a moment after it is published.
        if published and {path.parent.parent.name for path in store.glob("partial/*/*/complete.json")} - published:
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint appeared")


def _adapter(storage: Path, key: str) -> bytes:
    return (storage / "store" / key[:2] / key / "adapter_model.safetensors").read_bytes()
