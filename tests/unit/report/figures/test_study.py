"""Figures of several runs are read back through matplotlib's own objects."""

import numpy as np
import pytest

from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.figures.study import accuracy_curves
from lcia.report.figures.style import MOST_LINES

NAN = np.nan
A = AccuracyMatrix(("a $x", "<b>&"), np.array([[80.0, NAN], [60.0, 70.0]]), np.array([10.0, 20.0]))
B = AccuracyMatrix(("a $x", "<b>&"), np.array([[75.0, NAN], [74.0, 71.0]]))


def test_each_task_has_a_panel_with_a_line_per_run_from_where_it_was_trained():
    first, second = accuracy_curves({"one": [A], "two": [B]}).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 80], [2, 60]], [[1, 75], [2, 74]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[2, 70]], [[2, 71]]]


def test_runs_in_different_orders_share_the_panels_of_their_tasks():
    backwards = AccuracyMatrix(("<b>&", "a $x"), np.array([[50.0, NAN], [40.0, 90.0]]))
    first, second = accuracy_curves({"one": [A], "back": [backwards]}).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 80], [2, 60]], [[2, 90]]]
    assert second.get_title() == "<b>&"


def test_lines_of_a_large_study_are_told_apart_and_at_most_as_many_are_drawn():
    figure = accuracy_curves({f"run {number}": [A] for number in range(MOST_LINES + 5)})
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(looks) == len(set(looks)) == MOST_LINES == 24


def test_of_several_runs_the_mean_is_drawn_with_a_band_of_one_standard_deviation():
    first, second = accuracy_curves({"both": [A, B]}).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 77.5], [2, 67]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[2, 70.5]]]
    heights = first.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(77.5 + np.std([80, 75], ddof=1))
    assert heights.min() == pytest.approx(67 - np.std([60, 74], ddof=1))


def test_a_run_that_lacks_the_first_task_is_in_the_legend_too():
    other = AccuracyMatrix(("third",), np.array([[50.0]]))
    legend = accuracy_curves({"one": [A], "other": [other]}).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]
