"""Scores worked out by hand from docs/method.md 6."""

from typing import get_args

import pytest

from lcia.config.run import ScorerName
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
def test_every_name_has_two_scorers_that_accept_the_right_answer(name):
    right = {"multiple_choice": "B", "iou": "[0.10,0.10,0.90,0.90]"}.get(name, "dog")
    assert [scorer(right, [right]) for scorer in scoring.pair(name)] == [1, 1]


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
