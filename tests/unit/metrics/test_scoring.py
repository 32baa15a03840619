"""Scores worked out by hand from docs/method.md 6."""

from typing import get_args

import pytest

from lcia.config.benchmarks import ScorerName
from lcia.metrics import scoring

TEN = ["stop"] * 2 + ["stop sign"] * 7 + ["a sign"]


@pytest.mark.parametrize(("prediction", "score"), [(" Cat ", 1), ("feline", 1), ("cat.", 0), ("cats", 0), ("", 0)])
def test_exact_ignores_case_and_blanks_around(prediction, score):
    assert scoring.exact(prediction, ["cat", "Feline"]) == score


@pytest.mark.parametrize(("prediction", "score"), [("Yes.", 1), ("yes", 1), ("y.es", 0), (".", 0)])
def test_exact_without_dot_ignores_the_final_dot(prediction, score):
    assert scoring.exact_without_dot(prediction, ["yes"]) == score


@pytest.mark.parametrize(("prediction", "score"), [("CAT", 1), ("cat ", 0), ("feline", 0)])
def test_legacy_exact_knows_one_answer_and_counts_blanks(prediction, score):
    assert scoring.legacy_exact(prediction, ["cat", "feline"]) == score


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("B. the heart", "B"),
        ("The answer is B", "B"),
        ("The answer is (a).", "A"),
        ("The answer is A", "A"),
        ("A whale lives in C", "C"),
        ("A whale", None),
        ("I think it is D", "D"),
        ("e.g. B", "E"),
        ("7", "7"),
        ("it is 7", None),
        ("", None),
        ("none", None),
    ],
)
def test_the_first_lone_letter_that_is_no_article_is_the_choice(prediction, letter):
    assert scoring.choice(prediction) == letter


def test_legacy_multiple_choice_takes_the_article_for_choice_a():
    assert scoring.multiple_choice("Probably a whale", ["A"]) == 0
    assert scoring.legacy_multiple_choice("Probably a whale", ["A"]) == 1
    assert scoring.legacy_multiple_choice("D. it is a whale", ["D"]) == 1


def test_no_choice_is_never_right():
    assert scoring.multiple_choice("whale", ["whale"]) == scoring.legacy_multiple_choice("whale", ["whale"]) == 0


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("Stop sign!", 1.0),  # 7 of 10: at least 6 others whichever is left out
        ("stop", 0.6),  # 2 of 10: (8 * 2/3 + 2 * 1/3) / 10
        ("the sign", 0.3),  # 1 of 10: (9 * 1/3 + 1 * 0) / 10
        ("go", 0.0),
    ],
)
def test_soft_accuracy_is_a_third_per_agreeing_human_averaged_over_leaving_one_out(prediction, score):
    assert scoring.soft_accuracy(prediction, TEN) == pytest.approx(score)


@pytest.mark.parametrize(("prediction", "score"), [("RED", 1), ("the red", 0), ("", 0)])
def test_soft_accuracy_with_one_answer_is_case_folded_equality(prediction, score):
    assert scoring.soft_accuracy(prediction, ["red"]) == score


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Three\ndogs?", "3 dogs"),
        ("1,000", "1000"),
        ("2.50.", "2.50"),
        ("don't", "dont"),
        ("dont", "dont"),
        ("dog's", "dog's"),
        ("black/white", "black white"),
        ("black - white", "black white"),
        ("were", "were"),
    ],
)
def test_human_answers_are_compared_in_a_plain_form(text, plain):
    assert scoring.plain_answer(text) == plain


@pytest.mark.parametrize(
    ("prediction", "strict", "legacy"),
    [("a Tabby cat.", 1, 1), ("tabby", 1, 1), ("dog", 0, 0), ("", 0, 1), (" ", 0, 1), (".", 0, 0)],
)
def test_contains_works_in_both_directions_and_legacy_accepts_silence(prediction, strict, legacy):
    assert scoring.contains(prediction, ["tabby cat"]) == strict
    assert scoring.legacy_contains(prediction, ["tabby cat"]) == legacy


def test_iou_of_two_squares_that_share_half_is_a_third():
    assert scoring.iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert scoring.iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert scoring.iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("[0.0, 0.0, 1.0, 0.6]", 1),
        ("The box is (0, 0) to (1, .6)", 1),
        ("[0.0, 0.0, 1.0, 0.5]", 0),  # exactly half is not above half
        ("x1=0 y1=0 x2=1 y2=0.6", 1),
        ("[1.0, 0.6, 0.0, 0.0]", 0),
        ("0.1, 0.2", 0),
        ("", 0),
    ],
)
def test_a_box_counts_above_half_overlap(prediction, score):
    assert scoring.iou_above_half(prediction, ["[0, 0, 1, 1]"]) == score


def test_legacy_box_loses_the_last_digit_of_the_last_coordinate():
    assert scoring.legacy_box(" [0.10,0.20,0.30,0.48]") == (0.10, 0.20, 0.30, 0.4)
    assert scoring.legacy_box("no box, at, all, here") is None
    assert scoring.legacy_box("[0.1,0.2,0.3]") is None


