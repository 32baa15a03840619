"""The runs of a study that names them all: methods times values times orders times seeds.

One configuration is validated for each method and combination of values; runs that differ in order, seed and name share
its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial, prod
from typing import Any

from lcia import benchmarks
from lcia.config.load import changed, parse, with_kinds
from lcia.config.run import RunConfig
from lcia.studies import orders
from lcia.studies.config import GridConfig, Latin, Order, Sampled, StudyConfig
from lcia.types import InputError

NAME_LENGTH = 63
"""Of a run's name."""
MAX_RUNS = 50_000
"""All orders of eight tasks are 40,320; more than this is a mistake."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a study and where it lies: what tables group and pair by.

    `is_reference`: of the method that the others are compared with. `label`: the method with its varied values: the
    runs that only differ by order and seed share it. `varied`: those values by their dotted names.
    """

    method: str
    is_reference: bool
    label: str
    varied: Mapping[str, Any]
    order: Order
    seed: int
    config: RunConfig


def expand(study: StudyConfig) -> list[Point]:
    """Every run of a study, with distinct names.

    Raises:
        InputError: a combination is not a valid configuration, or there are more than MAX_RUNS.
    """
    if (runs := count(study)) > MAX_RUNS:
        raise InputError(f"study {study.name} asks for {runs} runs, more than {MAX_RUNS}: name fewer orders or values")
    return list(_points(study))


def representatives(study: StudyConfig) -> list[RunConfig]:
    """What a study needs of a machine, before it runs: all runs of a grid, one of each method of a search.

    Raises:
        InputError: as expand().
    """
    if isinstance(study.search, GridConfig):
        return [point.config for point in expand(study)]
    return [configured(study, method, {}, method) for method in study.methods]


def count(study: StudyConfig) -> int:
    """Runs that expand() would give, without making them."""
    values = prod(len(values) for values in _listed(study).values())
    return len(study.methods) * values * _count_orders(study) * len(study.seeds)


def _listed(study: StudyConfig) -> dict[str, tuple[Any, ...]]:
    """The varied keys of a grid."""
    if not isinstance(study.search, GridConfig):
        base = _base_of(study)
        tasks = benchmarks.build(base.benchmark, base.evaluation.general).order(base.order)
        most = study.search.num_samples * len(study.seeds) * len(tasks)
        raise InputError(
            f"study {study.name} draws its runs, so they are not known before it runs; it trains {most} stages at most"
        )
    return {name: values for name, values in study.vary.items() if isinstance(values, tuple)}


def _count_orders(study: StudyConfig) -> int:
    match study.orders:
        case Sampled():
            return study.orders.sample
        case Latin():
            return study.orders.latin * len(tasks_of(study))
        case "all":
            return factorial(len(tasks_of(study)))
        case _:
            return len(study.listed)


def orders_of(study: StudyConfig) -> Sequence[Order]:
    """The orders of a study.

    Raises:
        InputError: there are not as many as it asks for.
    """
    match study.orders:
        case Sampled():
            return orders.sampled(tasks_of(study), study.orders.sample, study.orders.seed)
        case Latin():
            return orders.latin(tasks_of(study), study.orders.latin, study.orders.seed)
        case "all":
            return list(permutations(tasks_of(study)))
        case _:
            return study.listed


def tasks_of(study: StudyConfig) -> tuple[str, ...]:
    """The tasks of the base in its order; whole ones, where the base cuts them into stretches."""
    base = _base_of(study)
    return benchmarks.build(base.benchmark, base.evaluation.general).order_of_tasks(base.order)


def _base_of(study: StudyConfig) -> RunConfig:
    return parse(RunConfig, study.base, f"base of study {study.name}")


def _points(study: StudyConfig) -> Iterator[Point]:
    values = [[(name, value) for value in values] for name, values in _listed(study).items()]
    found, number = orders_of(study), 0
    named = [(order, order if isinstance(order, str) else f"order{n}") for n, order in enumerate(found, 1)]
    reference = study.reference or next(iter(study.methods))
    for method, combination in product(study.methods, product(*values)):
        varied = dict(combination)
        config = configured(study, method, varied, f"run {number} ({method})")
        if number == 0:
            _check_orders(study, config)
        label = label_of(method, varied)
        for (order, order_name), seed in product(named, study.seeds):
            name = _name(number, label_of(method, varied, "-{}_{}"), "" if order is None else order_name, seed)
            # Copied, not validated once more: thousands of orders share all other parts.
            update = {"seed": seed, "name": name} | ({"order": order} if order else {})
            run = config.model_copy(update=update)
            yield Point(method, method == reference, label, varied, order, seed, run)
            number += 1


def _check_orders(study: StudyConfig, config: RunConfig) -> None:
    """An order that the file names is one of the benchmark's tasks, each once."""
    for order in filter(None, study.listed):
        values = config.model_dump(mode="json", by_alias=True) | {"order": order}
        parse(RunConfig, values, f"study {study.name}, an order")


def configured(study: StudyConfig, method: str, values: Mapping[str, Any], where: str) -> RunConfig:
    """The base as a method and values by dotted names change it; `where` names it in the error.

    Raises:
        InputError: that is not a valid configuration.
    """
    changes = (*study.methods[method].items(), *values.items())
    return parse(RunConfig, changed(with_kinds(RunConfig, study.base), changes), f"study {study.name}, {where}")


def label_of(method: str, varied: Mapping[str, Any], form: str = ", {}={}") -> str:
    """A method with its varied values."""
    return method + "".join(form.format(name.split(".")[-1], value) for name, value in varied.items())


def _name(number: int, label: str, order: str, seed: int) -> str:
    """Number, method, varied values, order and seed; order and seed are there even if the rest has to be cut."""
    end = _plain("".join(f"-{part}" for part in (order, f"seed{seed}") if part))
    return _plain(f"{number:04d}-{label}")[: NAME_LENGTH - len(end)] + end


def _plain(text: str) -> str:
    """With a dash for whatever a run's name may not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
