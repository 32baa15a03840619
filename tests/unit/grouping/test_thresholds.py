"""The threshold of grouping: what may be given, and what is chosen from similarities that can be read off by eye."""

from __future__ import annotations

import math

import pytest

from lcia.config.grouping import GroupingConfig
from lcia.config.load import load, parse
from lcia.config.run import RunConfig
from lcia.grouping.thresholds import Threshold, given, widest_gap
from lcia.types import InputError

UNIT = (0.0, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2, -1, 1.0001, True, "best", "", None, [0.5]])
def test_a_threshold_that_is_not_a_similarity_is_refused_with_what_to_give(value: object) -> None:
    with pytest.raises(InputError, match=r"grouping\.threshold: give auto, origin, diverse or a number from 0 to 1"):
        parse(RunConfig, {"grouping": {"threshold": value}}, "test")


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1", 1), ("0.25", 0.25), ("1e-1", 0.1), ("auto", "auto")])
def test_a_threshold_from_the_command_line_is_read(text: str, value: object) -> None:
    assert load(RunConfig, None, [f"grouping.threshold={text}"]).grouping.threshold == value


@pytest.mark.parametrize(("name", "value"), [("origin", 0.9), ("diverse", 0.3), (0.42, 0.42)])
def test_the_papers_thresholds_go_by_name(name: object, value: float) -> None:
    assert given(GroupingConfig.model_validate({"threshold": name})) == Threshold(value)


def test_auto_is_the_default_and_names_no_number() -> None:
    assert given(GroupingConfig()) is None


def test_auto_is_refused_for_features_that_nobody_measured() -> None:
    clip = {"kind": "clip", "model": "ViT-B-32"}
    with pytest.raises(InputError, match="auto was never measured for clip features; give a number"):
        parse(RunConfig, {"grouping": {"embedder": clip}}, "test")
    assert parse(RunConfig, {"grouping": {"embedder": clip, "threshold": 0.8}}, "test").grouping.threshold == 0.8
    assert not parse(RunConfig, {"grouping": {"embedder": clip, "enabled": False}}, "test").grouping.enabled


def test_the_middle_of_the_widest_gap_is_chosen() -> None:
    assert widest_gap([0.125, 0.25, 0.75], [1.0, 0.875], UNIT) == Threshold(0.5, (0.25, 0.75))


def test_a_gap_above_the_least_alike_paraphrases_does_not_count() -> None:
    # Without the last task's 0.5 the gap from 0.5 to 1 would be the widest.
    assert widest_gap([0.125, 0.25, 0.5], [1.0, 1.0, 0.5], UNIT) == Threshold(0.375, (0.25, 0.5))


def test_what_lies_beyond_the_limits_is_moved_onto_them() -> None:
    assert widest_gap([0.0, 0.75, 1.0], [1.0], (0.25, 0.5)) == Threshold(0.375, (0.25, 0.5))


def test_one_task_alone_and_tasks_that_are_all_equal_give_the_middle_of_the_limits() -> None:
    assert widest_gap([], [1.0], (0.0, 0.5)) == widest_gap([1.0, 1.0, 1.0], [1.0, 1.0], (0.0, 0.5))
    assert widest_gap([], [1.0], (0.0, 0.5)) == Threshold(0.25, (0.0, 0.5))


def test_tasks_whose_own_instructions_have_nothing_in_common_give_the_lower_limit() -> None:
    assert widest_gap([0.0], [0.125], (0.25, 0.5)) == Threshold(0.25, (0.25, 0.25))


def test_of_equally_wide_gaps_the_lowest_is_chosen() -> None:
    assert widest_gap([0.25, 0.5, 0.75], [1.0], UNIT).gap == (0.0, 0.25)
