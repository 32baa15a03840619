"""Tables for the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lcia.data.inventory import Item
from lcia.grouping.codebook import Placement, Route, group_name
from lcia.metrics.companion import Companion
from lcia.metrics.matrix import MEASURES, AccuracyMatrix, metrics
from lcia.metrics.overlap import Overlap
from lcia.metrics.stats import Comparison, Spread
from lcia.plan import ZERO_SHOT, Plan
from lcia.report import wording
from lcia.report.study_tables import Spreads, StudyTables, reach
from lcia.stage import Asked
from lcia.studies.compare import GeneralSpread, OrderEffect, TaskSpread

WIDTH = 160
METRICS = tuple(name for name, measure in MEASURES.items() if measure.in_tables)
STUDY_METRICS = ("avg_acc", "forgetting", "new_acc", "maa")
STUDY_COSTS = ("minutes", "kept_mb")


def console() -> Console:
    """As wide as the terminal or COLUMNS; where neither is known, wide enough for the columns of a study."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDTH, markup=False, emoji=False)


def new_table(title: str, *columns: str) -> Table:
    """An empty table; names of tasks, runs and methods are data, so nothing in them is read as markup."""
    table = Table(*(Column(Text(column)) for column in columns), title_justify="left", caption_justify="left")
    table.title = Text(title, style="table.title")
    return table


def add_row(table: Table, *cells: str) -> None:
    """A row whose cells are printed as they are."""
    table.add_row(*(Text(cell) for cell in cells))


def matrix_table(name: str, scores: AccuracyMatrix) -> Table:
    """Accuracy on each task (columns) after training each task (rows)."""
    table = new_table(f"{name}: accuracy (%)", "after training", *scores.tasks)
    for label, values in scores.rows():
        add_row(table, label, *("" if value != value else f"{value:.1f}" for value in values))
    return table


def metrics_table(runs: Mapping[str, AccuracyMatrix]) -> Table:
    """The metrics of docs/method.md 5, a row per run, in percent; a dash where one is undefined."""
    table = new_table("metrics (%); a positive forgetting is bad", "run", *METRICS)
    for name, scores in runs.items():
        values = metrics(scores)
        add_row(table, name, *("-" if values[m].value is None else f"{values[m].value:.1f}" for m in METRICS))
    return table


def companion_table(name: str, table: Companion) -> Table:
    """Figures beside the matrix: of tasks that are never trained, in percent, and of commands, as they give them."""
    found = new_table(f"{name}: general ability", "after training", *table.columns)
    for label, values in table.rows():
        add_row(found, label, *(wording.number(value, 1 if at < len(table.tasks) else 4)
                                for at, value in enumerate(values.tolist())))  # fmt: skip
    add_row(found, "change", *(wording.number(change, 1 if name in table.tasks else 4)
                               for name, change in table.changes().items()))  # fmt: skip
    return found


def study_tables(tables: StudyTables) -> list[Table]:
    """Every table of a study."""
    found = [_methods_table(tables)]
    found += [_comparison_table(metric, tables.reference, compared) for metric, compared in tables.comparisons.items()]
    found.append(tasks_table(tables.tasks))
    if tables.general:
        found.append(_general_table(tables))
    if tables.effects:
        found.append(_effects_table(tables.effects))
    return [*found, _orders_table(tables.orders)] if tables.orders else found


def _methods_table(tables: StudyTables) -> Table:
    """Mean ± standard deviation over orders and seeds, and the mean costs of a run; a row per method."""
    table = new_table("mean ± standard deviation (%)", "method", "runs", *STUDY_METRICS, "minutes", "kept MB")
    for label, values in tables.methods.items():
        costs = tables.costs.get(label, {})
        name = wording.marked(label, tables.old_data)
        add_row(table, name, *_spreads(values), *(wording.number(costs.get(name), 2) for name in STUDY_COSTS))
    told = "minutes: trainings of one run, shared ones included; kept MB: beside the adapter of a group"
    told += f". {wording.OLD_DATA_NOTE}" if tables.old_data else ""
    table.caption = Text(told, style="table.caption")
    return table


def _orders_table(compared: Spreads) -> Table:
    """Mean ± standard deviation over seeds, a row per method and order."""
    table = new_table("mean ± standard deviation over seeds (%)", "method, order", "runs", *STUDY_METRICS)
    for label, values in compared.items():
        add_row(table, label, *_spreads(values))
    return table


