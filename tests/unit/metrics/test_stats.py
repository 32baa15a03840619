"""Paired statistics against values from textbooks' formulas and from counting."""

import math

import pytest

from lcia.metrics import stats
from lcia.types import InputError


def test_the_deviation_is_the_sample_deviation():
    assert stats.spread([1.0, 2.0, 3.0]) == stats.Spread(2.0, 1.0, 3)


def test_one_run_has_a_mean_and_no_deviation():
    assert stats.spread([71.25]) == stats.Spread(71.25, None, 1)
    assert str(stats.spread([71.25])) == "71.2"


def test_a_table_cell_shows_mean_and_deviation():
    assert str(stats.spread([70.0, 72.0])) == "71.0 ± 1.4"


def test_nothing_has_no_mean():
    with pytest.raises(InputError, match="no run"):
        stats.spread([])


def test_the_t_test_of_two_pairs_is_a_cauchy_tail():
    # Differences 1 and 3: t = 2 / (sqrt(2) / sqrt(2)) = 2 with one degree of freedom: p = 1 - 2/pi atan(2).
    assert stats.paired([2.0, 5.0], [1.0, 2.0]).t_p == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_six_wins_of_six_have_two_of_the_64_sign_patterns():
    assert stats.paired([1.0, 2.1, 3.3, 4.6, 6.0, 7.5], [0.0] * 6).wilcoxon_p == pytest.approx(2 / 64)


def test_the_interval_holds_the_mean_and_stays_within_the_differences():
    result = stats.paired([3.0, 5.0, 4.0], [1.0, 1.0, 1.0])
    assert result.difference == 3
    assert 2 <= result.low < 3 < result.high <= 4


def test_the_interval_of_two_values_is_their_range():
    # A quarter of the draws takes each value twice, far more than the tail of 2.5 %.
    assert stats.bootstrap_mean([1.0, 3.0], 0.95, seed=0) == (1.0, 3.0)


@pytest.mark.parametrize(("a", "b"), [([3.0], [1.0]), ([3.0, 4.0], [1.0, 2.0])])
def test_without_variation_there_is_a_difference_and_no_p_value(a, b):
    assert stats.paired(a, b) == stats.Comparison(2.0, None, None, None, None, len(a))


def test_unpaired_values_are_refused():
    with pytest.raises(InputError, match="3 and 2"):
        stats.paired([1, 2, 3], [1, 2])
