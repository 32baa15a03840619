"""Streams of tasks: the groups that they make, and that nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from lcia.config.benchmarks import COIN_ORDER
from lcia.config.grouping import TfidfConfig
from lcia.data.minicoin import instructions
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.grouping.codebook import Placement, Query
from lcia.grouping.many_orders import Grouping
from lcia.protocols import Features
from tests.unit.grouping.test_codebook import features, grouping, letters_shared
from tests.unit.grouping.test_features import with_vectors

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
    assert [[book.texts for book in books] for _, books in steps] == [
        [("aaaa",)],
        [("aaaa",), ("bbbb",)],
        [("aaaa", "aaab"), ("bbbb",)],
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
    books = steps[1][1]
    assert [book.vectors.tolist() for book in books if book.vectors is not None] == [[[1, 0]], [[0, 1]]]


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
