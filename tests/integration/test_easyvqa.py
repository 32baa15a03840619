"""The shipped study on data that nobody here made, cut short, in this process: from overrides to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcia.local import LocalExecutor
from lcia.report.run_folder import Session, write
from lcia.run import run
from lcia.store.folders import Store
from lcia.studies.points import expand
from pipelines.terminal.inputs import study_file

TASKS = ("shape", "color", "presence", "absence")
FEW = [f"base.benchmark.tasks.{number}.max_samples=12" for number in range(len(TASKS))]
METHODS = "methods={default: {}, plain: {strategy.kind: sequential, grouping.enabled: false}}"


@pytest.fixture(scope="module")
def studied(shared_data: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The study's summary."""
    given = [f"base.benchmark.root={shared_data / 'easyvqa'}", "base.training.max_steps=2", "seeds=[5]", METHODS, *FEW]
    points = expand(study_file(root / "configs" / "studies" / "easyvqa.yaml", given))
    folder = tmp_path_factory.mktemp("easyvqa")
    executor = LocalExecutor(Store(str(folder / "store")))
    outcomes = run([point.config for point in points], executor)
    return write(outcomes, Session("easyvqa", 1.0, {}, tuple(points)), executor.store, folder / "easyvqa")


def test_both_methods_of_the_command_line_come_out_with_their_metrics(studied: dict[str, Any]) -> None:
    assert set(studied["methods"]) == {"default", "plain"}
    assert all(values["avg_acc"]["n"] == 1 for values in studied["methods"].values())
    for tasks in studied["tasks"].values():
        assert tuple(tasks) == TASKS
        assert all(task["learnt"]["n"] == task["final"]["n"] == 1 for task in tasks.values())


def test_the_overridden_steps_and_seed_are_those_of_every_run(studied: dict[str, Any]) -> None:
    configs = [run["config"] for run in studied["runs"].values()]
    assert [(c["training"]["max_steps"], c["seed"]) for c in configs] == [(2, 5)] * 2


def test_the_kind_of_answer_makes_two_groups(studied: dict[str, Any]) -> None:
    grouped = next(run for run in studied["runs"].values() if run["config"]["grouping"]["enabled"])
    assert [(p["task"], p["group"]) for p in grouped["groups"]] == list(zip(TASKS, (0, 0, 1, 1), strict=True))
