"""The accuracy matrix and its metrics (docs/method.md 5) in percent, 0 to 100; a positive forgetting is always bad."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcia.types import InputError

UNTUNED = "(zero-shot)"
"""Label of the row of the untuned model."""


class UndefinedMetricError(ValueError):
    """The matrix lacks what the metric needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure in percent, or None with the reason why there is none."""

    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyMatrix:
    """`scores[j, i]`: score in percent on task i after training task j, nan where it was not evaluated.

    `tasks` are in training order; entries above the diagonal (tasks not trained yet) may be given. `zero_shot` [tasks]:
    the untuned model's scores.
    """

    tasks: tuple[str, ...]
    scores: NDArray[np.float64]
    zero_shot: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self.scores, (len(self.tasks), len(self.tasks)), "scores")
        if self.zero_shot is not None:
            _check(self.zero_shot, (len(self.tasks),), "zero_shot")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"a matrix needs tasks with distinct names, not {self.tasks}")

    def rows(self) -> list[tuple[str, NDArray[np.float64]]]:
        """Labelled rows, the zero-shot row first where there is one."""
        base = [] if self.zero_shot is None else [(UNTUNED, self.zero_shot)]
        return base + list(zip(self.tasks, self.scores, strict=True))


def _check(values: NDArray[np.float64], shape: tuple[int, ...], name: str) -> None:
    if values.shape != shape:
        raise InputError(f"{name} has the shape {values.shape}; the tasks ask for {shape}")
    outside = values[~(np.isnan(values) | ((values >= 0) & (values <= 100)))]
    if outside.size:
        raise InputError(f"{name} are percentages; {outside[0]} is not one")


# Metrics: T tasks, A = scores, b = zero_shot; indices as in docs/method.md 5, which counts from 1


def avg_acc(matrix: AccuracyMatrix) -> float:
    """mean_i A[T, i]."""
    return _mean(matrix.scores[-1])


def new_acc(matrix: AccuracyMatrix) -> float:
    """mean_i A[i, i]."""
    return _mean(np.diagonal(matrix.scores))


def forgetting(matrix: AccuracyMatrix) -> float:
    """mean_{i<T} ( max_{i<=j<=T-1} A[j, i] - A[T, i] ); the last task has had no time to be forgotten."""
    scores, earlier = matrix.scores, range(len(_earlier(matrix)))
    return _mean(np.array([scores[i:-1, i].max() - scores[-1, i] for i in earlier]))


def forgetting_diag(matrix: AccuracyMatrix) -> float:
    """mean_{i<T} ( A[i, i] - A[T, i] )."""
    return -bwt(matrix)


def bwt(matrix: AccuracyMatrix) -> float:
    """mean_{i<T} ( A[T, i] - A[i, i] )."""
    _earlier(matrix)
    return _mean((matrix.scores[-1] - np.diagonal(matrix.scores))[:-1])


def bwt_coin(matrix: AccuracyMatrix) -> float:
    """`bwt` as CoIN computes it: the same sum, divided by T instead of T - 1."""
    tasks = len(matrix.tasks)
    return bwt(matrix) * (tasks - 1) / tasks


def maa(matrix: AccuracyMatrix) -> float:
    """mean_j mean_{i<=j} A[j, i]."""
    return _mean(np.array([row[: j + 1].mean() for j, row in enumerate(matrix.scores)]))


def fwt(matrix: AccuracyMatrix) -> float:
    """mean_{i>1} ( A[i-1, i] - b_i )."""
    _earlier(matrix)
    if matrix.zero_shot is None:
        raise UndefinedMetricError("needs the untuned model's scores (evaluation.zero_shot)")
    if np.isnan(np.diagonal(matrix.scores, offset=1)).any():
        raise UndefinedMetricError("needs each task's score before it was trained (evaluation.upper_triangle)")
    return _mean(np.diagonal(matrix.scores, offset=1) - matrix.zero_shot[1:])


def zero_shot_acc(matrix: AccuracyMatrix) -> float:
    """mean_i b_i: not in docs/method.md 5, the floor that the others are read against."""
    if matrix.zero_shot is None:
        raise UndefinedMetricError("needs the untuned model's scores (evaluation.zero_shot)")
    return _mean(matrix.zero_shot)


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric follows from the matrix, whether less of it is better, and whether the terminal's tables show it."""

    formula: Callable[[AccuracyMatrix], float]
    smaller_is_better: bool = False
    in_tables: bool = True


MEASURES: Mapping[str, Measure] = {
    "avg_acc": Measure(avg_acc),
    "forgetting": Measure(forgetting, smaller_is_better=True),
    "new_acc": Measure(new_acc),
    "forgetting_diag": Measure(forgetting_diag, smaller_is_better=True, in_tables=False),
    "bwt": Measure(bwt),
    "bwt_coin": Measure(bwt_coin, in_tables=False),
    "maa": Measure(maa),
    "fwt": Measure(fwt),
    "zero_shot_acc": Measure(zero_shot_acc, in_tables=False),
}
"""By name, in the order in which they are shown."""


def metrics(matrix: AccuracyMatrix) -> dict[str, Metric]:
    """Every metric by name; the undefined ones carry their reason."""
    return {name: _metric(measure, matrix) for name, measure in MEASURES.items()}


def _metric(measure: Measure, matrix: AccuracyMatrix) -> Metric:
    try:
        return Metric(measure.formula(matrix))
    except UndefinedMetricError as error:
        return Metric(None, str(error))


def _earlier(matrix: AccuracyMatrix) -> tuple[str, ...]:
    """The tasks that something was trained after."""
    if len(matrix.tasks) == 1:
        raise UndefinedMetricError("needs two tasks or more")
    return matrix.tasks[:-1]


def _mean(values: NDArray[np.float64]) -> float:
    if np.isnan(values).any():
        raise UndefinedMetricError("needs scores that were not evaluated")
    return float(values.mean())


# Files


def to_json(matrix: AccuracyMatrix) -> dict[str, Any]:
    """A value for json.dumps: the matrix with its metrics; null where a figure is undefined."""
    named = {name: {"value": metric.value, "reason": metric.reason} for name, metric in metrics(matrix).items()}
    base = None if matrix.zero_shot is None else _nulls(matrix.zero_shot)
    scores = [_nulls(row) for row in matrix.scores]
    return {"unit": "percent", "tasks": list(matrix.tasks), "scores": scores, "zero_shot": base, "metrics": named}


def from_json(value: Mapping[str, Any]) -> AccuracyMatrix:
    """Reads `to_json`; the metrics are computed again when asked for."""
    base = value["zero_shot"]
    scores = np.array(value["scores"], dtype=np.float64)
    return AccuracyMatrix(tuple(value["tasks"]), scores, None if base is None else np.array(base, dtype=np.float64))


def to_csv(matrix: AccuracyMatrix) -> str:
    """A row per trained task, a column per evaluated one; empty where it was not evaluated."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after", *matrix.tasks])
    writer.writerows(
        [label, *("" if np.isnan(score) else repr(float(score)) for score in row)] for label, row in matrix.rows()
    )
    return text.getvalue()


def dumps(matrix: AccuracyMatrix) -> str:
    """`to_json` as text without nan, which is not JSON."""
    return json.dumps(to_json(matrix), indent=2, allow_nan=False) + "\n"


def _nulls(row: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(score) else float(score) for score in row]
