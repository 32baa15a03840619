"""What a study file says: methods, orders, seeds and varied fields over one base configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import Field, model_validator

from lcia.config.sections import Count, Section, Seed

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
    vary: dict[str, tuple[Any, ...]] = Field(default={})
    """Dotted key -> values; every combination of them is run."""
    orders: Orders = "given"
    """`given` (the base's order), `all` permutations of its tasks, `{sample: K, seed: S}` of them, K Latin squares
    (`{latin: K, seed: S}`), or a list of orders, each a list of tasks or a name.
    """
    seeds: tuple[Seed, ...] = (0,)
    """Every combination is run with each of these seeds."""
    max_concurrent_trials: Count = 4
    """Trials of a search that are followed at the same time."""

    @model_validator(mode="after")
    def _the_reference_is_a_method(self) -> StudyConfig:
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(
                f"reference names {self.reference}, which is not a method; there are {', '.join(self.methods)}"
            )
        return self

    @property
    def listed(self) -> Sequence[Order]:
        """Orders that the file names one by one; empty: they are made from the base's tasks."""
        if self.orders == "given":
            return (None,)
        return self.orders if isinstance(self.orders, tuple) else ()
