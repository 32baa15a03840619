"""bench/gpu.sh at a small shape on the CPU, so that on a GPU it works at the first call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.ema import RULES
from bench.ema_oracle import RULES as EXACT

ABSENT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        absent = name.split(".")[0] in ("ray", "mlflow", "typer")
        return None if absent else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def called(root: Path, folder: Path, *words: str) -> str:
    """What bench/gpu.sh prints on a machine without ray, mlflow and typer."""
    (folder / "sitecustomize.py").write_text(ABSENT)
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder), "OUT": str(folder)}
    command = [str(root / "bench" / "gpu.sh"), *words, "--shape", "tiny", "--device", "cpu", "--steps", "1"]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def day(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The figures and what is printed."""
    folder = tmp_path_factory.mktemp("day")
    printed = called(root, folder)
    return json.loads((folder / "gpu-day.json").read_text()), printed


def test_every_rule_is_exact_in_both_precisions(day: tuple[dict[str, Any], str]) -> None:
    exact = day[0]["exactness"]
    assert set(exact) == {f"{rule} {precision}" for rule in EXACT for precision in ("float32", "float64")}
    assert all(errors["good"] for errors in exact.values())


def test_every_rule_has_its_share_of_a_step(day: tuple[dict[str, Any], str]) -> None:
    steps = day[0]["training"]
    assert set(steps) == {"none", *RULES, "kronecker_16", "kronecker_64"}
    assert all(0 < steps[rule]["hook_ms"] < steps[rule]["step_ms"] for rule in set(steps) - {"none"})


def test_rows_are_looked_back_at_with_as_many_directions_as_are_measured(day: tuple[dict[str, Any], str]) -> None:
    found, printed = day
    assert set(found["looking_back"]) == {"rows", "k16", "k64"}
    assert min(found["looking_back"][k]["ms"] for k in ("k16", "k64")) > 0
    assert "looking back at" in printed


def test_tasks_are_trained_and_answered_by_the_projects_own_loop(day: tuple[dict[str, Any], str]) -> None:
    assert 0 <= day[0]["whole_way"]["avg_acc"] <= 100


def test_the_table_stands_last(day: tuple[dict[str, Any], str]) -> None:
    found, printed = day
    assert printed.splitlines()[-1].startswith("largest share")
    assert all(f"\n{rule} " in printed for rule in found["training"])
    assert min(found["generation"]["beside"], found["generation"]["merged"]) > 0


def test_the_other_call_measures_strategies_in_steps_of_a_llava(root: Path, tmp_path: Path) -> None:
    called(root, tmp_path, "--llava", "--strategies", "paper")
    assert set(json.loads((tmp_path / "gpu-llava.json").read_text())["training"]) == {"sequential", "paper"}
