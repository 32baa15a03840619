"""Tables of a study over methods, orders and seeds: what is averaged together, and what is compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from lcia.metrics.companion import Companion
from lcia.metrics.matrix import AccuracyMatrix, metrics
from lcia.metrics.stats import Comparison, Spread, holm, paired, spread
from lcia.studies.config import Order
from lcia.studies.points import Point

T = TypeVar("T")

COMPARED = ("avg_acc", "new_acc", "forgetting")
"""Metrics in which methods are compared pair by pair; each is a family of its own to Holm's correction."""
GENERAL_ACC = "general_acc"
"""Mean score at the end over the tasks that are never trained, compared like COMPARED where there are such tasks."""


def compare(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, Spread | None]]:
    """Mean and spread over orders and seeds of every metric, per label; None where a run leaves it undefined."""
    return _table([point.label for point in points], matrices)


def compare_orders(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, Spread | None]]:
    """The same per label and order, over seeds; empty unless the study lists named orders."""
    named = [point for point in points if isinstance(point.order, str)]
    labels = [f"{point.label}, {point.order}" for point in points]
    return _table(labels, matrices) if len(named) == len(points) else {}


class OrderEffect(NamedTuple):
    """A metric with the order of tasks as a random factor. `between`: standard deviation of the orders' means;
    `within`: that of seeds within an order, pooled, None with one seed each. `worst`: the order with the least mean."""

    orders: int
    mean: float
    between: float
    within: float | None
    worst: str
    worst_mean: float


def order_effects(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, OrderEffect]:
    """Of avg_acc per label that has two orders or more."""
    values: dict[str, dict[str, list[float]]] = {}
    for point, matrix in zip(points, matrices, strict=True):
        if (value := metrics(matrix)["avg_acc"].value) is not None:
            order = point.order if isinstance(point.order, str) else " > ".join(point.order or matrix.tasks)
            values.setdefault(point.label, {}).setdefault(order, []).append(value)
    return {label: _effect(found) for label, found in values.items() if len(found) > 1}


def _effect(found: Mapping[str, Sequence[float]]) -> OrderEffect:
    means = {order: float(np.mean(values)) for order, values in found.items()}
    repeated = [values for values in found.values() if len(values) > 1]
    # Each order's variance weighs as many times as it has degrees of freedom.
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(float(np.var(values, ddof=1)) * (len(values) - 1) for values in repeated)
    within = (squares / freedom) ** 0.5 if freedom else None
    worst = min(means, key=lambda order: means[order])
    column = list(means.values())
    return OrderEffect(len(means), float(np.mean(column)), float(np.std(column, ddof=1)), within, worst, means[worst])


class TaskSpread(NamedTuple):
    """One task's scores in percent over the orders and seeds of a label; None where a run did not evaluate it."""

    learnt: Spread | None
    """Right after the task was trained; None as well where tasks were not trained one after another."""
    final: Spread | None
    """After the last task."""


def compare_tasks(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, TaskSpread]]:
    """What each label knew of each task when it was new and at the end; tasks as the label's first run orders them."""
    return {
        label: {task: _task(task, found) for task in found[0].tasks if all(task in m.tasks for m in found)}
        for label, found in _by_label([point.label for point in points], matrices).items()
    }


def _task(task: str, found: Sequence[AccuracyMatrix]) -> TaskSpread:
    at = [matrix.tasks.index(task) for matrix in found]
    # Joint training and the untuned model have one row each; its last entry is not the score of a task just learnt.
    followed = not any(np.isnan(np.diagonal(matrix.scores)).any() for matrix in found)
    learnt = [float(matrix.scores[i, i]) if followed else np.nan for matrix, i in zip(found, at, strict=True)]
    final = [float(matrix.scores[-1, i]) for matrix, i in zip(found, at, strict=True)]
    return TaskSpread(*(None if np.isnan(scores).any() else spread(scores) for scores in (learnt, final)))


class GeneralSpread(NamedTuple):
    """One figure of general ability over the orders and seeds of a label: in percent where it is that of a task that is
    never trained (`percent`), else in a command's own unit. None where a run does not know it."""

    percent: bool
    before: Spread | None
    """Before any training."""
    final: Spread | None
    """After the last task."""
    change: Spread | None
    """The latter minus the former."""

    @property
    def spreads(self) -> dict[str, Spread | None]:
        """The three by name."""
        return {"before": self.before, "final": self.final, "change": self.change}


