"""Paired statistics against values from textbooks' formulas and from counting."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcia.metrics import stats
from lcia.types import InputError

DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""Hours of sleep gained by ten patients, Student 1908 (R's `sleep`)."""
MAIZE = [49.0, -67.0, 8.0, 16.0, 6.0, 23.0, 28.0, 41.0, 14.0, 29.0, 56.0, 24.0, 75.0, 60.0, -48.0]
"""Crossed minus self-fertilised plants in eighths of an inch, Darwin 1876 as in Fisher 1935."""


def test_the_deviation_is_the_sample_deviation():
    assert stats.spread([1.0, 2.0, 3.0]) == stats.Spread(2.0, 1.0, 3)


def test_one_run_has_a_mean_and_no_deviation():
    assert stats.spread([71.25]) == stats.Spread(71.25, None, 1)


def test_nothing_has_no_mean():
    with pytest.raises(InputError, match="no run"):
        stats.spread([])


def test_the_t_test_of_two_pairs_is_a_cauchy_tail():
    # Differences 1 and 3: t = 2 / (sqrt(2) / sqrt(2)) = 2 with one degree of freedom: p = 1 - 2/pi atan(2).
    assert stats.paired([2.0, 5.0], [1.0, 2.0]).t_p == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_six_wins_of_six_have_two_of_the_64_sign_patterns():
    assert stats.paired([1.0, 2.1, 3.3, 4.6, 6.0, 7.5], [0.0] * 6).wilcoxon_p == pytest.approx(2 / 64)


def test_students_sleep_gives_the_published_t_and_effect_size():
    # t = 4.0621 with 9 degrees of freedom, p = 0.002833 (R's t.test); d_z = t / sqrt(10).
    found = stats.paired(DRUG_2, DRUG_1)
    assert found.difference == pytest.approx(1.58)
    assert found.t_p == pytest.approx(0.002833, abs=5e-7)
    assert found.d == pytest.approx(4.0621 / 10**0.5, abs=5e-5)


def test_fishers_maize_gives_the_published_t_and_the_exact_signed_ranks():
    # Fisher 1935: t = 2.148 with 14 degrees of freedom, p = 0.0497. Exact p from scipy's reference: 0.04126.
    found = stats.paired(MAIZE, [0.0] * len(MAIZE))
    assert found.t_p == pytest.approx(0.0497, abs=5e-5)
    assert found.wilcoxon_p == pytest.approx(0.041259765625)


def test_signed_ranks_are_exact_with_equal_differences_and_leave_out_a_zero():
    # Of the sleep data nine differences are not zero, three pairs of them equal, and all have one sign.
    assert stats.paired(DRUG_2, DRUG_1).wilcoxon_p == 2 / 2**9


def test_equal_differences_stay_equal_whatever_their_last_bit():
    # 0.3 - 0.1 and 0.2 differ in the last bit, and so would their ranks.
    a, b = [0.1, 0.2, 0.5, 0.4], [0.3, 0.0, 0.0, 0.0]
    assert stats.paired(a, b).wilcoxon_p == _every_sign_pattern([-0.2, 0.2, 0.5, 0.4]) == 6 / 16


def _every_sign_pattern(differences):
    """Share of sign patterns whose ranks are as far apart or farther; equal sizes share their mean rank."""
    sizes = [abs(d) for d in differences]
    ranks = [1 + sum(o < s for o in sizes) + (sizes.count(s) - 1) / 2 for s in sizes]
    found = abs(np.sign(differences) @ ranks)
    patterns = list(itertools.product((1, -1), repeat=len(ranks)))
    return sum(abs(np.dot(pattern, ranks)) >= found for pattern in patterns) / len(patterns)


def test_holms_steps_by_hand():
    # 4 x 0.005; 3 x 0.01; 2 x 0.03; 1 x 0.04, which may not lie below the one before.
    assert stats.holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_comparison_without_an_answer_counts_in_the_family():
    assert stats.holm_adjusted([0.01, None, 0.9]) == [pytest.approx(0.03), None, 1.0]
    assert stats.holm_adjusted([]) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_steps_are_those_of_statsmodels(values):
    from statsmodels.stats.multitest import multipletests

    assert stats.holm_adjusted(values) == pytest.approx(multipletests(values, method="holm")[1].tolist(), abs=1e-12)


def test_every_test_of_a_table_is_corrected_in_its_own_family():
    table = {"a": stats.Comparison(1.0, 0.0, 2.0, 0.01, 0.5, 9), "b": stats.Comparison(1.0, 0.0, 2.0, 0.3, 0.04, 9)}
    found = stats.holm(table)
    assert [(c.t_holm, c.wilcoxon_holm) for c in found.values()] == [(0.02, 0.5), (0.3, 0.08)]


@pytest.mark.parametrize("pairs", [2, 6, 9])
def test_no_pairs_reach_a_smaller_p_than_the_design_allows(pairs):
    wins = [1.0 + 0.1 * k**2 for k in range(pairs)]
    assert stats.paired(wins, [0.0] * pairs).wilcoxon_p == pytest.approx(stats.smallest_wilcoxon_p(pairs))


@pytest.mark.parametrize(("pairs", "p", "verdict"), [(6, 0.049, True), (6, 0.05, False), (5, 0.001, False)])
def test_a_difference_is_significant_from_six_pairs_on(pairs, p, verdict):
    comparison = stats.Comparison(1.0, 0.5, 1.5, p / 9, 0.03, pairs, 2.0, t_holm=p)
    assert comparison.is_significant is verdict


def test_before_holms_correction_nothing_is_significant():
    assert not stats.Comparison(1.0, 0.5, 1.5, 0.001, 0.03, 9, 2.0).is_significant


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


@pytest.mark.parametrize("shared", [True, False])
def test_a_clustered_interval_is_that_of_a_regression_with_clustered_errors(shared):
    from statsmodels.api import OLS

    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 20, 60) if shared else np.arange(60)
    values = (rng.random(20)[clusters % 20] + rng.random(60) > 1).astype(float)
    fitted = OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    assert stats.clustered_interval(values.tolist(), clusters.tolist()) == pytest.approx(fitted.conf_int()[0])


def test_samples_that_stand_alone_give_students_interval():
    from scipy.stats import t

    values = [1.0, 0.0, 1.0, 1.0]
    low, high = stats.clustered_interval(values, range(4))
    assert (low + high) / 2 == pytest.approx(0.75)
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, 3) * 0.25)


def test_two_questions_about_each_picture_that_agree_are_worth_one():
    once, twice = [1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    alone = stats.clustered_interval(once, range(5))
    assert stats.clustered_interval(twice, [n // 2 for n in range(10)]) == pytest.approx(alone)


def test_one_picture_says_nothing_of_others():
    assert stats.clustered_interval([1.0, 0.0], ["a", "a"]) is None
