"""Instruction grouping (docs/method.md 3): which group a new task joins, and which group answers an instruction.

A group's codebook holds the distinct instructions of the tasks that its adapter was trained on. Everything here is
pure; a decision keeps all its similarities, so that a report can show why it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcia.config.run import GroupingConfig
from lcia.grouping.thresholds import Threshold, given, widest_gap
from lcia.protocols import Features
from lcia.types import Split

Similarity: TypeAlias = Callable[[Features, Features], NDArray[np.float64]]
"""(a, b) -> [len(a.texts)], each text's mean over all texts of b; Embedder.mean_similarity is one."""


@dataclass(frozen=True)
class Codebook:
    """The instructions of one group; groups are numbered from 0 in order of creation."""

    tasks: tuple[str, ...]
    features: Features


Books: TypeAlias = tuple[Codebook, ...]


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


def place(
    codebooks: Sequence[Codebook], task: str, features: Features, similarity: Similarity, threshold: Threshold
) -> Placement:
    """The most similar group, if it reaches the threshold; else a new one. The older group wins a tie."""
    found = tuple(mean(similarity, features, book.features) for book in codebooks)
    best = _best(found)
    own = mean(similarity, features, features)
    joins = best is not None and found[best] >= threshold.value
    group = best if joins and best is not None else len(codebooks)
    return Placement(task, group, not joins, found, own, threshold.value, threshold.gap)


def mean(similarity: Similarity, a: Features, b: Features) -> float:
    """Mean similarity over all pairs of distinct instructions."""
    return float(np.mean(similarity(a, b)))


def grow(codebooks: Sequence[Codebook], placement: Placement, features: Features) -> tuple[Codebook, ...]:
    """The codebooks after the placed task: its instructions join their group's."""
    if placement.is_new:
        return (*codebooks, Codebook((placement.task,), features))
    old = codebooks[placement.group]
    new = Codebook((*old.tasks, placement.task), join(old.features, features))
    return (*codebooks[: placement.group], new, *codebooks[placement.group + 1 :])


def route(
    codebooks: Sequence[Codebook], query: Query, similarity: Similarity, config: GroupingConfig, threshold: float
) -> tuple[Route, ...]:
    """One decision for the file, or one per distinct instruction (`config.route`), in the order of the features."""
    table = np.stack([similarity(query.features, book.features) for book in codebooks], axis=1)
    if config.route == "file":
        return (_route(query, None, table.mean(axis=0), config, threshold),)
    texts = zip(query.features.texts, table, strict=True)
    return tuple(_route(query, text, row, config, threshold) for text, row in texts)


class Grouping:
    """Places and routes by one similarity and configuration; what was asked before is not computed again.

    All orders of eight tasks ask for 1.5 million routes, and few of them differ. Features are told apart by identity,
    so the same ones have to be the same object.
    """

    def __init__(self, similarity: Similarity, config: GroupingConfig) -> None:
        self._similarity, self._config = _remembered(similarity), config
        self._grow = cache(self._grown)
        self._features: dict[object, Features] = {}
        self._placements: dict[tuple[object, ...], Placement] = {}
        self._routes: dict[tuple[object, ...], tuple[Route, ...]] = {}
        self._thresholds: dict[tuple[Features, ...], Threshold] = {}

    def follow(self, order: Sequence[str], features: Mapping[str, Features]) -> list[tuple[Placement, Books]]:
        """For each task of the order where it goes, knowing only the tasks before it, and the codebooks afterwards."""
        books: Books = ()
        steps = []
        for number, task in enumerate(order, start=1):
            # Sorted: the threshold depends on which tasks are known, not on their order.
            threshold = self._threshold(tuple(features[known] for known in sorted(order[:number])))
            placement = self._place(books, task, features[task], threshold)
            books = self._grow(books, placement, features[task])
            steps.append((placement, books))
        return steps

    def _threshold(self, known: tuple[Features, ...]) -> Threshold:
        """The given one, or the one chosen from the tasks that the stream has reached."""
        if known not in self._thresholds:
            self._thresholds[known] = given(self._config) or self._chosen(known)
        return self._thresholds[known]

    def _chosen(self, tasks: tuple[Features, ...]) -> Threshold:
        limits = self._config.embedder.auto_range
        assert limits is not None, "the configuration refuses auto for this embedder"
        between = [mean(self._similarity, a, b) for a, b in combinations(tasks, 2)]
        return widest_gap(between, [mean(self._similarity, a, a) for a in tasks], limits)

    def _place(self, books: Books, task: str, features: Features, threshold: Threshold) -> Placement:
        at = (task, features, threshold, *(book.features for book in books))
        if at not in self._placements:
            self._placements[at] = place(books, task, features, self._similarity, threshold)
        return self._placements[at]

    def route(self, books: Books, query: Query, threshold: float) -> tuple[Route, ...]:
        """As the function of that name."""
        at = (query, threshold, *(book.features for book in books))
        if at not in self._routes:
            self._routes[at] = route(books, query, self._similarity, self._config, threshold)
        return self._routes[at]

    def _grown(self, books: Books, placement: Placement, features: Features) -> Books:
        """Two ways to the same instructions lead to the same object."""
        grown = list(grow(books, placement, features))
        book = grown[placement.group]
        texts = (book.features.texts, book.features.counts.tobytes())
        at = texts if book.features.vectors is None else id(book.features)
        grown[placement.group] = replace(book, features=self._features.setdefault(at, book.features))
        return tuple(grown)


