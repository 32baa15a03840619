"""A study through Ray Tune: shared stages are trained once, and Ray gives what one process gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from lcia.config import RunConfig
from lcia.load import parse
from lcia.local import LocalExecutor
from lcia.matrix import from_json
from lcia.run import run
from lcia.store import Store
from tests.e2e.conftest import launch_file, lcia

BASE = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 64, "test_size": 16},
    "training": {"max_steps": 6},
    "strategy": {"kind": "proximal"},
    "grouping": {"enabled": False},
}
STUDY = {"name": "orders", "base": BASE, "orders": "all", "vary": {"strategy.beta_min": [0.5, 0.9]}}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    result = lcia("study", folder / "study.yaml", "--launch", launch_file(folder, num_workers=1), "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, json.loads(result.stdout)


def test_first_stages_are_shared_across_bounds(studied: tuple[Path, dict[str, object]]) -> None:
    # 2 orders x 2 bounds x 2 tasks are asked for; the first stage of each order is the same for both bounds.
    assert studied[1]["stages"] == {"asked": 8, "distinct": 6, "trained": 6}


def test_a_study_started_again_trains_nothing(studied: tuple[Path, dict[str, object]]) -> None:
    folder = studied[0]
    result = lcia("study", folder / "study.yaml", "--launch", folder / "launch.yaml", "--json")
    assert json.loads(result.stdout)["stages"]["trained"] == 0


def test_ray_gives_the_matrix_that_one_process_gives(studied: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    summary = json.loads((studied[0] / "runs" / "orders" / "summary.json").read_text())
    name, wanted = next(iter(summary["runs"].items()))
    config = parse(RunConfig, wanted["config"], name)
    outcome = run([config], LocalExecutor(Store(str(tmp_path))))[0]
    np.testing.assert_array_equal(outcome.matrix.scores, from_json(wanted["matrix"]).scores)
