"""Captions: CIDEr-D against pycocoevalcap 1.2, which needs Java to cut words but not to score them."""

from __future__ import annotations

import pytest

from lcia.metrics.captions import bleu_4, fit_cider

CAPTIONS = [
    ["a man rides a horse", "the man is riding a brown horse", "a person on a horse"],
    ["two dogs play in the snow", "dogs playing in snow"],
    ["a red bus on the street", "the bus is red"],
]
SAID = ["a man is riding a horse", "two cats sleep on a sofa", "a red bus on the street"]


def test_cider_is_that_of_pycocoevalcap_over_ten() -> None:
    cider = fit_cider(CAPTIONS)
    found = [cider(said, right) for said, right in zip(SAID, CAPTIONS, strict=True)]
    assert found == pytest.approx([0.3267510952960793, 0.02704504770001945, 0.5894448580680072])


def test_the_only_reference_word_by_word_has_the_highest_cider() -> None:
    cider = fit_cider([["a man rides a horse"], ["two dogs play"]])
    assert cider("A man rides a horse.", ["a man rides a horse"]) == pytest.approx(1.0)


def test_saying_a_word_of_the_reference_again_and_again_does_not_help() -> None:
    cider = fit_cider(CAPTIONS)
    assert cider("horse horse horse horse horse", CAPTIONS[0]) < cider("a man on a horse", CAPTIONS[0]) / 2


@pytest.mark.parametrize("said", ["", "!?", "zebra"])
def test_a_caption_without_a_word_of_the_references_scores_nothing(said: str) -> None:
    assert fit_cider(CAPTIONS)(said, CAPTIONS[0]) == bleu_4(said, CAPTIONS[0]) == 0


def test_without_references_there_is_no_score() -> None:
    assert fit_cider(CAPTIONS)("a man", []) == bleu_4("a man", []) == 0


def test_bleu_of_four_words_in_a_row() -> None:
    # 6, 5, 4, 3 of 6, 5, 4, 3 n-grams stand in a reference of the same length.
    assert bleu_4("the cat sat on the mat", ["a dog", "the cat sat on the mat"]) == pytest.approx(1.0)
    # 5/6, 3/5, 1/4 and, smoothed, 1/(2*3) n-grams.
    assert bleu_4("the cat sat on the mat", ["the cat is on the mat"]) == pytest.approx((5 / 6 * 3 / 5 / 4 / 6) ** 0.25)