def _remembered(similarity: Similarity) -> Similarity:
    known: dict[tuple[object, object], tuple[NDArray[np.float64], Features, Features]] = {}

    def look(a: Features, b: Features) -> NDArray[np.float64]:
        at = (_content(a), _content(b))
        if at not in known:
            # The features are kept, so that no other ones get their place in memory.
            known[at] = (similarity(a, b), a, b)
        return known[at][0]

    return look


def _content(features: Features) -> object:
    """What a similarity depends on: the texts alone where they are the features."""
    return features.texts if features.vectors is None else id(features)


def _route(
    query: Query, text: str | None, found: NDArray[np.float64], config: GroupingConfig, threshold: float
) -> Route:
    similarities = tuple(float(value) for value in found)
    best = int(np.argmax(found))
    fell_back = similarities[best] < threshold
    group = _fallback(best, len(similarities), config) if fell_back else best
    return Route(query.task, query.split, text, group, similarities, fell_back, threshold)


def _fallback(best: int, groups: int, config: GroupingConfig) -> int | None:
    return {"newest": groups - 1, "best": best, "base": None}[config.fallback]


def _best(similarities: Sequence[float]) -> int | None:
    return int(np.argmax(similarities)) if similarities else None


def join(a: Features, b: Features) -> Features:
    """Distinct instructions of both, in order of first appearance; multiplicities add up.

    Where both hold a text, its vector is the mean of the two weighted by their multiplicities, brought to unit length.
    """
    assert (a.vectors is None) == (b.vectors is None), "features of two different embedders"
    places = {text: place for place, text in enumerate(dict.fromkeys((*a.texts, *b.texts)))}
    targets = np.array([places[text] for text in (*a.texts, *b.texts)], np.int64)
    counts = np.zeros(len(places), np.int64)
    np.add.at(counts, targets, np.concatenate([a.counts, b.counts]))
    joined = Features(tuple(places), counts)
    if a.vectors is None or b.vectors is None:
        return joined
    weighted = np.concatenate([a.vectors * a.counts[:, None], b.vectors * b.counts[:, None]])
    sums = np.zeros((len(places), weighted.shape[1]))
    np.add.at(sums, targets, weighted)
    return replace(joined, vectors=unit(sums))


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [n, dim] brought to unit length; a row of zeros stays zero and is like nothing."""
    exact = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > 0)
    return scaled.astype(np.float32)


def group_name(group: int | None) -> str:
    """What people call a group: its adapter's name; None: the model without an adapter."""
    return "base" if group is None else f"g{group}"


def to_record(decision: Placement | Route) -> dict[str, Any]:
    """What the report and the run folder keep of a decision, as JSON."""
    plain = asdict(decision)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def placement_from(record: Mapping[str, Any]) -> Placement:
    """The inverse of to_record."""
    gap = tuple(record["gap"]) if record["gap"] else None
    return Placement(**{**record, "similarities": tuple(record["similarities"]), "gap": gap})


def route_from(record: Mapping[str, Any]) -> Route:
    """The inverse of to_record."""
    return Route(**{**record, "similarities": tuple(record["similarities"])})
