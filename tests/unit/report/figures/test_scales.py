"""Where values lie on an axis, computed by hand."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from lcia.report.figures.scales import scale_of, set_x


def test_numbers_are_to_scale_and_in_ascending_order() -> None:
    scale = scale_of("lora.r", [16, 8, 16, 24])
    assert scale.values == (8, 16, 24)
    assert [scale.along(value) for value in (8, 12, 24)] == [0, 0.25, 1]


def test_numbers_that_reach_far_lie_by_their_logarithms() -> None:
    scale = scale_of("rho", [1, 10, 100])
    assert scale.is_log
    assert [scale.along(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("values", [[1, 30], [0, 100], [-1, 100], ["1", "100"]])
def test_an_axis_stays_linear_up_to_a_factor_of_thirty_and_at_zero_and_below(values: list[object]) -> None:
    assert not scale_of("key", values).is_log
    assert scale_of("key", [1, 30.5]).is_log


@pytest.mark.parametrize("values", [["auto", 0.5], [True, False], [[1, 2], [3]], [None, 1], [float("inf"), 1]])
def test_values_that_are_not_all_numbers_lie_at_even_places_as_they_came(values: list[object]) -> None:
    scale = scale_of("key", [*values, values[0]])
    assert scale.values == tuple(str(value) for value in values)
    assert [scale.along(value) for value in values] == [0, 1]
    assert scale.ticks == scale.values


def test_a_single_value_lies_in_the_middle() -> None:
    assert [scale_of("key", [value]).along(value) for value in (7, "ours")] == [0.5, 0.5]
    assert scale_of("key", [7]).ticks == (7,)


def test_numbers_are_written_at_the_two_ends() -> None:
    assert scale_of("key", [3, 1, 2]).ticks == (1, 3)


def test_a_panel_shows_texts_at_their_places_and_far_numbers_on_a_logarithmic_axis() -> None:
    near, far, texts = Figure().subplots(1, 3)
    set_x(near, scale_of("near", [1, 2]))
    set_x(far, scale_of("far", [1, 1000]))
    set_x(texts, scale_of("texts", ["<b>", "$x"]))
    assert [panel.get_xscale() for panel in (near, far, texts)] == ["linear", "log", "linear"]
    assert [panel.get_xlabel() for panel in (near, far, texts)] == ["near", "far", "texts"]
    assert [label.get_text() for label in texts.get_xticklabels()] == ["<b>", "$x"]
    assert far.xaxis.get_major_formatter()(100.0) == "100"
