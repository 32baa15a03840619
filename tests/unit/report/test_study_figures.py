"""The figures of a study from what its summary keeps, and the numbers that stand behind each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lcia.config.load import parse
from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.study_figures import Drawn, draw_study
from lcia.report.study_tables import from_record, tabulate, to_record
from lcia.studies.compare import Cost
from lcia.studies.config import StudyConfig
from lcia.studies.points import Point, expand
from tests.unit.report.test_study_tables import before

TASKS = ("GQA", "OCR-VQA")
METHODS = {"plain": {"strategy.kind": "sequential"}, "ours": {}}


def points_of(**values: Any) -> list[Point]:
    base = {"benchmark": {"kind": "minicoin", "tasks": list(TASKS)}}
    return expand(parse(StudyConfig, {"name": "s", "base": base, "methods": METHODS, **values}, "test"))


def drawn(
    points: Sequence[Point],
    scores: Sequence[float],
    search: dict[str, Any] | None = None,
    old: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Drawn]:
    """Of runs that forget five percent and have `scores` as avg_acc, by way of the JSON of a summary."""
    matrices = [AccuracyMatrix(TASKS, np.array([[score + 5, np.nan], [score, score]])) for score in scores]
    costs = [Cost(1.0, 0.25, 2, 3.0, 0.5) for _ in points]
    record = json.loads(json.dumps(old(to_record(tabulate(points, matrices, costs)))))
    names = [point.config.name for point in points]
    return draw_study(from_record(record), dict(zip(names, matrices, strict=True)), search or {})


# A study that names its runs


def test_a_varied_number_is_told_by_method_the_other_keys_and_seeds_averaged_over() -> None:
    points = points_of(vary={"lora.r": [8, 16], "training.bf16": [False, True]})
    found = drawn(points, [10, 20, 30, 30, 40, 50, 60, 80])["responses"]
    assert found.numbers == [
        ["key", "value", "method", "runs", "avg_acc"],
        ["lora.r", "8", "plain", "2", "15.0 ± 7.1"],
        ["lora.r", "16", "plain", "2", "30.0 ± 0.0"],
        ["lora.r", "8", "ours", "2", "45.0 ± 7.1"],
        ["lora.r", "16", "ours", "2", "70.0 ± 14.1"],
    ]
    [panel] = found.sketch().axes
    means = [line.get_xydata().tolist() for line in panel.lines if line.get_linestyle() != "None"]
    assert means == [[[8, 15], [16, 30]], [[8, 45], [16, 70]]]


@pytest.mark.parametrize("vary", [{}, {"lora.r": [8]}, {"strategy.kind": ["ewc", "kronecker"]}])
def test_without_two_values_of_a_number_there_is_no_response(vary: dict[str, list[Any]]) -> None:
    points = points_of(vary=vary, methods={"ours": {}})
    assert "responses" not in drawn(points, range(10, 10 + len(points)))


def test_a_threshold_is_told_by_adapters_sizes_and_scores() -> None:
    points = points_of(vary={"grouping.threshold": [0.5, 0.1], "lora.r": [8]}, methods={"ours": {}}, seeds=[0, 1])
    found = drawn(points, [60, 70, 40, 50])["thresholds"]
    assert found.numbers == [
        ["threshold", "method", "adapters", "MB of adapters", "MB kept beside them", "avg_acc", "forgetting"],
        ["0.1", "ours, r=8", "2.00", "3.00", "0.50", "45.0 ± 7.1", "5.0 ± 0.0"],
        ["0.5", "ours, r=8", "2.00", "3.00", "0.50", "65.0 ± 7.1", "5.0 ± 0.0"],
    ]
    adapters, average, forgetting = found.sketch().axes
    assert [axes.get_title() for axes in (adapters, average, forgetting)] == [
        "adapters at the end", "avg_acc in percent", "forgetting in percent"
    ]  # fmt: skip
    assert average.lines[0].get_xydata().tolist() == [[0.1, 45], [0.5, 65]]


def test_thresholds_by_name_stand_beside_numbers() -> None:
    found = drawn(points_of(vary={"grouping.threshold": ["auto", 0.5]}, methods={"ours": {}}), [50, 60])
    assert [row[0] for row in found["thresholds"].numbers[1:]] == ["auto", "0.5"]
    assert "responses" not in found


def test_a_study_that_does_not_vary_the_threshold_has_no_figure_of_it() -> None:
    assert set(drawn(points_of(seeds=[0, 1]), [10, 20, 30, 40])) == {"trade-off", "strips"}


def test_runs_against_each_other_are_told_by_mean_and_range() -> None:
    found = drawn(points_of(seeds=[0, 1]), [10, 20, 30, 40])
    assert found["trade-off"].numbers[1:] == [
        ["plain", "2", "5.0 ± 0.0", "17.5 ± 7.1"],
        ["ours", "2", "5.0 ± 0.0", "37.5 ± 7.1"],
    ]
    assert found["strips"].numbers[1:] == [
        ["plain", "GQA > OCR-VQA", "2", "10.0", "15.0 ± 7.1", "20.0"],
        ["ours", "GQA > OCR-VQA", "2", "30.0", "35.0 ± 7.1", "40.0"],
    ]


def test_a_single_run_is_compared_with_nothing() -> None:
    assert drawn(points_of(methods={"ours": {}}), [50]) == {}


def test_a_summary_from_before_settings_were_kept_has_the_figures_that_it_had() -> None:
    points = points_of(vary={"grouping.threshold": [0.1, 0.5]})
    assert set(drawn(points, [10, 20, 30, 40], old=before)) == {"trade-off", "strips"}
    assert set(drawn(points, [10, 20, 30, 40])) == {"trade-off", "strips", "responses", "thresholds"}


# A study that draws its runs


def trial(number: int, value: float | None, whole: bool = True, **drawn: Any) -> dict[str, Any]:
    values = {"strategy.rho": 10.0**number, "strategy.kind": "<b>", **drawn}
    order = ["OCR-VQA", "GQA"] if drawn.get("place0") else ["GQA", "OCR-VQA"]
    return {"number": number, "drawn": values, "tasks": 2, "whole": whole, "value": value, "failed": "", "order": order}


def searched(*trials: dict[str, Any]) -> dict[str, Any]:
    objective = {"metric": "avg_acc", "direction": "max", "split": "validation"}
    return {"objective": objective, "best": trials[0]["number"], "trials": list(trials)}


def of_search(*trials: dict[str, Any]) -> dict[str, Drawn]:
    return drawn(points_of(methods={"ours": {}}), [50], searched(*trials))


def test_each_finished_trial_is_a_point_over_each_number_that_was_drawn() -> None:
    found = of_search(trial(2, 60.0), trial(0, 40.0), trial(1, 55.0, whole=False))
    assert found["responses"].numbers == [
        ["key", "value", "method", "trials", "avg_acc"],
        ["strategy.rho", "1", "all trials", "1", "40.0"],
        ["strategy.rho", "100", "all trials", "1", "60.0"],
    ]
    [panel] = found["responses"].sketch().axes
    assert [line.get_xydata().tolist() for line in panel.lines] == [[[1, 40], [100, 60]]]
    assert panel.get_xscale() == "log"


def test_trials_of_several_methods_are_told_apart() -> None:
    found = of_search(trial(0, 40.0, method="ours"), trial(1, 60.0, method="plain"))
    assert [row[2] for row in found["responses"].numbers[1:]] == ["ours", "plain"]
    axes = found["trials"].sketch().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "strategy.rho", "strategy.kind", "method", "avg_acc"
    ]  # fmt: skip


def test_trials_are_lines_over_what_was_drawn_and_an_order_is_told_by_its_first_task() -> None:
    found = of_search(trial(1, 60.0, place0=1), trial(0, 40.0, place0=0), trial(2, 99.0, whole=False, place0=0))
    axes = found["trials"].sketch().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()][2:] == ["order", "avg_acc"]
    written = [text.get_text() for text in axes.texts]
    assert written == ["1", "100", "<b>", "OCR-VQA first", "GQA first", "40", "60"]
    assert len(found["trials"].numbers) == 4


def test_a_search_over_named_orders_alone_shows_their_names() -> None:
    trials = [
        {**trial(number, 50.0 + number), "drawn": {"order": number}, "order": name}
        for number, name in enumerate(("origin", "reverse"))
    ]
    found = of_search(*trials)
    assert "responses" not in found
    assert [text.get_text() for text in found["trials"].sketch().axes[0].texts] == ["origin", "reverse", "50", "51"]


def test_a_search_of_methods_has_no_figure_over_thresholds() -> None:
    points = points_of(vary={"grouping.threshold": [0.1, 0.5]}, methods={"ours": {}})
    assert "thresholds" not in drawn(points, [50, 60], searched(trial(0, 50.0)))
