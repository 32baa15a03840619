"""Placing tasks into groups and routing instructions to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from lcia.config.grouping import GroupingConfig
from lcia.grouping.codebook import Books, Placement, Query, Route, grow, place, route, to_record
from lcia.grouping.thresholds import Threshold
from lcia.protocols import Features


def features(*texts: str) -> Features:
    return Features(texts, np.ones(len(texts), np.int64))


def letters_shared(a: Features, b: Features) -> NDArray[np.float64]:
    """A similarity that can be worked out by eye: the share of equal letters at equal places."""
    table = [[np.mean([x == y for x, y in zip(s, t, strict=True)]) for t in b.texts] for s in a.texts]
    return np.array([np.mean(row) for row in table], np.float64)


def grouping(**settings: object) -> GroupingConfig:
    return GroupingConfig.model_validate(settings)


def placed(books: Books, threshold: float, *texts: str) -> Placement:
    """A task "C" with these instructions among the books."""
    return place(books, "C", features(*texts), letters_shared, Threshold(threshold))


BOOKS = (features("aaaa", "aabb"), features("cccc"))


def test_a_task_with_known_instructions_joins_their_group() -> None:
    assert placed(BOOKS, 0.7, "aaab") == Placement("C", 0, False, (0.75, 0.0), 1.0, 0.7)


def test_a_task_below_the_threshold_opens_a_group() -> None:
    assert placed(BOOKS, 0.76, "aaab") == Placement("C", 2, True, (0.75, 0.0), 1.0, 0.76)


def test_a_similarity_equal_to_the_threshold_is_enough() -> None:
    assert not placed(BOOKS, 0.75, "aaab").is_new


def test_the_similarity_to_a_group_is_the_mean_over_all_pairs() -> None:
    similarities = placed(BOOKS, 0.9, "aaab", "cccb").similarities
    assert similarities == pytest.approx(((0.75 + 0.75 + 0 + 0.25) / 4, (0 + 0.75) / 2))


def test_a_placement_says_how_alike_the_tasks_own_instructions_are() -> None:
    assert placed(BOOKS, 0.9, "aaab", "cccb").own == pytest.approx((1 + 0.25 + 0.25 + 1) / 4)


def test_the_older_group_wins_a_tie() -> None:
    assert placed((BOOKS[1], BOOKS[1]), 0.9, "cccc").group == 0


def test_a_group_grows_by_the_new_instructions_only() -> None:
    placement = Placement("C", 0, False, (1.0, 0.0))
    books = grow(BOOKS, placement, Features(("aabb", "aaac"), np.array([5, 2], np.int64)))
    assert books[0].texts == ("aaaa", "aaac", "aabb")
    assert books[0].counts.tolist() == [1, 2, 6]
    assert books[1] is BOOKS[1]


def test_a_sample_is_routed_by_its_own_instruction() -> None:
    routes = route(BOOKS, Query("C", "test", features("cccc", "aaab")), letters_shared, grouping(), 0.7)
    assert [(r.instruction, r.group, r.fell_back) for r in routes] == [("cccc", 1, False), ("aaab", 0, False)]
    assert routes[1].similarities == (0.75, 0.0)


def test_a_file_is_routed_once_by_the_mean_over_its_instructions() -> None:
    query = Query("C", "test", features("cccc", "aaab"))
    (only,) = route(BOOKS, query, letters_shared, grouping(route="file"), 0.4)
    assert (only.instruction, only.group, only.similarities) == (None, 1, (0.375, 0.5))


@pytest.mark.parametrize(
    ("settings", "group"),
    [({"fallback": "newest"}, 1), ({"fallback": "best"}, 0), ({"fallback": "base"}, None), ({}, 0)],
)
def test_below_the_threshold_the_configured_fallback_answers(settings: dict[str, str], group: int | None) -> None:
    query = Query("C", "test", features("aaab"))
    (only,) = route(BOOKS, query, letters_shared, grouping(**settings), 0.9)
    assert (only.group, only.fell_back, only.threshold) == (group, True, 0.9)


def test_a_record_of_a_decision_is_json() -> None:
    placement = to_record(Placement("A", 2, True, (0.25, 1 / 3), 0.75, 0.5, (0.1, 0.9)))
    assert json.loads(json.dumps(placement)) == {
        "task": "A",
        "group": 2,
        "is_new": True,
        "similarities": [0.25, 1 / 3],
        "own": 0.75,
        "threshold": 0.5,
        "gap": [0.1, 0.9],
    }
    base = to_record(Route("A", "test", "Hör zu", None, (0.1,), True))
    assert json.loads(json.dumps(base)) == base
