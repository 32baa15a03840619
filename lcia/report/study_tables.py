"""The tables of a study as one value: what `lcia study` prints, summary.json keeps and the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import Comparison, Spread
from lcia.study import Point, TaskSpread, against_first, compare, compare_orders, compare_tasks

Spreads: TypeAlias = Mapping[str, Mapping[str, Spread | None]]
"""Label -> metric -> mean and spread over orders and seeds, in percent; None where a run leaves it undefined."""


@dataclass(frozen=True)
class StudyTables:
    """`methods` per label, `orders` per label and named order, `tasks` per label and task; `against_first`: each label
    minus the label `first`, avg_acc, paired by order and seed. `labels`: run name -> its label."""

    first: str
    labels: Mapping[str, str]
    methods: Spreads
    orders: Spreads
    tasks: Mapping[str, Mapping[str, TaskSpread]]
    against_first: Mapping[str, Comparison]


KEYS = frozenset(field.name for field in fields(StudyTables))
"""Of to_record, and so of the summary of a study."""


def tabulate(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> StudyTables:
    """`matrices`: one per point, in the same order."""
    return StudyTables(
        first=points[0].label,
        labels={point.config.name: point.label for point in points},
        methods=compare(points, matrices),
        orders=compare_orders(points, matrices),
        tasks=compare_tasks(points, matrices),
        against_first=against_first(points, matrices),
    )


def to_record(tables: StudyTables) -> dict[str, Any]:
    """As JSON: a spread is {mean, std, n}."""
    tasks = {label: _plain({task: t._asdict() for task, t in row.items()}) for label, row in tables.tasks.items()}
    return {
        "first": tables.first,
        "labels": dict(tables.labels),
        "methods": _plain(tables.methods),
        "orders": _plain(tables.orders),
        "tasks": tasks,
        "against_first": {label: asdict(comparison) for label, comparison in tables.against_first.items()},
    }


def from_record(record: Mapping[str, Any]) -> StudyTables:
    """The inverse of to_record."""
    return StudyTables(
        first=record["first"],
        labels=record["labels"],
        methods={label: _spreads(row) for label, row in record["methods"].items()},
        orders={label: _spreads(row) for label, row in record["orders"].items()},
        tasks={
            label: {task: TaskSpread(**_spreads(spread)) for task, spread in row.items()}
            for label, row in record["tasks"].items()
        },
        against_first={label: Comparison(**values) for label, values in record["against_first"].items()},
    )


def _plain(table: Spreads) -> dict[str, dict[str, Any]]:
    return {name: {key: value and asdict(value) for key, value in row.items()} for name, row in table.items()}


def _spreads(row: Mapping[str, Any]) -> dict[str, Spread | None]:
    return {name: value and Spread(**value) for name, value in row.items()}