def _spreads(values: Mapping[str, Spread | None]) -> Iterator[str]:
    """Runs and metrics of a row."""
    yield str(wording.count(values.values()))
    yield from (wording.with_spread(values.get(name)) for name in STUDY_METRICS)


def tasks_table(compared: Mapping[str, Mapping[str, TaskSpread]]) -> Table:
    """Two rows per method, as each task was learnt and as it ended, a column per task."""
    names = list(dict.fromkeys(task for tasks in compared.values() for task in tasks))
    table = new_table("score of each task (%)", "method", "scored", *names)
    for label, tasks in compared.items():
        found = [tasks.get(name, TaskSpread(None, None)) for name in names]
        add_row(table, label, "just learnt", *(wording.with_spread(task.learnt) for task in found))
        add_row(table, "", "at the end", *(wording.with_spread(task.final) for task in found))
    return table


def _general_table(tables: StudyTables) -> Table:
    """Three rows per method, before training, at the end and what changed, a column per figure beside the stream."""
    names = tables.general_names
    table = new_table("general ability: tasks that are never trained (%), figures of commands", "method", "", *names)
    for label, found in tables.general.items():
        for place, key in (("before training", "before"), ("at the end", "final"), ("change", "change")):
            cells = (_general_cell(found.get(name), key) for name in names)
            add_row(table, label if key == "before" else "", place, *cells)
    return table


def _general_cell(found: GeneralSpread | None, key: str) -> str:
    return wording.with_spread(found.spreads[key], 1 if found.percent else 4) if found else wording.number(None)


def _effects_table(effects: Mapping[str, OrderEffect]) -> Table:
    """What the order of tasks does, beside what seeds do."""
    columns = ("method", "orders", "mean", "sd between orders", "sd of seeds", "worst order", "its mean")
    table = new_table("avg_acc (%) by order of the tasks", *columns)
    for label, e in effects.items():
        numbers = (wording.number(value) for value in (e.mean, e.between, e.within))
        add_row(table, label, str(e.orders), *numbers, e.worst, wording.number(e.worst_mean))
    return table


def _comparison_table(metric: str, reference: str, compared: Mapping[str, Comparison]) -> Table:
    """Paired differences from the reference; a dash where two pairs with different results are needed."""
    title = f"{metric} minus that of {reference}, paired by order and seed"
    table = new_table(title, "method", "n", "difference [95 %]", "d", "p t", "p Holm", "p Wilcoxon", "p Holm, Wilcoxon")
    for label, c in compared.items():
        wilcoxon = (wording.p_value(p) for p in (c.wilcoxon_p, c.wilcoxon_holm))
        tests = (wording.number(c.d, 2), wording.p_value(c.t_p), wording.corrected(c), *wilcoxon)
        add_row(table, label, str(c.n), wording.difference(c), *tests)
    table.caption = Text(reach(compared), style="table.caption")
    return table


def plan_rows(plan: Plan, is_cached: Callable[[str], bool]) -> list[dict[str, Any]]:
    """One record per stage in the order they would run; `state`: "cached" or "to do", asked of a stage's key."""
    groups = {stage.key: f"g{p.group}" for stage, p in zip(plan.trains, plan.placements, strict=False)}
    rows = [
        {"kind": "train", "label": s.label, "group": groups.get(s.key, "g0"), "key": s.key, "parent": s.parent or ""}
        for s in plan.trains
    ]
    asked: list[tuple[int, str, Asked, str | None]]
    asked = [(cell.row, cell.stage.task, cell.stage, cell.stage.default) for cell in plan.cells]
    asked += [(cell.row, f"{cell.stage.task} (general)", cell.stage, cell.stage.default) for cell in plan.general_cells]
    asked += [(judged.row, "command", judged.stage, judged.stage.adapter) for judged in plan.judged]
    seen: set[str] = set()
    for row, what, stage, parent in asked:
        after = "untuned base" if row == ZERO_SHOT else f"after {plan.order[row]}"
        if stage.key not in seen:
            rows.append({"kind": stage.kind, "label": f"{what} {after}", "group": "", "key": stage.key,
                         "parent": parent or ""})  # fmt: skip
        seen.add(stage.key)
    return [{**row, "state": "cached" if is_cached(row["key"]) else "to do"} for row in rows]


