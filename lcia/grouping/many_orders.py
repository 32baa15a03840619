"""The decisions of `codebook`, each made once however many task orders ask for it.

The 40,320 orders of eight tasks ask for 322,560 placements and 1.5 million routes, of which few differ. So every
decision is remembered by what it depends on. Features count as equal only where they are the same object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lcia.config.grouping import GroupingConfig
from lcia.grouping.codebook import (
    Books,
    Placement,
    Query,
    Route,
    Similarity,
    choose,
    grow,
    mean,
    place,
    route,
    similarities,
)
from lcia.grouping.fusion import anchor, open_group, strongest, weigh
from lcia.grouping.thresholds import Threshold, given, widest_gap
from lcia.protocols import Features

MOST_ROUTES = 4096
"""Queries whose decisions are kept with all their similarities; few are shown."""


class Grouping:
    """Places and routes by one similarity and configuration."""

    def __init__(self, similarity: Similarity, config: GroupingConfig) -> None:
        self._similarity, self._config = _remembered(similarity), config
        self._known: dict[object, Features] = {}
        self._threshold, self._place, self._grow = cache(self._chosen), cache(self._placed), cache(self._grown)
        self._table, self.choose = cache(self._similarities), cache(self._chosen_groups)
        self._anchor = cache(anchor)
        self.route = lru_cache(MOST_ROUTES)(self._routed)

    def follow(self, order: Sequence[str], features: Mapping[str, Features]) -> list[tuple[Placement, Books]]:
        """For each task of the order where it goes, knowing only the tasks before it, and the codebooks afterwards."""
        books: Books = ()
        steps = []
        for number, task in enumerate(order, start=1):
            placement, books = self.step(books, {known: features[known] for known in order[:number]}, task)
            steps.append((placement, books))
        return steps

    def step(self, books: Books, known: Mapping[str, Features], task: str) -> tuple[Placement, Books]:
        """Where a task goes and the codebooks afterwards. `known`: features of the tasks before it and of its own."""
        # Sorted: the threshold depends on which tasks are known, not on their order.
        threshold = self._threshold(tuple(known[name] for name in sorted(known)))
        placement = self._place(books, task, known[task], threshold)
        return placement, self._grow(books, placement, known[task])

    def open(self, books: Books, task: str, features: Features) -> tuple[Placement, Books]:
        """As step(), where every task has a group of its own."""
        return open_group(books, task, self._anchor(features), self._similarity)

    def weights(self, books: Books, features: Features) -> tuple[tuple[str | None, tuple[float, ...]], ...]:
        """Of all groups, for each distinct instruction (`route: file`: for all at once, under None)."""
        fusion = self._config.fusion
        assert fusion is not None
        found = weigh(self._table(books, features), fusion.temperature)
        texts = (None,) if self._config.route == "file" else features.texts
        return tuple(sorted(zip(texts, found, strict=True), key=lambda pair: pair[0] or ""))

    def mixed(self, books: Books, query: Query) -> tuple[Route, ...]:
        """The decisions about a query where all groups answer: the one that counts most is named."""
        texts = (None,) if self._config.route == "file" else query.features.texts
        weights, table = dict(self.weights(books, query.features)), self._table(books, query.features).tolist()
        return tuple(
            Route(query.task, query.split, text, strongest(weights[text]), tuple(row), False)
            for text, row in zip(texts, table, strict=True)
        )

    def _chosen(self, tasks: tuple[Features, ...]) -> Threshold:
        """The given one, or the one chosen from the tasks that the stream has reached."""
        if threshold := given(self._config):
            return threshold
        limits = self._config.embedder.auto_range
        assert limits is not None, "the configuration refuses auto for this embedder"
        between = [mean(self._similarity, a, b) for a, b in combinations(tasks, 2)]
        return widest_gap(between, [mean(self._similarity, a, a) for a in tasks], limits)

    def _placed(self, books: Books, task: str, features: Features, threshold: Threshold) -> Placement:
        return place(books, task, features, self._similarity, threshold)

    def _routed(self, books: Books, query: Query, threshold: float) -> tuple[Route, ...]:
        """The decisions about a query, with all that they were made from."""
        return route(books, query, self._similarity, self._config, threshold)

    def _similarities(self, books: Books, features: Features) -> NDArray[np.float64]:
        return similarities(books, features, self._similarity, self._config)

    def _chosen_groups(self, books: Books, features: Features, threshold: float) -> tuple[int | None, ...]:
        """Only which groups answer, in the order of the decisions."""
        return choose(self._table(books, features), self._config, threshold)[0]

    def _grown(self, books: Books, placement: Placement, features: Features) -> Books:
        """Two ways to the same instructions lead to the same object."""
        grown = list(grow(books, placement, features))
        book = grown[placement.group]
        at = (book.texts, book.counts.tobytes()) if book.vectors is None else id(book)
        grown[placement.group] = self._known.setdefault(at, book)
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
