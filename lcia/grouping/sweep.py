"""All groupings of a stream, over the whole range of thresholds: between two similarities nothing changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lcia.config.grouping import GroupingConfig
from lcia.grouping.codebook import Books, Placement, Similarity, choose, grow, place, similarities
from lcia.grouping.thresholds import Threshold
from lcia.protocols import Features


@dataclass(frozen=True)
class Stretch:
    """Thresholds above `low` and up to `high`, which all group the tasks in one way; the ends may be infinite."""

    low: float
    high: float
    placements: tuple[Placement, ...]
    books: Books

    @property
    def groups(self) -> int:
        """How many there are."""
        return len(self.books)

    def within(self, limits: tuple[float, float]) -> tuple[float, float]:
        """Its part between two limits, empty (low = high) where it has none."""
        low, high = max(self.low, limits[0]), min(self.high, limits[1])
        return low, max(low, high)

    def width(self, limits: tuple[float, float]) -> float:
        low, high = self.within(limits)
        return high - low


def sweep(order: Sequence[str], features: Mapping[str, Features], similarity: Similarity) -> Iterator[Stretch]:
    """Every grouping of the order, from the lowest threshold to the highest.

    A task joins the most similar group where that reaches the threshold. So a grouping stays as it is down to the
    greatest similarity that was too small, and up to the smallest one that was enough.
    """
    threshold = -math.inf
    while threshold < math.inf:
        placements, books = _follow(order, features, similarity, Threshold(threshold))
        refused = [max(p.similarities) for p in placements if p.is_new and p.similarities]
        enough = [max(p.similarities) for p in placements if not p.is_new]
        stretch = Stretch(max(refused, default=-math.inf), min(enough, default=math.inf), placements, books)
        yield stretch
        threshold = math.nextafter(stretch.high, math.inf)


def _follow(
    order: Sequence[str], features: Mapping[str, Features], similarity: Similarity, threshold: Threshold
) -> tuple[tuple[Placement, ...], Books]:
    books: Books = ()
    placements: list[Placement] = []
    for task in order:
        placements.append(place(books, task, features[task], similarity, threshold))
        books = grow(books, placements[-1], features[task])
    return tuple(placements), books


def widest(stretches: Sequence[Stretch], limits: tuple[float, float]) -> int:
    """The place of the one that is widest between the limits; of equally wide ones the first."""
    widths = [round(stretch.width(limits), 9) for stretch in stretches]
    return widths.index(max(widths))


def at_home(
    stretch: Stretch, asked: Mapping[str, Features], similarity: Similarity, config: GroupingConfig, threshold: float
) -> float:
    """The share of samples, by the tasks that ask them, that are answered at the end by the group that their task was
    trained in."""
    home = {placement.task: placement.group for placement in stretch.placements}
    right = total = 0
    for task, features in asked.items():
        groups, _ = choose(similarities(stretch.books, features, similarity, config), config, threshold)
        # One decision for the whole file serves all of its samples.
        counts = features.counts.tolist() if config.route == "sample" else [int(features.counts.sum())]
        right += sum(count for group, count in zip(groups, counts, strict=True) if group == home[task])
        total += sum(counts)
    return right / total