def compare_general(points: Sequence[Point], beside: Sequence[Companion | None]) -> dict[str, dict[str, GeneralSpread]]:
    """What each label's runs knew beside the stream, per label and figure; labels with a run that looked at nothing are
    left out."""
    found = _by_label([point.label for point in points], beside)
    whole = {label: [one for one in runs if one] for label, runs in found.items() if all(runs)}
    return {label: {name: _general(name, runs) for name in _shared(runs)} for label, runs in whole.items()}


def _shared(runs: Sequence[Companion]) -> list[str]:
    return [name for name in runs[0].columns if all(name in run.columns for run in runs)]


def _general(name: str, runs: Sequence[Companion]) -> GeneralSpread:
    columns = np.array([run.values[[0, -1], run.columns.index(name)] for run in runs])
    known = (columns[:, 0], columns[:, 1], columns[:, 1] - columns[:, 0])
    spreads = (None if np.isnan(column).any() else spread(column.tolist()) for column in known)
    return GeneralSpread(name in runs[0].tasks, *spreads)


def _table(labels: Sequence[str], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, Spread | None]]:
    return {label: _summaries(found) for label, found in _by_label(labels, matrices).items()}


def _by_label(labels: Sequence[str], values: Sequence[T]) -> dict[str, list[T]]:
    rows: dict[str, list[T]] = {}
    for label, value in zip(labels, values, strict=True):
        rows.setdefault(label, []).append(value)
    return rows


def _summaries(found: Sequence[AccuracyMatrix]) -> dict[str, Spread | None]:
    tables = [metrics(matrix) for matrix in found]
    values = {name: [table[name].value for table in tables] for name in tables[0]}
    return {
        name: None if None in column else spread([v for v in column if v is not None])
        for name, column in values.items()
    }


class Cost(NamedTuple):
    """What a run takes besides scores: minutes of training, and at its end megabytes beside the adapter of a group, the
    number of adapters, and megabytes of all adapters and of all that is kept beside them."""

    minutes: float
    kept_mb: float
    adapters: int
    adapters_mb: float
    all_kept_mb: float


def compare_costs(points: Sequence[Point], costs: Sequence[Cost]) -> dict[str, dict[str, Spread]]:
    """Mean and spread of every cost per label."""
    found = _by_label([point.label for point in points], costs)
    return {
        label: {name: spread(column) for name, column in zip(Cost._fields, zip(*rows, strict=True), strict=True)}
        for label, rows in found.items()
    }


def reference_of(points: Sequence[Point]) -> str | None:
    """The label that the others are compared with; None in a search, which compares nothing."""
    return next((point.label for point in points if point.is_reference), None)


def compare_pairs(
    points: Sequence[Point], matrices: Sequence[AccuracyMatrix], beside: Sequence[Companion | None] = ()
) -> dict[str, dict[str, Comparison]]:
    """Metric -> label -> its metric minus the reference's, paired by order and seed; only labels that share a pair.
    `beside`: one per point, for GENERAL_ACC."""
    tables = [metrics(matrix) for matrix in matrices]
    columns = {metric: [table[metric].value for table in tables] for metric in COMPARED}
    columns |= {GENERAL_ACC: [_general_acc(one) for one in beside]} if beside else {}
    found = {metric: _against_reference(points, values) for metric, values in columns.items()}
    return {metric: compared for metric, compared in found.items() if compared}


def _general_acc(found: Companion | None) -> float | None:
    if found is None or not found.tasks:
        return None
    mean = float(found.values[-1, : len(found.tasks)].mean())
    return None if np.isnan(mean) else mean


def _against_reference(points: Sequence[Point], values: Sequence[float | None]) -> dict[str, Comparison]:
    known: dict[str, dict[tuple[Order, int], float]] = {}
    for point, value in zip(points, values, strict=True):
        if value is not None:
            known.setdefault(point.label, {})[point.order, point.seed] = value
    reference = known.pop(reference_of(points) or "", {})
    return holm({label: _paired(mine, reference) for label, mine in known.items() if mine.keys() & reference.keys()})


def _paired(mine: Mapping[tuple[Order, int], float], reference: Mapping[tuple[Order, int], float]) -> Comparison:
    shared = [at for at in reference if at in mine]
    return paired([mine[at] for at in shared], [reference[at] for at in shared])
