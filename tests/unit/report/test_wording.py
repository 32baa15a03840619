"""Values as the report shows them."""

from __future__ import annotations

from lcia.metrics.matrix import Metric
from lcia.metrics.stats import Comparison, Spread
from lcia.report.wording import best, corrected, difference, failures, p_value, with_spread


def test_the_best_run_has_the_highest_accuracy_and_the_least_forgetting() -> None:
    rows = [{"avg_acc": Metric(40.0), "forgetting": Metric(9.0)}, {"avg_acc": Metric(60.0), "forgetting": Metric(3.0)}]
    assert best(rows) == {"avg_acc": 60.0, "forgetting": 3.0}


def test_of_equal_or_undefined_values_none_is_the_best() -> None:
    rows = [{"avg_acc": Metric(40.0), "fwt": Metric(None, "why")}, {"avg_acc": Metric(40.0), "fwt": Metric(1.0)}]
    assert best(rows) == {}


def test_a_table_cell_shows_mean_and_deviation() -> None:
    assert [with_spread(Spread(71.04, 1.44, 2)), with_spread(Spread(71.25, None, 1))] == ["71.0 ± 1.4", "71.2"]


def test_a_p_value_is_never_shown_as_zero() -> None:
    assert [p_value(p) for p in (0.0004, 0.001, 0.25, None)] == ["<0.001", "0.001", "0.250", "\u2013"]


def test_a_difference_is_shown_with_its_interval_where_it_has_one() -> None:
    assert difference(Comparison(-1.25, -2.5, 0.04, 0.1, 0.1, 3)) == "-1.2 [-2.5, +0.0]"
    assert difference(Comparison(2.0, None, None, None, None, 1)) == "+2.0"


def test_a_star_marks_what_is_significant() -> None:
    known = Comparison(1.0, 0.5, 1.5, 0.001, 0.004, 9, 2.0, t_holm=0.0004)
    assert corrected(known) == "<0.001 *"
    assert corrected(Comparison(1.0, 0.5, 1.5, 0.2, 0.2, 9, 2.0, t_holm=0.2)) == "0.200"


def test_runs_are_named_that_failed_and_trials_with_the_reason() -> None:
    trials = [{"number": 0, "failed": ""}, {"number": 3, "failed": "loss is nan"}]
    assert failures(["one"], {"trials": trials}) == {"one": "", "trial 3": "loss is nan"}
    assert failures([], {}) == {}
