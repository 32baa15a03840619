"""Metrics against a matrix worked out by hand, and their identities on any matrix."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lcia.metrics import matrix as m
from lcia.metrics.matrix import AccuracyMatrix, Metric
from lcia.types import InputError

NAN = np.nan
any_time = settings(deadline=None)
"""How long an example takes depends on what else the machine does."""
PERCENT = st.floats(0, 100, allow_nan=False, allow_subnormal=False)

HAND = AccuracyMatrix(
    ("a", "b", "c"),
    np.array([[80.0, 20.0, 10.0], [90.0, 70.0, 30.0], [60.0, 50.0, 40.0]]),
    np.array([5.0, 10.0, 15.0]),
)


@st.composite
def matrices(draw, least=1):
    size = draw(st.integers(least, 6))
    scores = draw(npst.arrays(np.float64, (size, size), elements=PERCENT))
    base = draw(st.none() | npst.arrays(np.float64, (size,), elements=PERCENT))
    if draw(st.booleans()):
        scores[np.triu_indices(size, 1)] = NAN
    return AccuracyMatrix(tuple(f"task {i}, of {size}" for i in range(size)), scores, base)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (m.avg_acc, 50),  # (60 + 50 + 40) / 3
        (m.new_acc, 190 / 3),  # (80 + 70 + 40) / 3
        (m.forgetting, 25),  # ((90 - 60) + (70 - 50)) / 2
        (m.forgetting_diag, 20),  # ((80 - 60) + (70 - 50)) / 2
        (m.bwt, -20),
        (m.bwt_coin, -40 / 3),
        (m.maa, (80 + 80 + 50) / 3),
        (m.fwt, 12.5),  # ((20 - 10) + (30 - 15)) / 2
        (m.zero_shot_acc, 10),
    ],
)
def test_a_matrix_worked_out_by_hand(metric, value):
    assert metric(HAND) == pytest.approx(value)


@any_time
@given(matrices(least=2))
def test_new_minus_average_is_the_forgotten_share(matrix):
    size = len(matrix.tasks)
    assert m.new_acc(matrix) - m.avg_acc(matrix) == pytest.approx(
        (size - 1) / size * m.forgetting_diag(matrix), abs=1e-9
    )


@any_time
@given(matrices(least=2))
def test_forgetting_from_the_best_score_is_at_least_that_from_the_first(matrix):
    assert m.forgetting(matrix) >= m.forgetting_diag(matrix) - 1e-9


@any_time
@given(matrices(least=2))
def test_backward_transfer_is_the_negative_of_forgetting(matrix):
    assert m.bwt(matrix) == -m.forgetting_diag(matrix)
    assert m.bwt_coin(matrix) == pytest.approx(m.avg_acc(matrix) - m.new_acc(matrix), abs=1e-9)


@any_time
@given(matrices())
def test_scores_above_the_diagonal_touch_nothing_but_forward_transfer(matrix):
    lower = AccuracyMatrix(matrix.tasks, np.where(np.triu(np.ones_like(matrix.scores), 1), NAN, matrix.scores))
    for metric in ("avg_acc", "new_acc", "forgetting", "bwt", "maa"):
        assert m.metrics(lower)[metric] == m.metrics(matrix)[metric]


def test_with_one_task_forgetting_is_undefined_and_not_zero():
    alone = m.metrics(AccuracyMatrix(("a",), np.array([[70.0]]), np.array([10.0])))
    undefined = {name for name, metric in alone.items() if metric == Metric(None, "needs two tasks or more")}
    assert undefined == {"forgetting", "forgetting_diag", "bwt", "bwt_coin", "fwt"}
    assert alone["avg_acc"] == alone["new_acc"] == alone["maa"] == Metric(70.0)


def test_forward_transfer_says_which_switch_it_needs():
    lower = np.tril(HAND.scores) + np.triu(np.full((3, 3), NAN), 1)
    assert "evaluation.zero_shot" in m.metrics(AccuracyMatrix(HAND.tasks, HAND.scores))["fwt"].reason
    assert "evaluation.upper_triangle" in m.metrics(AccuracyMatrix(HAND.tasks, lower, HAND.zero_shot))["fwt"].reason


def test_a_matrix_with_its_last_row_only_has_an_average_and_no_new_accuracy():
    joint = AccuracyMatrix(("a", "b"), np.array([[NAN, NAN], [60.0, 40.0]]))
    assert m.metrics(joint)["avg_acc"] == Metric(50.0)
    assert (
        m.metrics(joint)["new_acc"]
        == m.metrics(joint)["forgetting"]
        == Metric(None, "needs scores that were not evaluated")
    )


def test_the_row_of_the_untuned_model_comes_first():
    assert [label for label, _ in HAND.rows()] == [m.UNTUNED, "a", "b", "c"]


def test_less_forgetting_is_better_and_more_accuracy_is():
    assert m.MEASURES["forgetting"].smaller_is_better
    assert m.MEASURES["forgetting_diag"].smaller_is_better
    assert not m.MEASURES["avg_acc"].smaller_is_better


def equal(a, b):
    assert a.tasks == b.tasks
    np.testing.assert_array_equal(a.scores, b.scores)
    assert (a.zero_shot is None) == (b.zero_shot is None)
    if a.zero_shot is not None:
        np.testing.assert_array_equal(a.zero_shot, b.zero_shot)


@any_time
@given(matrices())
def test_json_brings_back_the_same_matrix(matrix):
    equal(m.from_json(json.loads(m.dumps(matrix))), matrix)


@any_time
@given(matrices())
def test_csv_holds_every_score_without_rounding_and_leaves_the_others_empty(matrix):
    header, *rows = csv.reader(io.StringIO(m.to_csv(matrix)))
    assert header == ["after", *matrix.tasks]
    assert [row[0] for row in rows] == [label for label, _ in matrix.rows()]
    values = [[float(cell) if cell else NAN for cell in row[1:]] for row in rows]
    np.testing.assert_array_equal(values, [scores for _, scores in matrix.rows()])


def test_json_holds_every_metric_with_null_and_its_reason():
    value = json.loads(m.dumps(AccuracyMatrix(("a",), np.array([[70.0]]))))
    assert value["unit"] == "percent"
    assert value["metrics"]["forgetting"] == {"value": None, "reason": "needs two tasks or more"}
    assert set(value["metrics"]) == {
        *("avg_acc", "new_acc", "forgetting", "forgetting_diag", "bwt", "bwt_coin", "maa", "fwt", "zero_shot_acc")
    }


@pytest.mark.parametrize(
    ("tasks", "scores", "message"),
    [
        (("a", "b"), [[1.0]], "shape"),
        (("a", "a"), [[1.0, 1.0], [1.0, 1.0]], "distinct"),
        (("a",), [[101.0]], "percentages"),
        (("a",), [[-0.1]], "percentages"),
        (("a",), [[np.inf]], "percentages"),
    ],
)
def test_what_is_no_matrix_of_percentages_is_refused(tasks, scores, message):
    with pytest.raises(InputError, match=message):
        AccuracyMatrix(tasks, np.array(scores))


@pytest.mark.parametrize("zero_shot", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], [1.0, 101.0]])
def test_zero_shot_scores_are_as_many_percentages_as_tasks(zero_shot):
    with pytest.raises(InputError, match="zero_shot"):
        AccuracyMatrix(("a", "b"), np.zeros((2, 2)), np.array(zero_shot))


def test_a_matrix_of_no_task_is_refused():
    with pytest.raises(InputError, match="distinct names"):
        AccuracyMatrix((), np.zeros((0, 0)))


def test_the_ends_of_the_scale_are_percentages():
    assert AccuracyMatrix(("a",), np.array([[0.0]]), np.array([100.0])).zero_shot == [100]
