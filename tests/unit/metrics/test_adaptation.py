"""How fast a stream of stretches is learnt, against a matrix worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lcia.metrics.adaptation import Round, rounds
from lcia.metrics.matrix import AccuracyMatrix

NAN = np.nan
TASKS = ("a.1", "b.1", "a.2", "b.2")
SCORES = np.array(
    [[50.0, 10.0, 20.0, 0.0], [40.0, 70.0, 44.0, 30.0], [60.0, 50.0, 66.0, 56.0], [30.0, 80.0, 30.0, 90.0]]
)


def test_a_round_is_scored_right_before_and_right_after_each_of_its_stretches() -> None:
    matrix = AccuracyMatrix(TASKS, SCORES, np.array([8.0, 5.0, 6.0, 7.0]))
    # (8 + 10) / 2 and (50 + 70) / 2, then (44 + 56) / 2 and (66 + 90) / 2
    assert rounds(matrix, 2) == (Round(9, 60), Round(50, 78))


def test_what_was_not_evaluated_before_training_is_unknown() -> None:
    lower = np.where(np.tri(4, dtype=bool), SCORES, NAN)
    assert rounds(AccuracyMatrix(TASKS, lower), 2) == (Round(None, 60), Round(None, 78))
    assert rounds(AccuracyMatrix(TASKS, SCORES), 2) == (Round(None, 60), Round(50, 78))


def test_one_round_is_the_mean_score_on_new_tasks() -> None:
    [only] = rounds(AccuracyMatrix(TASKS, SCORES), 1)
    assert only.after == pytest.approx(np.trace(SCORES) / 4)
