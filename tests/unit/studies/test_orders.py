"""Orders of tasks: codes, samples without repetition, squares that balance positions."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations
from typing import Any

import pytest

from lcia.config.load import parse
from lcia.studies import orders
from lcia.studies.config import StudyConfig
from lcia.studies.points import count, expand, orders_of
from lcia.types import InputError

TASKS = ("GQA", "Grounding", "OCR-VQA", "VQAv2")


def study(**values: Any) -> StudyConfig:
    base = {"benchmark": {"kind": "minicoin", "tasks": list(TASKS)}}
    return parse(StudyConfig, {"name": "s", "base": base, **values}, "test")


def test_ranks_name_the_permutations_in_their_usual_order() -> None:
    assert [orders.of_rank(TASKS, rank) for rank in range(24)] == list(permutations(TASKS))


def test_a_code_picks_from_what_is_left() -> None:
    assert orders.of_code("abcd", (2, 0, 1, 0)) == ("c", "a", "d", "b")


def test_a_sample_repeats_nothing_and_follows_its_seed() -> None:
    found = orders.sampled(TASKS, 20, 3)
    assert len(set(found)) == 20
    assert all(sorted(order) == sorted(TASKS) for order in found)
    assert orders.sampled(TASKS, 20, 3) == found != orders.sampled(TASKS, 20, 4)
    assert set(orders.sampled(TASKS, 24, 0)) == set(permutations(TASKS))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_in_a_latin_square_every_task_stands_once_in_every_position(n: int) -> None:
    tasks = "abcdefgh"[:n]
    square = orders.latin(tasks, 1, 0)
    assert len(square) == n
    assert all(sorted(column) == list(tasks) for column in zip(*square, strict=True))
    if n % 2 == 0:
        after = Counter(pair for row in square for pair in pairwise(row))
        assert set(after.values()) == {1}
        assert len(after) == n * (n - 1)


def test_further_squares_are_other_ones_until_all_orders_are_there() -> None:
    found = orders.latin(TASKS, 6, 0)
    assert set(found) == set(permutations(TASKS))
    for start in range(0, 24, 4):
        assert all(sorted(column) == sorted(TASKS) for column in zip(*found[start : start + 4], strict=True))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"sample": 25}, "orders.sample asks for 25 of 24 orders"),
        ({"latin": 7}, "orders.latin asks for 7 of 6 squares"),
    ],
)
def test_more_than_there_are_is_refused(asked: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        orders_of(study(orders=asked))


@pytest.mark.parametrize(("asked", "runs"), [({"sample": 5, "seed": 1}, 10), ({"latin": 2}, 16), ("all", 48)])
def test_a_study_counts_the_runs_that_it_makes(asked: Any, runs: int) -> None:
    made = study(orders=asked, seeds=[0, 1])
    points = expand(made)
    assert len(points) == count(made) == runs
    assert len({point.config.name for point in points}) == runs
    assert {point.config.order for point in points} == set(orders_of(made))


def test_an_order_that_names_a_task_twice_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="order names a task twice"):
        expand(study(orders=[["GQA", "GQA"]]))


def test_runs_of_one_method_share_the_parts_of_their_configuration() -> None:
    first, *others = expand(study(orders="all"))
    assert all(point.config.training is first.config.training for point in others)
