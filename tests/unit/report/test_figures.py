"""Figures are read back through matplotlib's own objects and through the files that are written."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from lcia.metrics.matrix import AccuracyMatrix
from lcia.report import figures
from lcia.report.figures import StageSteps

NAN = np.nan
A = AccuracyMatrix(("a $x", "<b>&"), np.array([[80.0, NAN], [60.0, 70.0]]), np.array([10.0, 20.0]))
B = AccuracyMatrix(("a $x", "<b>&"), np.array([[75.0, NAN], [74.0, 71.0]]))
FIRST = StageSteps("a", ({"step": 5.0, "loss": 1.0}, {"step": 10.0, "loss": 0.5}))
SECOND = StageSteps(
    "b",
    tuple({"step": s, "beta_q05": 0.6, "beta_q50": 0.8, "beta_q95": 0.9, "fallback": 0.25} for s in (5.0, 10.0)),
    (0.5, 0.99),
)


def test_the_heat_map_writes_every_score_that_exists():
    axes = figures.heat_map(A).axes[0]
    assert [text.get_text() for text in axes.texts] == ["10.0", "20.0", "80.0", "60.0", "70.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["(zero-shot)", "a $x", "<b>&"]


def test_each_task_has_a_panel_with_a_line_per_run_from_where_it_was_trained():
    first, second = figures.accuracy_curves({"one": [A], "two": [B]}).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 80], [2, 60]], [[1, 75], [2, 74]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[2, 70]], [[2, 71]]]


def test_runs_in_different_orders_share_the_panels_of_their_tasks():
    backwards = AccuracyMatrix(("<b>&", "a $x"), np.array([[50.0, NAN], [40.0, 90.0]]))
    first, second = figures.accuracy_curves({"one": [A], "back": [backwards]}).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 80], [2, 60]], [[2, 90]]]
    assert second.get_title() == "<b>&"


def test_beta_is_drawn_over_the_whole_stream_with_bounds_and_fallback_share():
    beta, shares = figures.beta_trajectories([FIRST, SECOND]).axes
    labels = [text.get_text() for text in beta.get_legend().get_texts()]
    assert labels == ["median", "5 to 95 %", "bounds"]
    medians = [line for line in beta.lines if line.get_label() == "median"]
    assert medians[1].get_xydata().tolist() == [[15, 0.8], [20, 0.8]]
    fallback = next(line for line in shares.lines if line.get_label() == "fallback")
    assert fallback.get_xydata().tolist() == [[15, 0.25], [20, 0.25]]
    assert not FIRST.has_beta
    assert SECOND.has_beta


def test_a_png_is_a_real_picture(tmp_path):
    path = figures.save_png(figures.heat_map(A), tmp_path / "deep" / "matrix.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors(256) or []) > 10


@pytest.mark.filterwarnings("error")
def test_svg_is_well_formed_takes_the_pages_colour_and_names_are_no_formulas():
    text = figures.svg(figures.accuracy_curves({"one": [A], "two": [B]}), "curves")
    root = ElementTree.parse(io.StringIO(text)).getroot()
    words = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a $x", "<b>&", "one", "two"} <= words
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert all(name.startswith("curves-") for name in ids)
    assert "currentColor" in text
    assert figures.INK not in text


def test_the_same_figure_is_the_same_svg():
    assert figures.svg(figures.heat_map(A), "m") == figures.svg(figures.heat_map(A), "m")


def test_lines_of_a_large_study_are_told_apart_and_at_most_as_many_are_drawn():
    figure = figures.accuracy_curves({f"run {number}": [A] for number in range(figures.MOST_LINES + 5)})
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(looks) == len(set(looks)) == figures.MOST_LINES == 24


def test_of_several_runs_the_mean_is_drawn_with_a_band_of_one_standard_deviation():
    first, second = figures.accuracy_curves({"both": [A, B]}).axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[1, 77.5], [2, 67]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[2, 70.5]]]
    heights = first.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(77.5 + np.std([80, 75], ddof=1))
    assert heights.min() == pytest.approx(67 - np.std([60, 74], ddof=1))


def test_a_run_that_lacks_the_first_task_is_in_the_legend_too():
    other = AccuracyMatrix(("third",), np.array([[50.0]]))
    legend = figures.accuracy_curves({"one": [A], "other": [other]}).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]


def test_shares_at_a_bound_are_drawn_only_where_there_are_bounds():
    steps = ({"step": 5.0, "beta_q50": 0.8, "fallback": 0.0, "at_beta_min": 1.0, "at_beta_max": 0.0},)
    for bounds, drawn in ((None, ["fallback"]), ((0.5, 0.9), ["fallback", "at beta_min", "at beta_max"])):
        _, shares = figures.beta_trajectories([StageSteps("a", steps, bounds)]).axes
        assert [line.get_label() for line in shares.lines if not line.get_label().startswith("_")] == drawn


def test_the_loss_is_drawn_over_the_whole_stream():
    axes = figures.loss_curves([FIRST, FIRST]).axes[0]
    losses = [
        line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) == 2 and line.get_linewidth() == 1
    ]
    assert losses == [[[5, 1], [10, 0.5]], [[15, 1], [20, 0.5]]]


def test_a_long_stage_is_thinned_and_keeps_its_ends():
    long = StageSteps("a", tuple({"step": float(step), "loss": 1.0} for step in range(1, 10_001)))
    steps = long.thinned().column("step")
    assert len(steps) == figures.MOST_POINTS
    assert (steps[0], steps[-1]) == (1, 10_000)
    assert FIRST.thinned() == FIRST
    assert StageSteps("none", ()).thinned().rows == ()


def test_the_pull_is_drawn_where_a_stage_has_one() -> None:
    plain = StageSteps("VQAv2 · kronecker", ({"step": 5.0, "loss": 1.0}, {"step": 10.0, "loss": 0.5}))
    rows = [{"step": s, "old_loss_rise": s / 100, "pull_weight": 2.0, "pull_capped": 0.5} for s in (5.0, 10.0)]
    pulled = StageSteps("OCR-VQA · kronecker", tuple(rows))
    assert not plain.has_pull
    assert pulled.has_pull
    rise, pull = figures.pull_trajectories([plain, pulled]).axes
    drawn = [line.get_xydata().tolist() for line in rise.lines if len(line.get_xydata()) == 2]
    assert [[15.0, 0.05], [20.0, 0.1]] in drawn
    assert [text.get_text() for text in pull.get_legend().get_texts()] == ["weight", "share capped"]
