"""Instruction grouping (docs/method.md 3): which group a new task joins, and which group answers an instruction.

Everything here is pure; a decision keeps all its similarities, so that a report can show why it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcia.config.grouping import GroupingConfig
from lcia.grouping.features import join
from lcia.grouping.thresholds import Threshold
from lcia.protocols import Features
from lcia.types import Split

Similarity: TypeAlias = Callable[[Features, Features], NDArray[np.float64]]
"""(a, b) -> [len(a.texts)], each text's mean over all texts of b; lcia.embedders.similarity_of has them."""

Codebook: TypeAlias = Features
"""The distinct instructions of the tasks that a group's adapter was trained on."""
Books: TypeAlias = tuple[Codebook, ...]
"""One for each group; groups are numbered from 0 in order of creation."""


@dataclass(frozen=True)
class Placement:
    """The group that a task is trained in. `similarities` [groups before the task].

    `own`: mean similarity of the task's instructions to each other; 1 where it has only one. `threshold` is the one
    that decided, `gap` the two similarities that it is the middle of where it was chosen from the data. All three are
    None where grouping is off.
    """

    task: str
    group: int
    is_new: bool
    similarities: tuple[float, ...]
    own: float | None = None
    threshold: float | None = None
    gap: tuple[float, float] | None = None


@dataclass(frozen=True)
class Query:
    """What asks for a group: the instructions of one split of a task."""

    task: str
    split: Split
    features: Features


@dataclass(frozen=True)
class Route:
    """The group that answers. `instruction` None: all of the split; `group` None: the bare base.

    `fell_back`: no codebook reached the threshold, so the configured fallback chose.
    """

    task: str
    split: Split
    instruction: str | None
    group: int | None
    similarities: tuple[float, ...]
    fell_back: bool
    threshold: float | None = None


def place(books: Books, task: str, features: Features, similarity: Similarity, threshold: Threshold) -> Placement:
    """The most similar group, if it reaches the threshold; else a new one. The older group wins a tie."""
    found = tuple(mean(similarity, features, book) for book in books)
    is_new = not found or max(found) < threshold.value
    group = len(books) if is_new else int(np.argmax(found))
    own = mean(similarity, features, features)
    return Placement(task, group, is_new, found, own, threshold.value, threshold.gap)


def mean(similarity: Similarity, a: Features, b: Features) -> float:
    """Mean similarity over all pairs of distinct instructions."""
    return float(np.mean(similarity(a, b)))


def grow(books: Books, placement: Placement, features: Features) -> Books:
    """The codebooks after the placed task: its instructions join their group's."""
    if placement.is_new:
        return (*books, features)
    new = join(books[placement.group], features)
    return (*books[: placement.group], new, *books[placement.group + 1 :])


def route(
    books: Books, query: Query, similarity: Similarity, config: GroupingConfig, threshold: float
) -> tuple[Route, ...]:
    """One decision for the file, or one per distinct instruction (`config.route`), in the order of the features."""
    texts = (None,) if config.route == "file" else query.features.texts
    table = similarities(books, query.features, similarity, config)
    groups, fell_back = choose(table, config, threshold)
    return tuple(
        Route(query.task, query.split, text, group, tuple(row), fell, threshold)
        for text, group, row, fell in zip(texts, groups, table.tolist(), fell_back.tolist(), strict=True)
    )


def similarities(
    books: Books, features: Features, similarity: Similarity, config: GroupingConfig
) -> NDArray[np.float64]:
    """Of what is decided about [decisions] to every group: [decisions, groups]."""
    table = np.stack([similarity(features, book) for book in books], axis=1)
    return table.mean(axis=0, keepdims=True) if config.route == "file" else table


def choose(
    table: NDArray[np.float64], config: GroupingConfig, threshold: float
) -> tuple[tuple[int | None, ...], NDArray[np.bool_]]:
    """The group that answers for each row of similarities, and where none reached the threshold, so that the
    configured fallback chose."""
    best: list[int | None] = table.argmax(axis=1).tolist()
    fell_back = table.max(axis=1) < threshold
    if config.fallback != "best":
        for at in np.flatnonzero(fell_back):
            best[at] = table.shape[1] - 1 if config.fallback == "newest" else None
    return tuple(best), fell_back


def group_name(group: int | None) -> str:
    """What people call a group: its adapter's name; None: the model without an adapter."""
    return "base" if group is None else f"g{group}"


def to_record(decision: Placement | Route) -> dict[str, Any]:
    """What the report and the run folder keep of a decision, as JSON."""
    plain = asdict(decision)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
