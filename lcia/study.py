"""Many runs as one value: methods, orders, seeds and varied fields over one base configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from pydantic import Field, model_validator

from lcia import benchmarks
from lcia.config.load import changed, parse, with_kinds
from lcia.config.run import RunConfig
from lcia.config.sections import Section, Seed
from lcia.metrics.matrix import AccuracyMatrix, Metric, metrics
from lcia.metrics.stats import Comparison, Spread, holm, paired, spread
from lcia.types import InputError

T = TypeVar("T")
Order: TypeAlias = str | tuple[str, ...] | None
"""As in RunConfig: a name, a list of tasks, or what the base has."""

NAME_LENGTH = 63
"""Of a run's name."""
COMPARED = ("avg_acc", "new_acc", "forgetting")
"""Metrics in which methods are compared pair by pair; each is a family of its own to Holm's correction."""
MAX_RUNS = 50_000
"""All orders of eight tasks are 40,320; more than this is a mistake."""


class StudyConfig(Section):
    """`methods`: name -> overrides of the base by dotted name; `vary`: dotted name -> values (their product).

    `orders`: "given" (the base's), "all" permutations of its tasks, or a list of orders, each a list of tasks or the
    name of one that the benchmark has.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")
    """Name of the study's folder."""
    base: dict[str, Any] = Field(default={})
    """The run that all runs of the study start from, key by key as in a run's file."""
    methods: dict[str, dict[str, Any]] = Field(default={"lcia": {}})
    """Name of a method -> what it changes, by dotted keys."""
    reference: str | None = None
    """The method that all others are compared with, pair by pair (`null`: the first one). Of a varied method, the first
    values.
    """
    vary: dict[str, tuple[Any, ...]] = Field(default={})
    """Dotted key -> values; every combination of them is run."""
    orders: Literal["given", "all"] | tuple[str | tuple[str, ...], ...] = "given"
    """`given` (the base's order), `all` permutations of its tasks, or a list of orders, each a list of
    tasks or a name.
    """
    seeds: tuple[Seed, ...] = (0,)
    """Every combination is run with each of these seeds."""
    max_concurrent_trials: Annotated[int, Field(ge=1)] = 4
    """Runs that are followed at the same time."""

    @model_validator(mode="after")
    def _the_reference_is_a_method(self) -> StudyConfig:
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(
                f"reference names {self.reference}, which is not a method; there are {', '.join(self.methods)}"
            )
        return self

    def count(self) -> int:
        """Runs that expand() would give, without making them."""
        return sum(1 for _ in _points(self))


class Point(Section):
    """One run of a study and where it lies: what tables group and pair by.

    `is_reference`: of the method that the others are compared with.
    """

    method: str
    is_reference: bool
    varied: dict[str, Any]
    order: Order
    seed: int
    config: RunConfig

    @property
    def label(self) -> str:
        """The method with its varied values: the runs that only differ by order and seed share it."""
        return ", ".join([self.method, *(f"{name.split('.')[-1]}={value}" for name, value in self.varied.items())])


def expand(study: StudyConfig) -> list[Point]:
    """Every run of a study, with distinct names.

    Raises:
        InputError: a combination is not a valid configuration, or there are more than MAX_RUNS.
    """
    if (runs := study.count()) > MAX_RUNS:
        raise InputError(f"study {study.name} asks for {runs} runs, more than {MAX_RUNS}: name fewer orders or values")
    return [_point(study, number, where) for number, where in enumerate(_points(study))]


class _Where(NamedTuple):
    """Where a run lies in its study. `order_name`: the order's own, or its place among the study's orders."""

    method: str
    varied: dict[str, Any]
    order: Order
    order_name: str
    seed: int


def _points(study: StudyConfig) -> Iterator[_Where]:
    values = [[(name, value) for value in values] for name, values in study.vary.items()]
    orders = [(order, order if isinstance(order, str) else f"order{n}") for n, order in enumerate(_orders(study), 1)]
    for method, varied, (order, name), seed in product(study.methods, product(*values), orders, study.seeds):
        yield _Where(method, dict(varied), order, "" if order is None else name, seed)


