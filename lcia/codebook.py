"""Instruction grouping (METHOD 3): which group a new task joins, and which group answers an instruction.

A group's codebook holds the distinct instructions of the tasks that its adapter was trained on. Everything here is
pure; a decision keeps all its similarities, so that a report can show why it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcia.config import GroupingConfig
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
    """The group that a task is trained in. `similarities` [groups before the task]."""

    task: str
    group: int
    is_new: bool
    similarities: tuple[float, ...]


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


def place(
    codebooks: Sequence[Codebook], task: str, features: Features, similarity: Similarity, config: GroupingConfig
) -> Placement:
    """The most similar group, if it reaches the threshold; else a new one. The older group wins a tie."""
    if not config.enabled:
        return Placement(task, 0, not codebooks, ())
    found = tuple(float(np.mean(similarity(features, book.features))) for book in codebooks)
    best = _best(found)
    if best is not None and found[best] >= config.threshold:
        return Placement(task, best, False, found)
    return Placement(task, len(codebooks), True, found)


def grow(codebooks: Sequence[Codebook], placement: Placement, features: Features) -> tuple[Codebook, ...]:
    """The codebooks after the placed task: its instructions join their group's."""
    if placement.is_new:
        return (*codebooks, Codebook((placement.task,), features))
    old = codebooks[placement.group]
    new = Codebook((*old.tasks, placement.task), join(old.features, features))
    return (*codebooks[: placement.group], new, *codebooks[placement.group + 1 :])


def route(
    codebooks: Sequence[Codebook], query: Query, similarity: Similarity, config: GroupingConfig
) -> tuple[Route, ...]:
    """One decision for the file, or one per distinct instruction (`config.route`), in the order of the features."""
    if not config.enabled:
        return (Route(query.task, query.split, None, 0, (), False),)
    table = np.stack([similarity(query.features, book.features) for book in codebooks], axis=1)
    if config.route == "file":
        return (_route(query, None, table.mean(axis=0), config),)
    return tuple(_route(query, text, row, config) for text, row in zip(query.features.texts, table, strict=True))


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

    def follow(self, order: Sequence[str], features: Mapping[str, Features]) -> list[tuple[Placement, Books]]:
        """For each task of the order where it goes, knowing only the tasks before it, and the codebooks afterwards."""
        books: Books = ()
        steps = []
        for task in order:
            placement = self._place(books, task, features[task])
            books = self._grow(books, placement, features[task])
            steps.append((placement, books))
        return steps

    def _place(self, books: Books, task: str, features: Features) -> Placement:
        at = (task, features, *(book.features for book in books))
        if at not in self._placements:
            self._placements[at] = place(books, task, features, self._similarity, self._config)
        return self._placements[at]

    def route(self, books: Books, query: Query) -> tuple[Route, ...]:
        """As the function of that name."""
        at = (query, *(book.features for book in books))
        if at not in self._routes:
            self._routes[at] = route(books, query, self._similarity, self._config)
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


def _route(query: Query, text: str | None, found: NDArray[np.float64], config: GroupingConfig) -> Route:
    similarities = tuple(float(value) for value in found)
    best = int(np.argmax(found))
    fell_back = similarities[best] < config.threshold
    group = _fallback(best, len(similarities), config) if fell_back else best
    return Route(query.task, query.split, text, group, similarities, fell_back)


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
    return asdict(decision) | {"similarities": list(decision.similarities)}


def placement_from(record: Mapping[str, Any]) -> Placement:
    """The inverse of to_record."""
    return Placement(**{**record, "similarities": tuple(record["similarities"])})


def route_from(record: Mapping[str, Any]) -> Route:
    """The inverse of to_record."""
    return Route(**{**record, "similarities": tuple(record["similarities"])})
