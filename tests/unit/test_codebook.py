"""Placing tasks into groups and routing instructions to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from lcia.codebook import (
    Codebook,
    Grouping,
    Placement,
    Query,
    Route,
    grow,
    join,
    place,
    placement_from,
    route,
    route_from,
    to_record,
)
from lcia.config import COIN_ORDER, GroupingConfig, TfidfConfig
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.protocols import Features

LETTER = "Answer with the option's letter from the given choices directly."
WORD = "Answer the question using a single word or phrase."
OBJECT = "What is the object in the image?"
BOX = "Please provide the bounding box coordinate of the region this sentence describes"
ORIGIN: Mapping[str, str] = dict.fromkeys(COIN_ORDER, WORD) | {
    "ScienceQA": LETTER,
    "ImageNet": OBJECT,
    "Grounding": BOX,
}
ALPHABET = tuple(sorted(COIN_ORDER))


def features(*texts: str) -> Features:
    return Features(texts, np.ones(len(texts), np.int64))


def with_vectors(texts: tuple[str, ...], counts: list[int], vectors: list[list[float]]) -> Features:
    return Features(texts, np.array(counts, np.int64), np.array(vectors, np.float32))


def letters_shared(a: Features, b: Features) -> NDArray[np.float64]:
    """A similarity that can be worked out by eye: the share of equal letters at equal places."""
    table = [[np.mean([x == y for x, y in zip(s, t, strict=True)]) for t in b.texts] for s in a.texts]
    return np.array([np.mean(row) for row in table], np.float64)


def grouping(**settings: object) -> GroupingConfig:
    return GroupingConfig.model_validate(settings)


BOOKS = (Codebook(("A",), features("aaaa", "aabb")), Codebook(("B",), features("cccc")))


def test_a_task_with_known_instructions_joins_their_group() -> None:
    placement = place(BOOKS, "C", features("aaab"), letters_shared, grouping(threshold=0.7))
    assert placement == Placement("C", 0, False, (0.75, 0.0))


def test_a_task_below_the_threshold_opens_a_group() -> None:
    assert place(BOOKS, "C", features("aaab"), letters_shared, grouping(threshold=0.76)) == Placement(
        "C", 2, True, (0.75, 0.0)
    )


def test_a_similarity_equal_to_the_threshold_is_enough() -> None:
    assert not place(BOOKS, "C", features("aaab"), letters_shared, grouping(threshold=0.75)).is_new


def test_the_similarity_to_a_group_is_the_mean_over_all_pairs() -> None:
    placement = place(BOOKS, "C", features("aaab", "cccb"), letters_shared, grouping())
    assert placement.similarities == pytest.approx(((0.75 + 0.75 + 0 + 0.25) / 4, (0 + 0.75) / 2))


def test_the_older_group_wins_a_tie() -> None:
    twins = (BOOKS[1], BOOKS[1])
    assert place(twins, "C", features("cccc"), letters_shared, grouping()).group == 0


def test_a_group_grows_by_the_new_instructions_only() -> None:
    placement = Placement("C", 0, False, (1.0, 0.0))
    books = grow(BOOKS, placement, Features(("aabb", "aaac"), np.array([5, 2], np.int64)))
    assert books[0].tasks == ("A", "C")
    assert books[0].features.texts == ("aaaa", "aabb", "aaac")
    assert books[0].features.counts.tolist() == [1, 6, 2]
    assert books[1] is BOOKS[1]


@pytest.mark.parametrize("order", [COIN_ORDER, COIN_ORDER[::-1], ALPHABET])
def test_coin_in_any_published_order_makes_the_published_four_groups(order: tuple[str, ...]) -> None:
    published = Grouping(TfidfEmbedder(TfidfConfig()).mean_similarity, GroupingConfig())
    lines = {task: features(line) for task, line in ORIGIN.items()}
    placements = [placement for placement, _ in published.follow(order, lines)]
    groups = {frozenset(p.task for p in placements if p.group == group) for group in range(8)} - {frozenset()}
    assert groups == {
        frozenset({"ScienceQA"}),
        frozenset({"TextVQA", "GQA", "VizWiz", "VQAv2", "OCR-VQA"}),
        frozenset({"ImageNet"}),
        frozenset({"Grounding"}),
    }
    assert [p.group for p in placements if p.is_new] == [0, 1, 2, 3]


def test_grouping_switched_off_puts_every_task_into_one_group() -> None:
    texts = {"A": features("aaaa"), "B": features("bbbb")}
    steps = Grouping(letters_shared, grouping(enabled=False)).follow(("A", "B"), texts)
    assert [placement for placement, _ in steps] == [Placement("A", 0, True, ()), Placement("B", 0, False, ())]
    books = steps[-1][1]
    assert route(books, Query("A", "test", texts["A"]), letters_shared, grouping(enabled=False)) == (
        Route("A", "test", None, 0, (), False),
    )


def test_each_task_leaves_the_codebooks_that_the_next_one_finds() -> None:
    texts = {"A": features("aaaa"), "B": features("bbbb"), "C": features("aaab")}
    steps = Grouping(letters_shared, grouping(threshold=0.7)).follow(("A", "B", "C"), texts)
    assert [[book.tasks for book in books] for _, books in steps] == [
        [("A",)],
        [("A",), ("B",)],
        [("A", "C"), ("B",)],
    ]


def test_what_is_asked_again_is_answered_alike_and_not_computed_again() -> None:
    asked = []

    def counted(a: Features, b: Features) -> NDArray[np.float64]:
        asked.append((a.texts, b.texts))
        return letters_shared(a, b)

    texts = {"A": features("aaaa"), "B": features("bbbb"), "C": features("aaab")}
    memory, query = Grouping(counted, grouping(threshold=0.7)), Query("B", "test", features("abab"))
    for order in (*permutations("ABC"), *permutations("ABC")):
        fresh = Grouping(letters_shared, grouping(threshold=0.7))
        again, alone = memory.follow(order, texts), fresh.follow(order, texts)
        assert [placement for placement, _ in again] == [placement for placement, _ in alone]
        assert memory.route(again[-1][1], query) == fresh.route(alone[-1][1], query)
    assert len(asked) == len(set(asked))


def test_vectors_are_told_apart_even_where_their_texts_are_equal() -> None:
    def cosine(a: Features, b: Features) -> NDArray[np.float64]:
        assert a.vectors is not None
        assert b.vectors is not None
        return np.asarray((a.vectors @ b.vectors.T).mean(axis=1), np.float64)

    east, north = with_vectors(("x",), [1], [[1, 0]]), with_vectors(("x",), [1], [[0, 1]])
    steps = Grouping(cosine, grouping(threshold=0.5)).follow(("A", "B", "C"), {"A": east, "B": north, "C": east})
    assert [placement.group for placement, _ in steps] == [0, 1, 0]


def test_a_sample_is_routed_by_its_own_instruction() -> None:
    routes = route(BOOKS, Query("C", "test", features("cccc", "aaab")), letters_shared, grouping(threshold=0.7))
    assert [(r.instruction, r.group, r.fell_back) for r in routes] == [("cccc", 1, False), ("aaab", 0, False)]
    assert routes[1].similarities == (0.75, 0.0)


def test_a_file_is_routed_once_by_the_mean_over_its_instructions() -> None:
    query = Query("C", "test", features("cccc", "aaab"))
    (only,) = route(BOOKS, query, letters_shared, grouping(threshold=0.4, route="file"))
    assert (only.instruction, only.group, only.similarities) == (None, 1, (0.375, 0.5))


@pytest.mark.parametrize(("fallback", "group"), [("newest", 1), ("best", 0), ("base", None)])
def test_below_the_threshold_the_configured_fallback_answers(fallback: str, group: int | None) -> None:
    query = Query("C", "test", features("aaab"))
    (only,) = route(BOOKS, query, letters_shared, grouping(threshold=0.9, fallback=fallback))
    assert (only.group, only.fell_back) == (group, True)


def test_joined_vectors_are_weighted_by_multiplicity_and_of_unit_length() -> None:
    a = with_vectors(("x", "y"), [3, 1], [[1, 0], [0, 1]])
    b = with_vectors(("z", "x"), [2, 4], [[0, -1], [0, 1]])
    joined = join(a, b)
    assert joined.texts == ("x", "y", "z")
    assert joined.counts.tolist() == [7, 1, 2]
    assert joined.vectors is not None
    np.testing.assert_allclose(joined.vectors, np.array([[0.6, 0.8], [0, 1], [0, -1]]), atol=1e-7)


def test_decisions_survive_json() -> None:
    placement = Placement("A", 2, True, (0.25, 1 / 3))
    assert placement_from(json.loads(json.dumps(to_record(placement)))) == placement
    base = Route("A", "test", "Hör zu", None, (0.1,), True)
    assert route_from(json.loads(json.dumps(to_record(base)))) == base


def _counting(calls: list[tuple[Features, Features]]) -> Callable[[Features, Features], NDArray[np.float64]]:
    def similarity(a: Features, b: Features) -> NDArray[np.float64]:
        calls.append((a, b))
        return np.ones(len(a.texts))

    return similarity


def test_equal_texts_are_compared_once_and_vectors_once_for_each_object() -> None:
    texts: list[tuple[Features, Features]] = []
    grouped = Grouping(_counting(texts), grouping())
    for order in (("A", "B"), ("B", "A")):
        grouped.follow(order, {name: features("aaab") for name in order})
    assert len(texts) == 1
    vectors: list[tuple[Features, Features]] = []
    grouped = Grouping(_counting(vectors), grouping())
    for _ in range(2):
        known = {name: replace(features("aaab"), vectors=np.eye(4)[:1]) for name in "AB"}
        grouped.follow(("A", "B"), known)
        grouped.follow(("A", "B"), known)
    assert len(vectors) == 2
