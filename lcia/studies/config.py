"""What a study file says: methods, orders, seeds and varied fields over one base configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from lcia.config.sections import Count, Positive, Section, Seed

Order: TypeAlias = str | tuple[str, ...] | None
"""As in RunConfig: a name, a list of tasks, or what the base has."""


class Sampled(Section):
    """Some of all permutations of the base's tasks, without repetition."""

    sample: Count
    """How many orders."""
    seed: Seed = 0
    """Which ones."""


class Latin(Section):
    """Orders that balance positions: Latin squares, in each of which every task stands once in every position."""

    latin: Count
    """How many squares; each has as many orders as there are tasks."""
    seed: Seed = 0
    """Which ones, after the first square, which is made from the base's order."""


class Uniform(Section):
    """Any number between two, each as likely as any other."""

    uniform: tuple[float, float]
    """Least and greatest."""


class LogUniform(Section):
    """Any number between two, its logarithm as likely as any other."""

    loguniform: tuple[Positive, Positive]
    """Least and greatest."""


class RandInt(Section):
    """A whole number."""

    randint: tuple[int, int]
    """Least and greatest, both included."""


class Choice(Section):
    """One of some values."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)]
    """The values."""


Drawn: TypeAlias = Uniform | LogUniform | RandInt | Choice


class GridConfig(Section):
    """Every combination is run."""

    kind: Literal["grid"] = "grid"
    """No search."""


class RandomConfig(Section):
    """Combinations are drawn."""

    kind: Literal["random"] = "random"
    """Each draw is made without looking at the others."""
    num_samples: Count
    """How many trials."""
    seed: Seed = 0
    """Of the draws."""


class OptunaConfig(Section):
    """Combinations are drawn where earlier ones did well (tree-structured Parzen estimators)."""

    kind: Literal["optuna"] = "optuna"
    """Optuna's TPE sampler."""
    num_samples: Count
    """How many trials."""
    seed: Seed = 0
    """Of the draws."""


SearchConfig: TypeAlias = GridConfig | RandomConfig | OptunaConfig


class Objective(Section):
    """What a search looks for."""

    metric: Literal["avg_acc", "new_acc", "maa", "forgetting", "bwt"] = "avg_acc"
    """The metric; of several seeds their mean."""
    direction: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""
    split: Literal["validation"] = "validation"
    """The split that all trials are evaluated on. What is chosen on the test split cannot be reported on it."""

    @field_validator("split", mode="before")
    @classmethod
    def _not_the_test_split(cls, split: Any) -> Any:
        if split == "test":
            raise ValueError("a search may not look at the test split: use `validation`, and run the best on test once")
        return split


class NoScheduler(Section):
    """Every trial runs to its end."""

    kind: Literal["none"] = "none"
    """Nothing is stopped early."""


class Asha(Section):
    """Asynchronous successive halving: trials that do badly after some tasks are stopped.

    They are compared by the mean score over all tasks, seen and unseen, minus that of the untuned model, so that trials
    with other first tasks can be compared; every trial is evaluated on all tasks after each.
    """

    kind: Literal["asha"] = "asha"
    """Ray Tune's ASHAScheduler."""
    grace_period: Count = 1
    """Tasks that every trial may learn."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One of so many goes on from each rung."""


SchedulerConfig: TypeAlias = NoScheduler | Asha


class Budget(Section):
    """What a search may spend; null: no limit."""

    stages: Count | None = None
    """Trainings; the search ends once so many were done."""
    hours: Positive | None = None
    """Wall-clock time."""


Orders: TypeAlias = Literal["given", "all"] | Sampled | Latin | tuple[str | tuple[str, ...], ...]


class StudyConfig(Section):
    """`methods`: name -> overrides of the base by dotted name; `vary`: dotted name -> values (their product)."""

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
    vary: dict[str, tuple[Any, ...] | Drawn] = Field(default={})
    """Dotted key -> values, every combination of which is run. A search may draw them: `{uniform: [a, b]}`,
    `{loguniform: [a, b]}`, `{randint: [a, b]}`, `{choice: [...]}`.
    """
    orders: Orders = "given"
    """`given` (the base's order), `all` permutations of its tasks, `{sample: K, seed: S}` of them, K Latin squares
    (`{latin: K, seed: S}`), or a list of orders, each a list of tasks or a name.
    """
    seeds: tuple[Seed, ...] = (0,)
    """Every combination is run with each of these seeds."""
    search: SearchConfig = GridConfig()
    """Whether every combination is run, or some are drawn."""
    objective: Objective = Objective()
    """What a search looks for."""
    scheduler: SchedulerConfig = NoScheduler()
    """Which trials of a search are stopped early."""
    budget: Budget = Budget()
    """When a search ends, besides its number of samples."""
    max_concurrent_trials: Count = 4
    """Trials of a search that are drawn together and followed at the same time."""

    @model_validator(mode="after")
    def _the_reference_is_a_method(self) -> StudyConfig:
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(
                f"reference names {self.reference}, which is not a method; there are {', '.join(self.methods)}"
            )
        return self

    @model_validator(mode="after")
    def _what_is_drawn_is_searched(self) -> StudyConfig:
        drawn = [name for name, values in self.vary.items() if not isinstance(values, tuple)]
        if isinstance(self.search, GridConfig):
            if drawn:
                raise ValueError(f"vary.{drawn[0]} is drawn by a search: list its values, or set search.kind to optuna")
            if not isinstance(self.scheduler, NoScheduler):
                raise ValueError("scheduler stops trials of a search: set search.kind to random or optuna")
            if self.budget != Budget():
                raise ValueError("budget limits a search: set search.kind to random or optuna, or take it out")
        elif not self.vary and len(self.methods) == 1 and self.orders == "given":
            raise ValueError("there is nothing to search: give vary, several methods, or orders")
        if isinstance(self.scheduler, Asha) and self.objective != Objective():
            raise ValueError("scheduler asha compares trials that are not done, which avg_acc (max) alone allows")
        return self

    @model_validator(mode="after")
    def _ends_are_in_order(self) -> StudyConfig:
        for name, values in self.vary.items():
            match values:
                case Uniform(uniform=(low, high)) | LogUniform(loguniform=(low, high)) | RandInt(randint=(low, high)):
                    if low >= high:
                        raise ValueError(f"vary.{name}: {low} is to be less than {high}")
        return self

    @property
    def listed(self) -> Sequence[Order]:
        """Orders that the file names one by one; empty: they are made from the base's tasks."""
        if self.orders == "given":
            return (None,)
        return self.orders if isinstance(self.orders, tuple) else ()
