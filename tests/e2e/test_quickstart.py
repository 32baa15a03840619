"""The first command that a new user runs, from a folder of their own, with nothing named: it shows what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What `lcia quickstart` prints, and the summary that it leaves below the working folder."""
    folder = tmp_path_factory.mktemp("newcomer")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "quickstart"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads((folder / "runs" / "quickstart" / "summary.json").read_text())


def _metric(summary: dict[str, Any], method: str, name: str) -> float:
    return float(summary["runs"][method]["metrics"][name]["value"])


def test_the_tables_and_the_path_of_the_report_are_printed(quickstart: tuple[str, dict[str, Any]]) -> None:
    printed, _ = quickstart
    assert "avg_acc" in printed
    assert "report.html" in printed


def test_sequential_tuning_forgets_by_more_than_twenty_points(quickstart: tuple[str, dict[str, Any]]) -> None:
    assert _metric(quickstart[1], "sequential", "forgetting") > 20


def test_the_default_method_forgets_less_than_half_of_that(quickstart: tuple[str, dict[str, Any]]) -> None:
    summary = quickstart[1]
    assert _metric(summary, "lcia", "forgetting") < _metric(summary, "sequential", "forgetting") / 2


def test_the_default_method_learns_new_tasks_as_well_within_five_points(
    quickstart: tuple[str, dict[str, Any]],
) -> None:
    summary = quickstart[1]
    assert _metric(summary, "lcia", "new_acc") > _metric(summary, "sequential", "new_acc") - 5


def test_the_summary_holds_seconds_of_every_stage_and_of_the_whole(quickstart: tuple[str, dict[str, Any]]) -> None:
    summary = quickstart[1]
    assert summary["wall_seconds"] > 0
    for method in ("sequential", "lcia"):
        assert all(stage["seconds"] > 0 for stage in summary["runs"][method]["stages"])
        assert len(summary["runs"][method]["matrix"]["scores"]) == 3
