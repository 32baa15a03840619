"""A run on Ray: what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow import MlflowClient

from tests.e2e.conftest import STREAM, lcia


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
    assert [stage["steps"] for stage in stages] == [STREAM["training"]["max_steps"]] * 2


def test_mlflow_holds_the_run_with_a_child_per_task(finished: Path) -> None:
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lcia")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_name: run for run in runs}
    assert set(names) == {"stream", "1. VQAv2", "2. OCR-VQA"}
    history = client.get_metric_history(names["stream"].info.run_id, "acc/VQAv2")
    assert [point.step for point in history] == [1, 2]
    steps = [point.step for point in client.get_metric_history(names["2. OCR-VQA"].info.run_id, "beta_q50")]
    assert steps == list(range(5, STREAM["training"]["max_steps"] + 1, 5))


def test_the_same_command_again_trains_nothing(finished: Path) -> None:
    result = lcia("plan", finished.parent / "run.yaml", "--launch", finished.parent / "launch.yaml", "--json")
    assert result.returncode == 0, result.stderr
    assert {row["state"] for row in json.loads(result.stdout)} == {"cached"}


def test_report_prints_the_summary_of_a_run(finished: Path) -> None:
    result = lcia("report", finished / "stream", "--json")
    assert json.loads(result.stdout)["runs"]["stream"]["metrics"]["avg_acc"]["value"] is not None
