"""A study that draws its runs: the space, what a draw means, and the runs of a trial.

The space is written as Optuna wants it, define-by-run: a function that asks a trial for values by name. An order among
all permutations is its Lehmer code, a small number for each position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lcia.config.run import RunConfig
from lcia.studies.config import Asha, Choice, GridConfig, LogUniform, Order, RandInt, StudyConfig, Uniform
from lcia.studies.orders import of_code
from lcia.studies.points import Point, configured, label_of, orders_of, tasks_of

METHOD, ORDER, PLACE = "method", "order", "place"
"""Names of what is drawn besides the varied keys: `place0`, `place1` ... are an order's code."""


class Suggests(Protocol):
    """Optuna's Trial, as far as it is needed."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True)
class Draw:
    """What one trial was given."""

    method: str
    values: dict[str, Any]
    order: Order


class Space:
    """The space of a study; its orders are made once."""

    def __init__(self, study: StudyConfig) -> None:
        assert not isinstance(study.search, GridConfig), "a grid is expanded, not drawn"
        self.study = study
        self.orders = () if study.orders == "all" else tuple(orders_of(study))
        self.tasks = tasks_of(study) if study.orders == "all" else ()

    def define(self, trial: Suggests) -> None:
        """Asks for every value that there is a choice of."""
        if len(self.study.methods) > 1:
            trial.suggest_categorical(METHOD, list(self.study.methods))
        for name, values in self.study.vary.items():
            match values:
                case Uniform():
                    trial.suggest_float(name, *values.uniform)
                case LogUniform():
                    trial.suggest_float(name, *values.loguniform, log=True)
                case RandInt():
                    trial.suggest_int(name, *values.randint)
                case Choice():
                    trial.suggest_categorical(name, list(values.choice))
                case _:
                    trial.suggest_categorical(name, list(values))
        if len(self.orders) > 1:
            trial.suggest_int(ORDER, 0, len(self.orders) - 1)
        for place in range(len(self.tasks) - 1):
            trial.suggest_int(f"{PLACE}{place}", 0, len(self.tasks) - 1 - place)

    def read(self, drawn: Mapping[str, Any]) -> Draw:
        """What drawn values by name mean."""
        order = self.orders[drawn.get(ORDER, 0)] if self.orders else None
        if self.tasks:
            code = [drawn[f"{PLACE}{place}"] for place in range(len(self.tasks) - 1)]
            order = of_code(self.tasks, [*code, 0])
        values = {name: drawn[name] for name in self.study.vary}
        return Draw(drawn.get(METHOD, next(iter(self.study.methods))), values, order)

    def points(self, number: int, draw: Draw) -> list[Point]:
        """The runs of a trial, one for each seed of the study, evaluated as the objective wants it.

        Raises:
            InputError: the draw is not a valid configuration.
        """
        study, name = self.study, f"trial{number:03d}"
        # Groups are not compared in a trial: it is there for its score.
        values = {**draw.values, "evaluation.split": study.objective.split, "watch.rows": 0}
        if isinstance(study.scheduler, Asha):
            values |= {"evaluation.upper_triangle": True, "evaluation.zero_shot": True}
        config = configured(study, draw.method, values, f"{name} ({draw.method})")
        told = label_of(draw.method, {key: _short(value) for key, value in draw.values.items()})
        label = f"{number}: {told}" + (f", {_told(draw.order)}" if draw.order else "")
        # None is the reference: what a search compares has been chosen by its results.
        runs = [self._run(config, draw, seed, f"{name}-seed{seed}") for seed in study.seeds]
        return [Point(draw.method, False, label, draw.values, draw.order, run.seed, run) for run in runs]

    @staticmethod
    def _run(config: RunConfig, draw: Draw, seed: int, name: str) -> RunConfig:
        return config.model_copy(update={"seed": seed, "name": name} | ({"order": draw.order} if draw.order else {}))


def _short(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value


def _told(order: Order) -> str:
    return order if isinstance(order, str) else " > ".join(order or ())
