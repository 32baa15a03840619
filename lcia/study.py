"""Many runs as one value: methods, orders, seeds and varied fields over one base configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import Field

from lcia import benchmarks
from lcia.config.load import changed, parse, with_kinds
from lcia.config.run import RunConfig
from lcia.config.sections import Section, Seed
from lcia.metrics.matrix import AccuracyMatrix, metrics
from lcia.metrics.stats import Comparison, Spread, paired, spread
from lcia.types import InputError

Order: TypeAlias = str | tuple[str, ...] | None
"""As in RunConfig: a name, a list of tasks, or what the base has."""

NAME_LENGTH = 63
"""Of a run's name."""
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
    """Name of a method -> what it changes, by dotted keys. The first one is what the others are compared with."""
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

    def count(self) -> int:
        """Runs that expand() would give, without making them."""
        return sum(1 for _ in _points(self))


class Point(Section):
    """One run of a study and where it lies: what tables group and pair by."""

    method: str
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
    return Point(method=where.method, varied=where.varied, order=where.order, seed=where.seed, config=config)


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


def _by_label(labels: Sequence[str], matrices: Sequence[AccuracyMatrix]) -> dict[str, list[AccuracyMatrix]]:
    rows: dict[str, list[AccuracyMatrix]] = {}
    for label, matrix in zip(labels, matrices, strict=True):
        rows.setdefault(label, []).append(matrix)
    return rows


def _summaries(found: Sequence[AccuracyMatrix]) -> dict[str, Spread | None]:
    tables = [metrics(matrix) for matrix in found]
    values = {name: [table[name].value for table in tables] for name in tables[0]}
    return {
        name: None if None in column else spread([v for v in column if v is not None])
        for name, column in values.items()
    }


def against_first(
    points: Sequence[Point], matrices: Sequence[AccuracyMatrix], metric: str = "avg_acc"
) -> dict[str, Comparison]:
    """Each label's `metric` minus the first label's, paired by order and seed; only labels that share a pair."""
    values: dict[str, dict[tuple[object, int], float]] = {}
    for point, matrix in zip(points, matrices, strict=True):
        value = metrics(matrix)[metric].value
        if value is not None:
            values.setdefault(point.label, {})[point.order, point.seed] = value
    (_, first), *others = values.items()
    shared = {label: [at for at in first if at in found] for label, found in others}
    return {
        label: paired([found[at] for at in shared[label]], [first[at] for at in shared[label]])
        for label, found in others
        if shared[label]
    }