def plan_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per stage."""
    table = new_table("plan", "stage", "what", "group", "state", "key", "from")
    for row in rows:
        add_row(table, row["kind"], row["label"], row["group"], row["state"], row["key"][:8], row["parent"][:8])
    return table


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per grouping, from low thresholds to high ones."""
    table = new_table("groupings", "threshold", "width", "adapters", "answered by own group", "groups", "")
    for row in rows:
        groups = "  |  ".join(", ".join(tasks) for tasks in row["groups"])
        stretch, home = f"{row['low']:.3f} to {row['high']:.3f}", f"{100 * row['at_home']:.1f} %"
        mark = "suggested" if row["suggested"] else ""
        add_row(table, stretch, f"{row['high'] - row['low']:.3f}", str(len(row["groups"])), home, groups, mark)
    return table


def trials_table(search: Mapping[str, Any]) -> Table:
    """A row per trial of a search; the best one is marked."""
    head, *rows = wording.trials(search)
    table = new_table(f"trials, {search['objective']['metric']} on {search['objective']['split']}", *head)
    for row in rows:
        add_row(table, *row)
    return table


def work_table(work: Mapping[str, Any]) -> Table:
    """What a study asks for: a row for trainings and one for evaluations."""
    table = new_table(f"{work['runs']} runs", "stages", "asked", "distinct", "cached", "to do", "hours")
    for kind in ("train", "eval"):
        row = work[kind]
        hours = "" if row["hours"] is None else f"{row['hours']:.2g}"
        add_row(table, kind, *(str(row[name]) for name in ("asked", "distinct", "cached", "to do")), hours)
    return table


def counts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows and defects per task and split."""
    table = new_table("data", "data", "rows", "bad", "reasons")
    for row in rows:
        reasons = ", ".join(f"{name}: {count}" for name, count in row["reasons"].items())
        add_row(table, row["data"], str(row["rows"]), str(row["bad"]), reasons)
    return table


def inventory_table(items: Sequence[Item]) -> Table:
    """A row per file of annotations or set of images: whether it is there, and else where it is to be had."""
    table = new_table("files", "task", "what", "found", "missing", "from", "licence")
    for item in items:
        origin = (item.source, item.licence) if item.problem else ("", "")
        add_row(table, item.task, item.what, str(item.found), item.problem, *origin)
    return table


def overlap_table(found: Overlap) -> Table:
    """Per cent of each task's test answers (rows) that are training answers of a task (columns)."""
    table = new_table("test answers that are training answers (%)", "answers of", *found.tasks)
    for task, shares in zip(found.tasks, found.shares.tolist(), strict=True):
        add_row(table, task, *(wording.number(share) for share in shares))
    table.caption = Text("off the diagonal: what other tasks' training keeps alive", style="table.caption")
    return table


def placements_table(placed: Iterable[tuple[Placement, int]]) -> Table:
    """Which group each task is trained in, and why: `itself` is the mean similarity of the task's own instructions."""
    columns = ("task", "samples", "group", "decision", "itself", "threshold", "similarity to earlier groups")
    table = new_table("training", *columns)
    for p, samples in placed:
        decision = "new" if p.is_new else "joins"
        own = "" if p.own is None else f"{p.own:.3f}"
        group = group_name(p.group)
        add_row(table, p.task, str(samples), group, decision, own, threshold_text(p), _numbers(p.similarities))
    return table


def threshold_text(placement: Placement) -> str:
    """The threshold, and the gap that it was chosen from."""
    if placement.threshold is None:
        return ""
    chosen = f" (gap {placement.gap[0]:.3f} to {placement.gap[1]:.3f})" if placement.gap else ""
    return f"{placement.threshold:.3f}{chosen}"


def routes_table(routed: Iterable[tuple[Route, int]]) -> Table:
    """Which group answers each instruction."""
    table = new_table("routing at the end", "task", "instruction", "samples", "group", "fallback", "similarities")
    for r, samples in routed:
        text, fallback = r.instruction or "all of the file", "yes" if r.fell_back else ""
        add_row(table, r.task, text, str(samples), group_name(r.group), fallback, _numbers(r.similarities))
    return table


def _numbers(values: Iterable[float]) -> str:
    return "  ".join(f"g{number} {value:.3f}" for number, value in enumerate(values))
