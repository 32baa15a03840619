"""Figures of several runs are read back through matplotlib's own objects."""

import numpy as np
import pytest

from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import Spread
from lcia.report.figures.scales import scale_of
from lcia.report.figures.study import MOST_SINGLE, Response, accuracy_curves, responses, spreads_over, trade_off
from lcia.report.figures.style import MOST_LINES, legend_columns, svg

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


SCORES = {"one": {8: [40.0, 60.0], 16: [70.0]}, "<b>$": {8: [30.0], 16: [20.0, 10.0]}}
RESPONSE = Response(scale_of("lora.r", [8, 16]), SCORES)


def points(line):
    return line.get_xydata().tolist()


def test_a_response_is_the_mean_of_the_runs_with_each_value_in_a_band_of_one_deviation():
    [panel] = responses([RESPONSE], "avg_acc", averaged=True).axes
    assert [points(line) for line in panel.lines[::2]] == [[[8, 50], [16, 70]], [[8, 30], [16, 15]]]
    assert [points(line) for line in panel.lines[1::2]] == [
        [[8, 40], [8, 60], [16, 70]],
        [[8, 30], [16, 20], [16, 10]],
    ]
    heights = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == 70
    assert heights.min() == pytest.approx(50 - np.std([40, 60], ddof=1))
    assert panel.get_xlabel() == "lora.r"


def test_trials_are_points_without_a_mean():
    figure = responses([RESPONSE], "avg_acc on validation data", averaged=False)
    [panel] = figure.axes
    assert len(panel.lines) == 2
    assert {line.get_linestyle() for line in panel.lines} == {"None"}
    assert not panel.collections
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "<b>$"]


def test_each_varied_number_has_a_panel_on_its_own_axis():
    far = Response(scale_of("rho", [1, 100]), {"one": {1: [40.0], 100: [50.0]}})
    shown = [panel for panel in responses([RESPONSE, far, far, far], "avg_acc", True).axes if panel.axison]
    assert [panel.get_xscale() for panel in shown] == ["linear", "log", "log", "log"]


def test_names_in_responses_stay_text():
    text = svg(responses([RESPONSE], "avg_acc", averaged=True), "responses")
    assert "&lt;b&gt;$" in text


def test_of_very_many_runs_the_mean_and_its_band_are_drawn_alone():
    many = Response(scale_of("lora.r", [8, 16]), {"one": {8: [40.0] * MOST_SINGLE, 16: [50.0]}})
    [panel] = responses([many], "avg_acc", averaged=True).axes
    assert [points(line) for line in panel.lines] == [[[8, 40], [16, 50]]]


def test_at_most_as_many_names_are_drawn_as_can_be_told_apart():
    found = {f"method {number}": {8: [40.0], 16: [50.0]} for number in range(MOST_LINES + 5)}
    [panel] = responses([Response(scale_of("lora.r", [8, 16]), found)], "avg_acc", averaged=False).axes
    assert len(panel.lines) == MOST_LINES


def test_spreads_are_lines_through_means_with_bars_of_one_deviation():
    scale = scale_of("grouping.threshold", ["auto", "0.5"])
    measured = {"ours": [("auto", Spread(2.0, 0.5, 4)), ("0.5", Spread(3.0, None, 1))]}
    adapters, average = spreads_over(scale, {"adapters": measured, "avg_acc": {}}).axes
    assert [panel.get_title() for panel in (adapters, average)] == ["adapters", "avg_acc"]
    [container] = adapters.containers
    line, _, [bars] = container
    assert points(line) == [[0, 2], [1, 3]]
    assert [bar.tolist() for bar in bars.get_segments()] == [[[0, 1.5], [0, 2.5]], [[1, 3], [1, 3]]]
    assert [label.get_text() for label in adapters.get_xticklabels()] == ["auto", "0.5"]


def test_a_legend_of_long_names_has_fewer_columns():
    assert [legend_columns(["x" * length], 6.4) for length in (5, 30, 80)] == [3, 2, 1]
    assert legend_columns([], 6.4) == 3


def test_the_legend_of_many_names_leaves_the_panel_its_height():
    short, long = (trade_off({f"{name}{n}": [(1.0, 2.0)] for n in range(20)}) for name in ("m", "m" * 60))
    assert long.get_figheight() - short.get_figheight() == pytest.approx(0.16 * (20 - 7))
