"""Whether a task was learnt, judged beside always giving one answer."""

from __future__ import annotations

import math

import pytest

from lcia.report.learnt import TaskAnswers, gather, to_record


def told(learnt: float | None, majority: float = 50.0, samples: int = 100) -> TaskAnswers:
    return TaskAnswers("GQA", samples, "red", majority, learnt, learnt, (("red", 90), ("blue", 10)), ())


def test_the_bar_is_two_standard_errors_above_the_constant_answer() -> None:
    assert told(0, majority=50, samples=98).bar == pytest.approx(50 + 200 * math.sqrt(0.25 / 98))


@pytest.mark.parametrize(("learnt", "warned"), [(50.0, True), (59.0, True), (60.5, False), (100.0, False)])
def test_a_task_that_is_not_clearly_better_was_not_learnt(learnt: float, warned: bool) -> None:
    assert bool(told(learnt).warning) == warned
    assert to_record(told(learnt))["not_learnt"] == warned


def test_a_score_of_nothing_is_not_learnt_even_if_no_constant_answer_scores() -> None:
    assert told(0.0, majority=0.0, samples=20).warning
    assert not told(50.0, majority=0.0, samples=20).warning


def test_where_nothing_could_be_clearly_better_it_is_enough_not_to_be_worse() -> None:
    assert not told(95.0, majority=95.0, samples=20).warning
    assert told(90.0, majority=95.0, samples=20).warning


def test_a_task_that_was_not_trained_is_not_judged() -> None:
    assert told(None).warning == ""


def test_the_warning_says_scores_and_the_most_frequent_answer() -> None:
    assert told(51.0).warning == (
        "GQA was not learnt: its score right after training is 51.0 %, and always answering 'red' scores 50.0 %; "
        "90 of 100 answers are 'red'"
    )


def test_of_several_runs_there_is_one_warning_a_task() -> None:
    assert gather({"only": [told(51.0), told(99.0)]}) == [told(51.0).warning]
    assert gather({"a": [told(51.0)], "b": [told(40.0)], "c": [told(99.0)]}) == [
        "GQA was not learnt in 2 of 3 runs: its score right after training is 40.0 to 51.0 %, "
        "and always answering 'red' scores 50.0 %"
    ]
    assert gather({"a": [told(99.0)], "b": []}) == []
