"""Placing tasks into groups and routing instructions to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from lcia.config.run import COIN_ORDER, GroupingConfig, TfidfConfig
from lcia.data.minicoin import instructions
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.grouping.codebook import (
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
from lcia.grouping.thresholds import Threshold
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


def placed(books: tuple[Codebook, ...], threshold: float, *texts: str) -> Placement:
    """A task "C" with these instructions among the books."""
    return place(books, "C", features(*texts), letters_shared, Threshold(threshold))


BOOKS = (Codebook(("A",), features("aaaa", "aabb")), Codebook(("B",), features("cccc")))


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
    assert books[0].tasks == ("A", "C")
    assert books[0].features.texts == ("aaaa", "aabb", "aaac")
    assert books[0].features.counts.tolist() == [1, 6, 2]
    assert books[1] is BOOKS[1]


ORDERS = pytest.mark.parametrize("order", [COIN_ORDER, COIN_ORDER[::-1], ALPHABET])
PUBLISHED = {
    frozenset({"ScienceQA"}),
    frozenset({"TextVQA", "GQA", "VizWiz", "VQAv2", "OCR-VQA"}),
    frozenset({"ImageNet"}),
    frozenset({"Grounding"}),
}


def groups_of(order: tuple[str, ...], lines: Mapping[str, tuple[str, ...]], **settings: object) -> list[Placement]:
    config = grouping(**settings)
    assert isinstance(config.embedder, TfidfConfig)
    decide = Grouping(TfidfEmbedder(config.embedder).mean_similarity, config)
    texts = {task: features(*lines[task]) for task in order}
    return [placement for placement, _ in decide.follow(order, texts)]


def members(placements: list[Placement]) -> set[frozenset[str]]:
    numbers = {p.group for p in placements}
    return {frozenset(p.task for p in placements if p.group == number) for number in numbers}


@ORDERS
@pytest.mark.parametrize("threshold", ["origin", 0.9])
def test_coin_in_any_published_order_makes_the_published_four_groups(order: tuple[str, ...], threshold: object) -> None:
    placements = groups_of(order, {task: (line,) for task, line in ORIGIN.items()}, threshold=threshold)
    assert members(placements) == PUBLISHED
    assert [p.group for p in placements if p.is_new] == [0, 1, 2, 3]


@ORDERS
@pytest.mark.parametrize("fit", ["pairwise", "corpus"])
@pytest.mark.parametrize("lines", [instructions.ORIGIN, instructions.DIVERSE, instructions.TEN])
def test_a_threshold_chosen_from_the_data_makes_the_groups_a_person_would(
    order: tuple[str, ...], fit: str, lines: Mapping[str, tuple[str, ...]]
) -> None:
    assert members(groups_of(order, lines, embedder={"kind": "tfidf", "fit": fit})) == PUBLISHED


@ORDERS
def test_the_papers_threshold_for_paraphrases_makes_the_same_groups_by_name(order: tuple[str, ...]) -> None:
    for lines in (instructions.DIVERSE, instructions.TEN):
        assert members(groups_of(order, lines, threshold="diverse")) == PUBLISHED


def test_a_chosen_threshold_looks_at_no_task_that_is_still_to_come() -> None:
    whole = groups_of(COIN_ORDER, instructions.TEN)
    for length in range(1, len(COIN_ORDER)):
        assert groups_of(COIN_ORDER[:length], instructions.TEN) == whole[:length]


def test_a_decision_names_the_gap_that_its_threshold_was_chosen_from() -> None:
    last = groups_of(COIN_ORDER, instructions.TEN)[-1]
    assert last.gap == pytest.approx((0.157, 0.407), abs=5e-4)
    assert last.threshold == pytest.approx(sum(last.gap) / 2)
    given = groups_of(COIN_ORDER, instructions.TEN, threshold=0.4)[-1]
    assert (given.threshold, given.gap) == (0.4, None)


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
        assert memory.route(again[-1][1], query, 0.7) == fresh.route(alone[-1][1], query, 0.7)
    assert len(asked) == len(set(asked))


def test_vectors_are_told_apart_even_where_their_texts_are_equal() -> None:
    def cosine(a: Features, b: Features) -> NDArray[np.float64]:
        assert a.vectors is not None
        assert b.vectors is not None
        return np.asarray((a.vectors @ b.vectors.T).mean(axis=1), np.float64)

    east, north = with_vectors(("x",), [1], [[1, 0]]), with_vectors(("x",), [1], [[0, 1]])
    steps = Grouping(cosine, grouping(threshold=0.5)).follow(("A", "B", "C"), {"A": east, "B": north, "C": east})
    assert [placement.group for placement, _ in steps] == [0, 1, 0]


def test_groups_of_equal_texts_keep_their_own_vectors() -> None:
    named = {"a": with_vectors(("q",), [1], [[1, 0]]), "b": with_vectors(("q",), [1], [[0, 1]])}
    decided = Grouping(lambda a, b: np.array(a.vectors @ b.vectors.T).mean(1), grouping(threshold=0.5))
    [_, (placement, books)] = decided.follow(("a", "b"), named)
    assert placement.group == 1
    assert [book.features.vectors.tolist() for book in books] == [[[1, 0]], [[0, 1]]]


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


def test_joined_vectors_are_weighted_by_multiplicity_and_of_unit_length() -> None:
    a = with_vectors(("x", "y"), [3, 1], [[1, 0], [0, 1]])
    b = with_vectors(("z", "x"), [2, 4], [[0, -1], [0, 1]])
    joined = join(a, b)
    assert joined.texts == ("x", "y", "z")
    assert joined.counts.tolist() == [7, 1, 2]
    assert joined.vectors is not None
    np.testing.assert_allclose(joined.vectors, np.array([[0.6, 0.8], [0, 1], [0, -1]]), atol=1e-7)


def test_decisions_survive_json() -> None:
    for gap in (None, (0.1, 0.9)):
        placement = Placement("A", 2, True, (0.25, 1 / 3), 0.75, 0.5, gap)
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
    # Each with itself, and both with each other, seen from either side.
    assert len(vectors) == 2 * 4
