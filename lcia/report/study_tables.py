"""The tables of a study as one value: what `lcia study` prints, summary.json keeps and the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias

from lcia.metrics.companion import Companion
from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import ENOUGH_PAIRS, Comparison, Spread, smallest_wilcoxon_p
from lcia.studies.compare import (
    Cost,
    GeneralSpread,
    OrderEffect,
    TaskSpread,
    compare,
    compare_costs,
    compare_general,
    compare_orders,
    compare_pairs,
    compare_tasks,
    order_effects,
    reference_of,
)
from lcia.studies.points import Point

Spreads: TypeAlias = Mapping[str, Mapping[str, Spread | None]]
"""Label -> figure -> mean and spread over orders and seeds; None where a run leaves it undefined."""


class Setting(NamedTuple):
    """What a label stands for: a method with its varied values by their dotted names."""

    method: str
    varied: Mapping[str, Any]


@dataclass(frozen=True)
class StudyTables:
    """`methods` per label, `orders` per label and named order, `tasks` per label and task; `comparisons`: metric ->
    each label minus the label `reference` (empty: nothing is compared), paired by order and seed; `costs`: per label
    the fields of `Cost`; `effects`: what the order does to avg_acc, per label with several orders. `labels`: run name
    -> its label; `settings`: label -> what it stands for, empty in a study from before they were kept. `old_data`:
    labels whose runs are trained on rows of earlier tasks as well. `general`: per label and figure beside the stream,
    of labels that look at something there."""

    reference: str
    labels: Mapping[str, str]
    methods: Spreads
    orders: Spreads
    tasks: Mapping[str, Mapping[str, TaskSpread]]
    comparisons: Mapping[str, Mapping[str, Comparison]]
    costs: Spreads
    effects: Mapping[str, OrderEffect] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    old_data: tuple[str, ...] = ()
    general: Mapping[str, Mapping[str, GeneralSpread]] = field(default_factory=dict)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Of all labels; where a study varies its benchmark, some have tasks that others do not have."""
        return tuple(dict.fromkeys(task for row in self.tasks.values() for task in row))

    @property
    def general_names(self) -> tuple[str, ...]:
        """Figures beside the stream, of all labels."""
        return tuple(dict.fromkeys(name for row in self.general.values() for name in row))


KEYS = frozenset(each.name for each in fields(StudyTables)) | {"first", "against_first"}
"""Of the record of a study in its summary; the last two stood there before any method could be the reference."""


def tabulate(
    points: Sequence[Point],
    matrices: Sequence[AccuracyMatrix],
    costs: Sequence[Cost],
    beside: Sequence[Companion | None] = (),
) -> StudyTables:
    """`matrices`, `costs` and `beside`: one per point, in the same order. No `beside`: runs look at nothing there."""
    return StudyTables(
        reference=reference_of(points) or "",
        labels={point.config.name: point.label for point in points},
        methods=compare(points, matrices),
        orders=compare_orders(points, matrices),
        tasks=compare_tasks(points, matrices),
        comparisons=compare_pairs(points, matrices, beside),
        costs=compare_costs(points, costs),
        effects=order_effects(points, matrices),
        settings={point.label: Setting(point.method, point.varied) for point in points},
        old_data=tuple(dict.fromkeys(point.label for point in points if point.config.uses_old_data)),
        general=compare_general(points, beside) if beside else {},
    )


def to_record(tables: StudyTables) -> dict[str, Any]:
    """As JSON: a spread is {mean, std, n}."""
    tasks = {label: _plain({task: t._asdict() for task, t in row.items()}) for label, row in tables.tasks.items()}
    return {
        "reference": tables.reference,
        "labels": dict(tables.labels),
        "methods": _plain(tables.methods),
        "orders": _plain(tables.orders),
        "tasks": tasks,
        "comparisons": {
            metric: {label: asdict(comparison) for label, comparison in table.items()}
            for metric, table in tables.comparisons.items()
        },
        "costs": _plain(tables.costs),
        "effects": {label: effect._asdict() for label, effect in tables.effects.items()},
        "settings": {label: setting._asdict() for label, setting in tables.settings.items()},
        "old_data": list(tables.old_data),
        "general": {
            label: {name: {"percent": found.percent, **_plain_row(found.spreads)} for name, found in row.items()}
            for label, row in tables.general.items()
        },
    }


def from_record(record: Mapping[str, Any]) -> StudyTables:
    """The inverse of to_record. A summary from before there was a reference compares avg_acc with the first label."""
    compared = record["comparisons"] if "comparisons" in record else {"avg_acc": record["against_first"]}
    return StudyTables(
        reference=record["reference"] if "reference" in record else record["first"],
        labels=record["labels"],
        methods={label: _spreads(row) for label, row in record["methods"].items()},
        orders={label: _spreads(row) for label, row in record["orders"].items()},
        tasks={
            label: {task: TaskSpread(**_spreads(spread)) for task, spread in row.items()}
            for label, row in record["tasks"].items()
        },
        comparisons={
            metric: {label: Comparison(**values) for label, values in table.items()}
            for metric, table in compared.items()
            if table
        },
        costs={label: _spreads(row) for label, row in record.get("costs", {}).items()},
        effects={label: OrderEffect(**row) for label, row in record.get("effects", {}).items()},
        settings={label: Setting(**values) for label, values in record.get("settings", {}).items()},
        old_data=tuple(record.get("old_data", ())),
        general={
            label: {name: _general(values) for name, values in row.items()}
            for label, row in record.get("general", {}).items()
        },
    )


def holds_study(summary: Mapping[str, Any]) -> bool:
    """Whether a session's summary has the record of a study."""
    return "labels" in summary


def reach(compared: Mapping[str, Comparison]) -> str:
    """What so many pairs allow to say: a line below a table of comparisons."""
    pairs = sorted({comparison.n for comparison in compared.values()})
    floors = ", ".join(f"{smallest_wilcoxon_p(n):.3g} (n = {n})" for n in pairs)
    verdict = (
        "* significant at 5 % by the t test after Holm's correction"
        if pairs[-1] >= ENOUGH_PAIRS
        else f"fewer than {ENOUGH_PAIRS} pairs are too few for a verdict"
    )
    return f"Smallest p that Wilcoxon's test can reach: {floors}; {verdict}."


def _plain(table: Spreads) -> dict[str, dict[str, Any]]:
    return {name: _plain_row(row) for name, row in table.items()}


def _plain_row(row: Mapping[str, Spread | None]) -> dict[str, Any]:
    return {name: value and asdict(value) for name, value in row.items()}


def _spreads(row: Mapping[str, Any]) -> dict[str, Spread | None]:
    return {name: value and Spread(**value) for name, value in row.items()}


def _general(record: Mapping[str, Any]) -> GeneralSpread:
    return GeneralSpread(record["percent"], **_spreads({n: record[n] for n in ("before", "final", "change")}))
