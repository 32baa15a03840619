"""Each sign of failure is planted, seen, and not seen where it is not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lcia.config.watch import WatchConfig
from lcia.metrics.matrix import AccuracyMatrix
from lcia.report import signs
from lcia.report.signs import (
    KINDS,
    FitSigns,
    Signs,
    StageSigns,
    at_bound,
    falls_of,
    fit_of,
    gain_of,
    shown_by,
    warnings,
)

LIMITS = WatchConfig()
SOUND = StageSigns("VQAv2", first=False, fell=2.0, score=80.0, gain=0.3, at_bound=0.1, kl=0.5, seconds=10.0)
FALLING = replace(SOUND, fell=34.25)
IDLE = replace(SOUND, gain=0.004)
CUT = replace(SOUND, at_bound=0.97)
FAR = replace(SOUND, kl=7.3)


@pytest.mark.parametrize(("stage", "kind"), [(FALLING, "fall"), (IDLE, "gain"), (CUT, "bound"), (FAR, "kl")])
def test_a_training_shows_the_sign_that_was_planted_and_no_other(stage: StageSigns, kind: str) -> None:
    assert shown_by(stage, LIMITS) == {kind}
    assert list(warnings(Signs((SOUND, stage)), LIMITS)) == [kind]


def test_a_sound_run_is_not_warned_of() -> None:
    unknown = StageSigns("GQA", False, None, None, None, None, None, 1.0)
    fits = (FitSigns("VQAv2", 0, (80.0, 85.0), None),)
    assert warnings(Signs((SOUND, unknown), fits, (("VQAv2",), ("GQA",))), LIMITS) == {}


def test_an_adapter_that_knew_nothing_may_move_as_far_as_it_likes() -> None:
    assert shown_by(replace(FAR, first=True), LIMITS) == frozenset()


def test_what_a_task_that_was_not_learnt_takes_from_others_is_not_this_sign() -> None:
    assert "fall" not in shown_by(replace(FALLING, gain=-0.1), LIMITS)


def test_the_limits_are_the_configurations() -> None:
    assert shown_by(FALLING, WatchConfig(fall=40)) == frozenset()
    assert shown_by(SOUND, WatchConfig(fall=1, gain=0.5, bound=0.05, kl=0.4)) == {"fall", "gain", "bound", "kl"}


def test_warnings_name_tasks_and_figures() -> None:
    told = warnings(Signs((FALLING, replace(FALLING, task="GQA", fell=12.0))), LIMITS)["fall"]
    assert told.startswith(
        "Old tasks fell while a new one was learnt: VQAv2 cost them 34.2, GQA cost them 12.0 points on average "
        "(watch.fall: 10)"
    )


def test_old_tasks_fall_by_the_mean_of_what_each_lost() -> None:
    scores = np.array([[80.0, np.nan, np.nan], [50.0, 70.0, np.nan], [40.0, 75.0, 60.0]])
    found = falls_of(AccuracyMatrix(("a", "b", "c"), scores))
    assert found == {"a": (None, 80.0), "b": (30.0, 70.0), "c": (2.5, 60.0)}


def test_gain_compares_the_halves_of_a_training() -> None:
    assert gain_of(np.array([4.0] * 5 + [1.0] * 5)) == pytest.approx(0.75)
    assert gain_of(np.array([2.0] * 5 + [3.0] * 5)) == pytest.approx(-0.5)
    assert gain_of(np.array([4.0, 3.0, 2.0, 1.0])) is None
    assert gain_of(np.zeros(10)) is None


@pytest.mark.parametrize(("bounded", "expected"), [(True, 0.75), (False, 0.25)])
def test_without_bounds_only_the_fallback_counts(bounded: bool, expected: float) -> None:
    line = {"step": 5.0, "fallback": 0.25, "at_beta_min": 0.0, "at_beta_max": 0.5}
    assert at_bound([line, line], bounded) == expected
    assert at_bound([{"step": 5.0, "loss": 1.0}], bounded) is None


# Groups ---------------------------------------------------------------------------------------------------------------


def rows(right: int, of: int = 32) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([1.0] * right + [0.0] * (of - right))


def test_a_task_that_another_group_answers_better_is_named_with_both() -> None:
    planted = fit_of("VizWiz", 0, [rows(12), rows(30), rows(2)])
    assert planted == FitSigns("VizWiz", 0, (37.5, 93.75, 6.25), better=1)
    told = warnings(Signs((), (planted,), (("VizWiz", "GQA"), ("Grounding",), ("VQAv2",))), LIMITS)
    assert list(told) == ["misfit"]
    assert "VizWiz is in g0 (38 %), and g1 (Grounding) scores 94 %" in told["misfit"]


def test_a_lead_that_chance_explains_is_none() -> None:
    assert fit_of("VizWiz", 0, [rows(12), rows(14)]).better is None
    assert fit_of("VizWiz", 0, [rows(30), rows(12)]).better is None
    assert fit_of("VizWiz", 1, [rows(9), rows(9)]).margin == 0.0


def test_the_more_groups_the_clearer_the_lead_has_to_be() -> None:
    home, ahead = rows(8), rows(14)
    assert fit_of("VizWiz", 0, [home, ahead]).better == 1
    assert fit_of("VizWiz", 0, [home, ahead, *[rows(0)] * 20]).better is None


# Several runs ---------------------------------------------------------------------------------------------------------


def test_of_several_runs_each_sign_is_one_line() -> None:
    fallen, far = warnings(Signs((FALLING,)), LIMITS), warnings(Signs((FAR,)), LIMITS)
    assert signs.gather({"only": fallen}) == list(fallen.values())
    assert signs.gather({"a": fallen, "b": fallen, "c": far, "d": {}}) == [
        f"{KINDS['fall']}: 2 of 4 runs",
        f"{KINDS['kl']}: run c",
    ]
