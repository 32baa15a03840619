"""Tables for the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lcia.codebook import Placement, Route, group_name
from lcia.matrix import AccuracyMatrix, metrics
from lcia.plan import ZERO_SHOT, Plan
from lcia.stats import Comparison, Spread
from lcia.store import Store
from lcia.study import TaskSpread

WIDTH = 160
METRICS = ("avg_acc", "forgetting", "new_acc", "bwt", "maa", "fwt")


def console() -> Console:
    """As wide as the terminal or COLUMNS; where neither is known, wide enough for the columns of a study."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDTH)


def metrics_table(runs: Mapping[str, AccuracyMatrix]) -> Table:
    """The metrics of METHOD 5, a row per run, in percent; a dash where one is undefined."""
    table = Table("run", *METRICS, title="metrics (%); a positive forgetting is bad", title_justify="left")
    for name, scores in runs.items():
        values = metrics(scores)
        table.add_row(name, *("-" if values[m].value is None else f"{values[m].value:.1f}" for m in METRICS))
    return table


def study_table(compared: Mapping[str, Mapping[str, Spread | None]]) -> Table:
    """Mean ± standard deviation over orders and seeds, a row per method."""
    table = Table("method", "runs", *METRICS, title="mean ± standard deviation (%)", title_justify="left")
    for label, values in compared.items():
        found = next((value for value in values.values() if value is not None), None)
        table.add_row(label, str(found.n if found else 0), *(str(values[m] or "-") for m in METRICS))
    return table


def tasks_table(compared: Mapping[str, Mapping[str, TaskSpread]]) -> Table:
    """Two rows per method, as each task was learnt and as it ended, a column per task."""
    names = list(dict.fromkeys(task for tasks in compared.values() for task in tasks))
    table = Table("method", "scored", *names, title="score of each task (%)", title_justify="left")
    for label, tasks in compared.items():
        found = [tasks.get(name, TaskSpread(None, None)) for name in names]
        table.add_row(label, "just learnt", *(str(task.learnt or "-") for task in found))
        table.add_row("", "at the end", *(str(task.final or "-") for task in found))
    return table


def comparison_table(first: str, compared: Mapping[str, Comparison]) -> Table:
    """Paired differences from the first method; a dash where two pairs or more are needed."""
    title = f"avg_acc minus that of {first}, paired by order and seed"
    table = Table("method", "pairs", "difference", "95 % interval", "t test p", "Wilcoxon p", title=title)
    table.title_justify = "left"
    for label, c in compared.items():
        interval = "-" if c.low is None or c.high is None else f"{c.low:+.1f} to {c.high:+.1f}"
        tests = ("-" if p is None else f"{p:.3f}" for p in (c.t_p, c.wilcoxon_p))
        table.add_row(label, str(c.n), f"{c.difference:+.1f}", interval, *tests)
    return table


def plan_rows(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """One record per stage in the order they would run; `state`: "cached" or "to do"."""
    groups = {stage.key: f"g{p.group}" for stage, p in zip(plan.trains, plan.placements, strict=False)}
    rows = [
        {"kind": "train", "label": s.label, "group": groups.get(s.key, "g0"), "key": s.key, "parent": s.parent or ""}
        for s in plan.trains
    ]
    seen: set[str] = set()
    for cell in plan.cells:
        after = "untuned base" if cell.row == ZERO_SHOT else f"after {plan.order[cell.row]}"
        if cell.stage.key not in seen:
            label = f"{cell.stage.task} {after}"
            rows.append(
                {"kind": "eval", "label": label, "group": "", "key": cell.stage.key, "parent": cell.stage.default or ""}
            )
        seen.add(cell.stage.key)
    return [{**row, "state": "cached" if store.has(row["key"]) else "to do"} for row in rows]


def plan_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("stage", "what", "group", "state", "key", "from", title="plan", title_justify="left")
    for row in rows:
        table.add_row(row["kind"], row["label"], row["group"], row["state"], row["key"][:8], row["parent"][:8])
    return table


def counts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows and defects per task and split."""
    table = Table("data", "rows", "bad", "reasons", title="data", title_justify="left")
    for row in rows:
        reasons = ", ".join(f"{name}: {count}" for name, count in row["reasons"].items())
        table.add_row(row["data"], str(row["rows"]), str(row["bad"]), reasons)
    return table


def placements_table(placed: Iterable[tuple[Placement, int]]) -> Table:
    """Which group each task is trained in."""
    table = Table("task", "samples", "group", "decision", "similarity to earlier groups", title="training")
    table.title_justify = "left"
    for p, samples in placed:
        decision = "new" if p.is_new else "joins"
        table.add_row(p.task, str(samples), group_name(p.group), decision, _numbers(p.similarities))
    return table


def routes_table(routed: Iterable[tuple[Route, int]]) -> Table:
    """Which group answers each instruction."""
    table = Table("task", "instruction", "samples", "group", "fallback", "similarities", title="routing at the end")
    table.title_justify = "left"
    for r, samples in routed:
        text, fallback = r.instruction or "(whole file)", "yes" if r.fell_back else ""
        table.add_row(r.task, text, str(samples), group_name(r.group), fallback, _numbers(r.similarities))
    return table


def _numbers(values: Iterable[float]) -> str:
    return "  ".join(f"g{number} {value:.3f}" for number, value in enumerate(values))
