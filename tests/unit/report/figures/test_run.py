"""Figures of one run are read back through matplotlib's own objects."""

import numpy as np

from lcia.metrics.companion import Companion
from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.figures.run import (
    MOST_POINTS,
    StageSteps,
    beta_trajectories,
    companion_curves,
    form_curves,
    heat_map,
    loss_curves,
    pull_trajectories,
)

NAN = np.nan
A = AccuracyMatrix(("a $x", "<b>&"), np.array([[80.0, NAN], [60.0, 70.0]]), np.array([10.0, 20.0]))
FIRST = StageSteps("a", ({"step": 5.0, "loss": 1.0}, {"step": 10.0, "loss": 0.5}))
SECOND = StageSteps(
    "b",
    tuple({"step": s, "beta_q05": 0.6, "beta_q50": 0.8, "beta_q95": 0.9, "fallback": 0.25} for s in (5.0, 10.0)),
    (0.5, 0.99),
)


def test_the_heat_map_writes_every_score_that_exists():
    axes = heat_map(A).axes[0]
    assert [text.get_text() for text in axes.texts] == ["10.0", "20.0", "80.0", "60.0", "70.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["(zero-shot)", "a $x", "<b>&"]


def test_beta_is_drawn_over_the_whole_stream_with_bounds_and_fallback_share():
    beta, shares = beta_trajectories([FIRST, SECOND]).axes
    labels = [text.get_text() for text in beta.get_legend().get_texts()]
    assert labels == ["median", "5 to 95 %", "bounds"]
    medians = [line for line in beta.lines if line.get_label() == "median"]
    assert medians[1].get_xydata().tolist() == [[15, 0.8], [20, 0.8]]
    fallback = next(line for line in shares.lines if line.get_label() == "fallback")
    assert fallback.get_xydata().tolist() == [[15, 0.25], [20, 0.25]]
    assert not FIRST.has_beta
    assert SECOND.has_beta


def test_shares_at_a_bound_are_drawn_only_where_there_are_bounds():
    steps = ({"step": 5.0, "beta_q50": 0.8, "fallback": 0.0, "at_beta_min": 1.0, "at_beta_max": 0.0},)
    for bounds, drawn in ((None, ["fallback"]), ((0.5, 0.9), ["fallback", "at beta_min", "at beta_max"])):
        _, shares = beta_trajectories([StageSteps("a", steps, bounds)]).axes
        assert [line.get_label() for line in shares.lines if not line.get_label().startswith("_")] == drawn


def test_the_loss_is_drawn_over_the_whole_stream():
    axes = loss_curves([FIRST, FIRST]).axes[0]
    losses = [
        line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) == 2 and line.get_linewidth() == 1
    ]
    assert losses == [[[5, 1], [10, 0.5]], [[15, 1], [20, 0.5]]]


def test_a_long_stage_is_thinned_and_keeps_its_ends():
    long = StageSteps("a", tuple({"step": float(step), "loss": 1.0} for step in range(1, 10_001)))
    steps = long.thinned().column("step")
    assert len(steps) == MOST_POINTS
    assert (steps[0], steps[-1]) == (1, 10_000)
    assert FIRST.thinned() == FIRST
    assert StageSteps("none", ()).thinned().rows == ()


def test_the_pull_is_drawn_where_a_stage_has_one() -> None:
    plain = StageSteps("VQAv2 · kronecker", ({"step": 5.0, "loss": 1.0}, {"step": 10.0, "loss": 0.5}))
    rows = [{"step": s, "old_loss_rise": s / 100, "pull_weight": 2.0, "pull_capped": 0.5} for s in (5.0, 10.0)]
    pulled = StageSteps("OCR-VQA · kronecker", tuple(rows))
    assert not plain.has_pull
    assert pulled.has_pull
    rise, pull = pull_trajectories([plain, pulled]).axes
    drawn = [line.get_xydata().tolist() for line in rise.lines if len(line.get_xydata()) == 2]
    assert [[15.0, 0.05], [20.0, 0.1]] in drawn
    assert [text.get_text() for text in pull.get_legend().get_texts()] == ["weight", "share capped"]


def test_figures_beside_the_matrix_have_a_panel_for_each_unit_and_leave_out_what_is_not_known():
    values = np.array([[50.0, 0.5], [40.0, np.nan], [30.0, 0.25]])
    figure = companion_curves(Companion(("VizWiz",), ("pope",), ("(zero-shot)", "a", "b"), values))
    percent, command = figure.axes
    assert percent.get_lines()[0].get_xydata().tolist() == [[0, 50], [1, 40], [2, 30]]
    assert command.get_lines()[0].get_xydata().tolist() == [[0, 0.5], [2, 0.25]]


def test_two_curves_tell_what_was_lost_to_the_form_of_answers():
    strict, normalised = (
        AccuracyMatrix(("a", "b"), np.array([[80.0, np.nan], [second, 60.0]])) for second in (20.0, 80.0)
    )
    [axes] = form_curves(strict, normalised).axes
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[80, 40], [80, 70]]