def test_legacy_grounding_can_reject_a_right_box_because_of_that_digit():
    prediction, references = "[0.0,0.0,1.0,0.59]", ["[0.0,0.0,1.0,1.0]"]
    assert scoring.iou_above_half(prediction, references) == 1
    assert scoring.legacy_iou_above_half(prediction, references) == 0


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("the cat sat on the mat", ["the cat is on the mat"], 5 / 6),
        ("a b c d", ["a x b y"], 0.5),
        ("b a", ["a b"], 0.5),
        ("Hello!", ["bye", "hello"], 1.0),
        ("", ["hello"], 0.0),
        ("hello", [], 0.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(prediction, references, score):
    assert scoring.rouge_l(prediction, references) == pytest.approx(score)


@pytest.mark.parametrize("name", get_args(ScorerName))
def test_every_name_has_scorers_that_accept_the_right_answer_and_reject_a_wrong_one(name):
    right, wrong = {
        "multiple_choice": ("B", "C"),
        "iou": ("[0.10,0.10,0.90,0.90]", "[0.90,0.90,0.95,0.95]"),
    }.get(name, ("a big brown dog", "xyz"))
    strict, legacy = scoring.pair(name)
    for one in (strict, legacy, scoring.normalised(strict)):
        scorer = scoring.fitted(one, [[right], ["two red cars"]])
        assert scorer(right, [right]) == pytest.approx(1)
        assert scorer(wrong, [right]) == 0


@pytest.mark.parametrize(
    ("prediction", "strict", "legacy"),
    [
        ("It says Exit\nonly.", 1, 1),
        ("exits", 0, 1),  # legacy finds a reference inside a word too
        ("EXIT", 1, 1),
        ("", 0, 0),
    ],
)
def test_an_answer_may_mention_a_reference(prediction, strict, legacy):
    assert scoring.mentions(prediction, ["exit"]) == strict
    assert scoring.legacy_mentions(prediction, ["exit"]) == legacy


def test_a_mentioned_reference_may_have_signs_of_patterns_and_be_one_of_several():
    assert scoring.mentions("costs $2.50 (net)", ["3", "$2.50"]) == 1
    assert scoring.mentions("costs 2950", ["2.50"]) == scoring.mentions("anything", [""]) == 0


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [  # the first four by the package anls 0.0.2
        ("hello wrld", ["hello world"], 10 / 11),
        ("abc", ["abcd", "xyz"], 0.75),
        ("ab", ["abcd"], 0.0),  # a distance of half and more counts as all wrong
        ("HELLO", ["hello"], 1.0),
        (" new\n york ", ["New York"], 1.0),
        ("anything", [], 0.0),
    ],
)
def test_anls_forgives_a_few_wrong_letters(prediction, references, score):
    assert scoring.anls(prediction, references) == pytest.approx(score)


def test_similarity_is_the_share_of_characters_in_common():
    # 11 of 12 characters are kept: 1 - 2 / 24.
    assert scoring.similarity("return x + 1", ["pass", "return x + 2"]) == pytest.approx(1 - 2 / 24)
    assert scoring.similarity("return x + 1", []) == 0


@pytest.mark.parametrize(
    ("scorer", "prediction", "references", "strict", "normalised"),
    [
        (scoring.exact, "The Red.", ["red"], 0, 1),
        (scoring.exact, "two", ["2"], 0, 1),
        (scoring.exact, "blue", ["red"], 0, 0),
        (scoring.exact_without_dot, "a dog!", ["dog"], 0, 1),
        (scoring.soft_accuracy, "the red", ["red"], 0, 1),
        (scoring.contains, "tabby-cat", ["the tabby cat"], 0, 1),
        (scoring.mentions, "it is one thousand, 1,000", ["1000"], 0, 1),
        (scoring.multiple_choice, "(b)", ["B"], 1, 1),
    ],
)
def test_a_normalised_score_ignores_case_articles_and_punctuation(scorer, prediction, references, strict, normalised):
    assert scorer(prediction, references) == strict
    assert scoring.normalised(scorer)(prediction, references) == normalised


def test_what_ignores_case_and_wording_anyway_has_no_second_scorer():
    for scorer in (scoring.multiple_choice, scoring.iou_above_half, scoring.rouge_l, scoring.CIDER):
        assert scoring.normalised(scorer) is scorer


def test_a_normalised_soft_accuracy_of_ten_answers_is_the_same():
    assert scoring.normalised(scoring.soft_accuracy)("stop", TEN) == scoring.soft_accuracy("stop", TEN)


def test_iou_of_boxes_away_from_the_origin_that_overlap_in_part():
    # 2 x 3 of 12 and 18 are shared: 6 of 24.
    assert scoring.iou((1, 2, 4, 6), (2, 3, 5, 9)) == pytest.approx(6 / 24)
    assert scoring.iou((2, 3, 5, 9), (1, 2, 4, 6)) == pytest.approx(6 / 24)


@pytest.mark.parametrize("apart", [(5, 2, 8, 6), (1, 7, 4, 11), (5, 7, 8, 11), (-9, 2, -5, 6), (1, -9, 4, -5)])
def test_boxes_that_lie_apart_in_one_direction_or_both_share_nothing(apart):
    assert scoring.iou((1, 2, 4, 6), apart) == 0
    assert scoring.iou(apart, (1, 2, 4, 6)) == 0


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[0.2, 0.3, 0.8, 0.9]", (0.2, 0.3, 0.8, 0.9)),
        ("[0.2, 0.3, 0.8, 0.9, 0.1]", (0.2, 0.3, 0.8, 0.9)),
        ("[0.2, 0.3, 0.2, 0.9]", None),
        ("[0.2, 0.3, 0.8, 0.3]", None),
        ("[0.8, 0.3, 0.2, 0.9]", None),
        ("[0.2, 0.9, 0.8, 0.3]", None),
        ("[0.2, 0.3, 0.8]", None),
    ],
)
def test_four_numbers_are_a_box_if_it_has_an_inside(text, box):
    assert scoring.box(text) == box
