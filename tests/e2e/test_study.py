"""A study on Ray: shared stages are trained once, and Ray gives what one process gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.metrics.matrix import from_json
from lcia.run import run
from lcia.store.folders import Store
from tests.e2e.conftest import call, launch_file, lcia

BASE = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 64, "test_size": 16},
    "training": {"max_steps": 12},
    "strategy": {"kind": "proximal"},
    "grouping": {"enabled": False},
}
STUDY = {
    "name": "orders",
    "base": BASE,
    "orders": "all",
    "vary": {"strategy.beta_min": [0.5, 0.9]},
}


@dataclass(frozen=True)
class Studied:
    """A finished study, and what its command printed."""

    folder: Path
    printed: dict[str, Any]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    result = lcia("study", folder / "study.yaml", "--launch", launch_file(folder, num_workers=1), "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    return Studied(folder, json.loads(result.stdout))


def trainings(folder: Path) -> list[Path]:
    return [path for path in folder.glob("runs/store/??/*/steps.jsonl") if (path.parent / "complete.json").exists()]


def test_first_stages_are_shared_across_bounds_and_none_is_trained_twice(studied: Studied) -> None:
    # 2 orders x 2 bounds x 2 tasks are asked for; the first stage of each order is the same for both bounds.
    assert studied.printed["stages"] == {"asked": 8, "distinct": 6, "trained": 6}


def test_a_finished_study_started_again_trains_nothing(studied: Studied, capsys: pytest.CaptureFixture[str]) -> None:
    folder = studied.folder
    assert call("study", folder / "study.yaml", "--launch", folder / "launch.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stages"]["trained"] == 0


def test_report_prints_what_the_study_printed(studied: Studied, capsys: pytest.CaptureFixture[str]) -> None:
    folder = studied.folder / "runs" / "orders"
    assert call("report", folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in studied.printed if name != "stages"} == {
        name: value for name, value in studied.printed.items() if name != "stages"
    }
    assert set(found["methods"]) == {"lcia, beta_min=0.5", "lcia, beta_min=0.9"}
    assert next(iter(found["runs"])) == "0000-lcia-beta_min_0.5-order1-seed0"
    assert call("report", folder) == 0
    assert "score of each task (%)" in capsys.readouterr().out


def test_ray_gives_the_matrix_that_one_process_gives(studied: Studied, tmp_path: Path) -> None:
    summary = json.loads((studied.folder / "runs" / "orders" / "summary.json").read_text())
    name, wanted = next(iter(summary["runs"].items()))
    config = parse(RunConfig, wanted["config"], name)
    outcome = run([config], LocalExecutor(Store(str(tmp_path))))[0]
    np.testing.assert_array_equal(outcome.matrix.scores, from_json(wanted["matrix"]).scores)


def test_a_training_that_diverges_is_named_and_stops_no_other(tmp_path: Path) -> None:
    base = {**BASE, "strategy": {"kind": "curvature"}}
    study = {"name": "rates", "base": base, "vary": {"training.learning_rate": [1e-3, 1e30]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    launch = launch_file(tmp_path, num_workers=1, tracking={"enabled": False})
    result = lcia("study", tmp_path / "study.yaml", "--launch", launch)
    assert result.returncode == 1
    told = result.stderr[result.stderr.index("lcia: ") :].splitlines()
    assert told[0] == "lcia: 5 of 10 stages failed"
    assert told[1].startswith("  train VQAv2 · curvature: FloatingPointError: ")
    assert told[2].startswith("  not done, because they build on what failed: train OCR-VQA · curvature, eval ")
    assert told[3] == "what is finished is kept. To continue, run the same command again."
    # Both trainings of the other run, which has its figures all the same.
    assert len(trainings(tmp_path)) == 2
    assert "1 of 2 runs failed and are not in these figures: 0001-lcia-learning_rate_1e-30-seed0" in result.stderr
    summary = json.loads((tmp_path / "runs" / "rates" / "summary.json").read_text())
    assert list(summary["methods"]) == ["lcia, learning_rate=0.001"]
    assert summary["failed"] == ["0001-lcia-learning_rate_1e-30-seed0"]
    assert "Traceback" not in result.stderr
