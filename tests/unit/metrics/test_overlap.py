"""Answers of one task among those of another, counted by hand."""

from __future__ import annotations

import numpy as np

from lcia.metrics.overlap import count_answers, overlap


def test_a_sample_counts_by_the_most_frequent_of_its_references_in_plain_form() -> None:
    assert count_answers([["Red"], ["the red."], ["two", "2", "four"], []]) == {"red": 2, "2": 1}


def test_a_share_is_of_test_samples_and_not_of_distinct_answers() -> None:
    tested = {"a": count_answers([["yes"], ["yes"], ["yes"], ["no"]]), "b": count_answers([["7"], ["no"]])}
    trained = {"a": count_answers([["yes"]]), "b": count_answers([["no"], ["7"], ["8"]])}
    found = overlap(("a", "b"), tested, trained)
    np.testing.assert_array_equal(found.shares, [[75.0, 25.0], [0.0, 100.0]])
    assert found.of("a") == {"a": 75.0, "b": 25.0}


def test_what_is_not_known_on_one_side_has_no_share() -> None:
    found = overlap(("a", "b"), {"a": {"yes": 1}}, {"b": {"yes": 3}})
    assert found.of("a") == {"b": 100.0}
    assert found.of("b") == {}


def test_a_task_without_answers_has_no_share() -> None:
    assert overlap(("a",), {"a": {}}, {"a": {"yes": 1}}).of("a") == {}
