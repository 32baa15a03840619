"""The shipped study on data that nobody here made, cut short: from a root on the command line to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import launch_file, lcia

TASKS = ("shape", "color", "presence", "absence")
FEW = [f"base.benchmark.tasks.{number}.max_samples=12" for number in range(len(TASKS))]
METHODS = "methods={default: {}, plain: {strategy.kind: sequential, grouping.enabled: false}}"


@pytest.fixture(scope="module")
def studied(shared_data: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """What the command printed, and the study's summary."""
    folder = tmp_path_factory.mktemp("easyvqa")
    given = [f"base.benchmark.root={shared_data / 'easyvqa'}", "base.training.max_steps=2", "seeds=[5]", METHODS, *FEW]
    study = root / "configs" / "studies" / "easyvqa.yaml"
    launch = launch_file(folder, num_workers=1, tracking={"enabled": False})
    result = lcia("study", study, *given, "--launch", launch, "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads((folder / "runs" / "easyvqa" / "summary.json").read_text())
    return json.loads(result.stdout), summary


def test_both_methods_of_the_command_line_come_out_with_their_metrics(studied: tuple[Any, Any]) -> None:
    printed, _ = studied
    assert set(printed["methods"]) == {"default", "plain"}
    assert all(values["avg_acc"]["n"] == 1 for values in printed["methods"].values())
    for tasks in printed["tasks"].values():
        assert tuple(tasks) == TASKS
        assert all(task["learnt"]["n"] == task["final"]["n"] == 1 for task in tasks.values())


def test_the_overridden_steps_and_seed_are_those_of_every_run(studied: tuple[Any, Any]) -> None:
    configs = [run["config"] for run in studied[1]["runs"].values()]
    assert [(c["training"]["max_steps"], c["seed"]) for c in configs] == [(2, 5)] * 2


def test_the_kind_of_answer_makes_two_groups(studied: tuple[Any, Any]) -> None:
    grouped = next(run for run in studied[1]["runs"].values() if run["config"]["grouping"]["enabled"])
    assert [(p["task"], p["group"]) for p in grouped["groups"]] == list(zip(TASKS, (0, 0, 1, 1), strict=True))
