"""What is told of a task's answers: the most frequent ones with their counts."""

from __future__ import annotations

from lcia.report.answered import _most


def test_the_five_most_frequent_answers_are_named_with_their_counts() -> None:
    said = [answer for number, answer in enumerate("abcdefg", 1) for _ in range(number)]
    told = _most([{"prediction": f" {answer}\n"} for answer in said])
    assert told == (("g", 7), ("f", 6), ("e", 5), ("d", 4), ("c", 3))
