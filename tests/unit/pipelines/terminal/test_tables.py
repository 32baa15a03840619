"""Names of tasks, runs and methods are printed as they are: rich would read `a[/b]` as markup and `:cat:` as a cat."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console, RenderableType

from lcia.grouping.codebook import Placement, Route
from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import Comparison, Spread
from lcia.protocols import Progress
from lcia.report.study_tables import StudyTables
from lcia.studies.compare import TaskSpread
from pipelines.terminal import tables
from pipelines.terminal.progress import table as progress_table

NAMES = ("a[/b]", "[red]", ":cat:", "[link=file:///etc]x[/link]")


def printed(table: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_no_table_reads_a_name_as_markup(name: str) -> None:
    matrix, spread = AccuracyMatrix((name,), np.array([[50.0]])), Spread(50.0, None, 1)
    metrics = dict.fromkeys(tables.METRICS, spread)
    comparison = Comparison(1.0, None, None, None, None, 1)
    study = StudyTables(name, {}, {name: metrics}, {name: metrics}, {name: {name: TaskSpread(spread, spread)}},
                        {"avg_acc": {name: comparison}}, {name: {"minutes": spread, "kept_mb": spread}})  # fmt: skip
    stage = {"kind": "train", "label": name, "group": "g0", "state": "to do", "key": "k", "parent": ""}
    running = Progress("key", "train", name, 1, 2, {})
    made = [
        tables.matrix_table(name, matrix),
        tables.metrics_table({name: matrix}),
        *tables.study_tables(study),
        tables.plan_table([stage]),
        tables.counts_table([{"data": name, "rows": 1, "bad": 1, "reasons": {name: 1}}]),
        tables.placements_table([(Placement(name, 0, True, ()), 1)]),
        tables.routes_table([(Route(name, "test", name, 0, (0.5,), False), 1)]),
        progress_table({"key": running, "done": replace(running, done=True)}),
    ]
    for table in made:
        assert name in printed(table)


def test_a_placement_shows_its_threshold_with_the_gap_it_was_chosen_from() -> None:
    chosen = Placement("a", 1, True, (0.125,), 0.75, 0.25, (0.125, 0.375))
    shown = printed(tables.placements_table([(chosen, 3)]))
    assert "0.750" in shown
    assert "0.250 (gap 0.125 to 0.375)" in shown