def _orders(study: StudyConfig) -> Sequence[Order]:
    if study.orders == "given":
        return (None,)
    if study.orders == "all":
        base = parse(RunConfig, study.base, f"base of study {study.name}")
        return list(permutations(benchmarks.build(base.benchmark).order(base.order)))
    return study.orders


def _point(study: StudyConfig, number: int, where: _Where) -> Point:
    values = changed(with_kinds(RunConfig, study.base), (*study.methods[where.method].items(), *where.varied.items()))
    values |= {"seed": where.seed, "name": _name(number, where)} | ({"order": where.order} if where.order else {})
    config = parse(RunConfig, values, f"study {study.name}, run {number} ({where.method})")
    return Point(
        method=where.method,
        is_reference=where.method == (study.reference or next(iter(study.methods))),
        varied=where.varied,
        order=where.order,
        seed=where.seed,
        config=config,
    )


def _name(number: int, where: _Where) -> str:
    """Number, method, varied values, order and seed; order and seed are there even if the rest has to be cut."""
    end = _plain("".join(f"-{part}" for part in (where.order_name, f"seed{where.seed}") if part))
    values = "".join(f"-{name.split('.')[-1]}_{value}" for name, value in where.varied.items())
    return _plain(f"{number:04d}-{where.method}{values}")[: NAME_LENGTH - len(end)] + end


def _plain(text: str) -> str:
    """With a dash for whatever a run's name may not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def compare(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, Spread | None]]:
    """Mean and spread over orders and seeds of every metric, per label; None where a run leaves it undefined."""
    return _table([point.label for point in points], matrices)


def compare_orders(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, Spread | None]]:
    """The same per label and order, over seeds; empty unless the study lists named orders."""
    named = [point for point in points if isinstance(point.order, str)]
    labels = [f"{point.label}, {point.order}" for point in points]
    return _table(labels, matrices) if len(named) == len(points) else {}


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
    """What a run takes besides scores: minutes of training and megabytes beside the adapter of a group."""

    minutes: float
    kept_mb: float


def compare_costs(points: Sequence[Point], costs: Sequence[Cost]) -> dict[str, dict[str, Spread]]:
    """Mean and spread of both costs per label."""
    found = _by_label([point.label for point in points], costs)
    return {
        label: {name: spread(column) for name, column in zip(Cost._fields, zip(*rows, strict=True), strict=True)}
        for label, rows in found.items()
    }


def reference_of(points: Sequence[Point]) -> str:
    """The label that the others are compared with."""
    return next(point.label for point in points if point.is_reference)


def compare_pairs(points: Sequence[Point], matrices: Sequence[AccuracyMatrix]) -> dict[str, dict[str, Comparison]]:
    """Metric -> label -> its metric minus the reference's, paired by order and seed; only labels that share a pair."""
    tables = [metrics(matrix) for matrix in matrices]
    found = {metric: _against_reference(points, [table[metric] for table in tables]) for metric in COMPARED}
    return {metric: compared for metric, compared in found.items() if compared}


def _against_reference(points: Sequence[Point], values: Sequence[Metric]) -> dict[str, Comparison]:
    known: dict[str, dict[tuple[Order, int], float]] = {}
    for point, metric in zip(points, values, strict=True):
        if metric.value is not None:
            known.setdefault(point.label, {})[point.order, point.seed] = metric.value
    reference = known.pop(reference_of(points), {})
    return holm({label: _paired(mine, reference) for label, mine in known.items() if mine.keys() & reference.keys()})


def _paired(mine: Mapping[tuple[Order, int], float], reference: Mapping[tuple[Order, int], float]) -> Comparison:
    shared = [at for at in reference if at in mine]
    return paired([mine[at] for at in shared], [reference[at] for at in shared])
