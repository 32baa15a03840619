"""Values as the report shows them."""

from __future__ import annotations

from lcia.metrics.matrix import Metric
from lcia.report.wording import best


def test_the_best_run_has_the_highest_accuracy_and_the_least_forgetting() -> None:
    rows = [{"avg_acc": Metric(40.0), "forgetting": Metric(9.0)}, {"avg_acc": Metric(60.0), "forgetting": Metric(3.0)}]
    assert best(rows) == {"avg_acc": 60.0, "forgetting": 3.0}


def test_of_equal_or_undefined_values_none_is_the_best() -> None:
    rows = [{"avg_acc": Metric(40.0), "fwt": Metric(None, "why")}, {"avg_acc": Metric(40.0), "fwt": Metric(1.0)}]
    assert best(rows) == {}
