"""The figure of a search is read back through matplotlib's own objects."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from lcia.report.figures.scales import scale_of
from lcia.report.figures.search import FAINT, TrialLine, colours, parallel_coordinates
from lcia.report.figures.style import INK, svg

SCALES = (scale_of("rho", [1, 10, 100]), scale_of("kind", ["<b>", "$x", "c"]))
TRIALS = (
    TrialLine((1, "<b>"), 40.0),
    TrialLine((100, "$x"), 60.0, is_best=True),
    TrialLine((10, "c"), 50.0),
    TrialLine((10, "$x"), None),
)


def lines() -> list[Line2D]:
    """Of the trials, without the axes."""
    drawn = parallel_coordinates(SCALES, TRIALS, "avg_acc").axes[0].lines
    return [line for line in drawn if line.get_color() != INK]


def heights(line: Line2D) -> list[float]:
    return [float(y) for y in line.get_xydata()[:, 1]]


def test_each_trial_is_a_line_over_all_axes_to_its_objective() -> None:
    found = [heights(line) for line in lines()]
    assert found == [pytest.approx(one) for one in ([0.5, 0.5], [0, 0, 0], [0.5, 1, 0.5], [1, 0.5, 1])]


def test_the_best_trial_is_thick_and_on_top_and_stopped_ones_are_thin_grey_and_below() -> None:
    stopped, *finished, best = lines()
    assert stopped.get_color() == FAINT
    assert best.get_linewidth() > 2 * max(line.get_linewidth() for line in finished)
    assert stopped.get_linewidth() < min(line.get_linewidth() for line in finished)


def test_a_line_has_the_colour_of_its_objective() -> None:
    _, least, middle, best = lines()
    assert [line.get_color() for line in (least, middle, best)] == [colours()(place) for place in (0.0, 0.5, 1.0)]


def test_axes_are_named_and_their_values_written() -> None:
    axes = parallel_coordinates(SCALES, TRIALS, "avg_acc").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["rho", "kind", "avg_acc"]
    assert [text.get_text() for text in axes.texts] == ["1", "100", "<b>", "$x", "c", "40", "60"]
    uprights = [line for line in axes.lines if line.get_color() == INK]
    assert [line.get_xdata()[0] for line in uprights] == [0, 1, 2]


def test_names_of_values_stay_text() -> None:
    text = svg(parallel_coordinates(SCALES, TRIALS, "avg_acc"), "trials")
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


def test_a_search_of_one_trial_and_one_without_an_end_are_drawn() -> None:
    one = [scale_of("rho", [3])]
    for trial, drawn in ((TrialLine((3,), 50.0, is_best=True), [0.5, 0.5]), (TrialLine((3,), None), [0.5])):
        axes = parallel_coordinates(one, [trial], "avg_acc").axes[0]
        assert [heights(line) for line in axes.lines if line.get_color() != INK] == [drawn]


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("page", ["#ffffff", "#1b1e21"])
def test_every_colour_is_seen_on_white_and_on_the_dark_page(page: str) -> None:
    drawn = [to_rgb(colours()(place / 20)) for place in range(21)]
    for colour in drawn:
        low, high = sorted((luminance(colour), luminance(to_rgb(page))))
        # What WCAG 2.1 asks of graphics is 3.
        assert (high + 0.05) / (low + 0.05) >= 3
