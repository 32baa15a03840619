"""A study's tables survive the JSON of summary.json, and are told from it as they were from the runs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lcia.config.load import parse
from lcia.metrics.companion import Companion
from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import Comparison
from lcia.report.study_tables import KEYS, StudyTables, from_record, reach, tabulate, to_record
from lcia.studies.compare import Cost, TaskSpread
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from pipelines.terminal.tables import study_tables

TASKS = ("GQA", "OCR-VQA")


def tables(**values: Any) -> StudyTables:
    base = {"benchmark": {"kind": "minicoin", "tasks": list(TASKS)}}
    methods = {"plain": {"strategy.kind": "sequential"}, "ours": {}}
    study = {"name": "s", "base": base, "methods": methods, "orders": ["origin", "reverse"], "seeds": [0, 1]}
    points = expand(parse(StudyConfig, {**study, **values}, "test"))
    scores = np.random.default_rng(0).uniform(10, 90, (len(points), 3))
    matrices = [AccuracyMatrix(TASKS, np.array([[a, np.nan], [b, c]])) for a, b, c in scores]
    return tabulate(points, matrices, [Cost(number + 1.5, 0.25, 2, 3.5, 0.5) for number in range(len(points))])


def general(*runs: Companion | None) -> StudyTables:
    """Of two methods with two seeds each, the plain one first; `runs`: what they know beside the stream."""
    base = {"benchmark": {"kind": "minicoin", "tasks": list(TASKS)}}
    methods = {"plain": {"strategy.kind": "sequential"}, "ours": {}}
    points = expand(parse(StudyConfig, {"name": "s", "base": base, "methods": methods, "seeds": [0, 1]}, "test"))
    scores = AccuracyMatrix(TASKS, np.array([[90, np.nan], [60, 80]]))
    return tabulate(points, [scores] * 4, [Cost(1.5, 0.25, 2, 3.5, 0.5)] * 4, runs)


def beside(before: float, final: float, judged: float) -> Companion:
    values = np.array([[before, 0.25], [np.nan, np.nan], [final, judged]])
    return Companion(("POPE",), ("mme/score",), ("(zero-shot)", *TASKS), values)


def printed(found: StudyTables) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(*study_tables(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def told(found: StudyTables) -> str:
    """The same with every run of blanks and line ends as one blank: rich wraps captions."""
    return " ".join(printed(found).split())


def test_the_tables_of_a_study_survive_json() -> None:
    whole = tables()
    again = from_record(json.loads(json.dumps(to_record(whole))))
    assert again == whole
    assert printed(again) == printed(whole)
    assert set(to_record(whole)) < KEYS


def test_general_ability_is_told_per_method_and_compared_in_pairs() -> None:
    found = general(beside(50, 20, 0.5), beside(50, 30, 0.5), beside(50, 44, 0.5), beside(50, 52, np.nan))
    assert from_record(json.loads(json.dumps(to_record(found)))) == found
    pope, judged = found.general["ours"]["POPE"], found.general["ours"]["mme/score"]
    assert [value and value.mean for value in (pope.before, pope.final, pope.change)] == [50, 48, -2]
    # One of its runs does not know the command's last figure.
    assert [value and value.mean for value in (judged.before, judged.final, judged.change)] == [0.25, None, None]
    [compared] = found.comparisons["general_acc"].values()
    assert (compared.n, compared.difference) == (2, pytest.approx(23 if found.reference == "plain" else -23))
    rows = [line.split("│")[1:-1] for line in printed(found).splitlines() if "before training" in line]
    assert [" ".join(row[2].split()) for row in rows] == ["50.0 ± 0.0", "50.0 ± 0.0"]
    assert "0.2500 ± 0.0000" in printed(found)


def test_a_method_with_a_run_that_looked_at_nothing_has_no_general_ability() -> None:
    found = general(beside(50, 20, 0.5), None, beside(50, 44, 0.5), beside(50, 52, 0.5))
    assert set(found.general) == {"ours"}
    assert general(None, None, None, None).general == {}
    assert "general ability" not in printed(general(None, None, None, None))
    assert "general_acc" not in general(None, None, None, None).comparisons


def before(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it was written before there was a reference."""
    new = ("reference", "comparisons", "costs", "settings", "old_data", "general")
    old = {"difference": 1.0, "low": -1.0, "high": 3.0, "t_p": 0.25, "wilcoxon_p": 0.5, "n": 4}
    kept = {key: value for key, value in record.items() if key not in new}
    return {**kept, "first": "plain", "against_first": {"ours": old}}


def test_a_record_from_before_there_was_a_reference_is_read() -> None:
    found = from_record(before(to_record(tables())))
    assert found.comparisons == {"avg_acc": {"ours": Comparison(1.0, -1.0, 3.0, 0.25, 0.5, 4)}}
    shown = printed(found)
    assert "avg_acc minus that of plain" in shown
    assert "+1.0 [-1.0, +3.0]" in shown


def test_a_label_is_a_method_with_its_varied_values() -> None:
    record = to_record(tables(vary={"lora.r": [8, 16]}, seeds=[0]))
    assert record["settings"]["ours, r=16"] == {"method": "ours", "varied": {"lora.r": 16}}
    assert set(record["settings"]) == set(record["labels"].values())
    assert from_record(before(record)).settings == {}


def test_methods_come_with_their_costs_and_then_the_pairs_by_metric() -> None:
    shown = printed(tables())
    heads = [
        "mean ± standard deviation (%)",
        "avg_acc minus",
        "new_acc minus",
        "forgetting minus",
        "score of each task",
    ]
    places = [shown.index(head) for head in heads]
    assert places == sorted(places)
    # Minutes 1.5, 2.5, 3.5, 4.5 of plain and four more each of ours.
    [plain, ours] = [line.split() for line in shown.splitlines() if "0.25" in line]
    assert (plain[-4], ours[-4]) == ("3.00", "7.00")


def comparison(pairs: int) -> Comparison:
    return Comparison(1.0, 0.5, 1.5, 0.001, 2 / 2**pairs, pairs, 2.0, 0.002, 2 / 2**pairs)


def test_below_six_pairs_no_difference_is_called_significant() -> None:
    few = replace(tables(), comparisons={"avg_acc": {"ours": comparison(5)}})
    shown = told(few)
    assert "can reach: 0.0625 (n = 5); fewer than 6 pairs are too few for a verdict." in shown
    assert "significant" not in shown
    assert "*" not in shown


def test_from_six_pairs_on_a_star_says_what_is_significant() -> None:
    shown = told(replace(tables(), comparisons={"avg_acc": {"ours": comparison(9)}}))
    assert "0.002 *" in shown
    assert "can reach: 0.00391 (n = 9); * significant at 5 % by the t test after Holm's correction." in shown


def test_tables_with_unequal_pairs_say_what_each_number_reaches() -> None:
    assert "0.0625 (n = 5), 0.00391 (n = 9)" in reach({"a": comparison(9), "b": comparison(5)})


def test_seeds_are_gathered_per_method_order_and_task_with_mean_spread_and_number() -> None:
    record = to_record(tables())
    assert list(record["methods"]) == ["plain", "ours"]
    assert record["methods"]["plain"]["avg_acc"]["n"] == 4
    assert list(record["orders"]) == ["plain, origin", "plain, reverse", "ours, origin", "ours, reverse"]
    assert record["orders"]["ours, reverse"]["avg_acc"]["n"] == 2
    assert set(record["tasks"]["ours"]["GQA"]["learnt"]) == {"mean", "std", "n"}
    assert {metric: table["ours"]["n"] for metric, table in record["comparisons"].items()} == {
        "avg_acc": 4, "new_acc": 4, "forgetting": 4
    }  # fmt: skip
    assert record["labels"]["0002-plain-reverse-seed0"] == "plain"


def test_a_study_of_one_run_has_no_spread_and_nothing_to_compare() -> None:
    record = to_record(tables(methods={"ours": {}}, orders="given", seeds=[3]))
    assert record["methods"]["ours"]["avg_acc"]["std"] is None
    assert (record["orders"], record["comparisons"]) == ({}, {})
    assert from_record(json.loads(json.dumps(record))).methods["ours"]["fwt"] is None


def test_the_tasks_are_those_of_all_labels_in_their_order() -> None:
    known = TaskSpread(None, None)
    found = replace(tables(), tasks={"cut": {"a.1": known, "a.2": known}, "whole": {"a": known}})
    assert found.task_names == ("a.1", "a.2", "a")


def test_a_method_that_trains_on_old_data_is_marked() -> None:
    found = tables(methods={"plain": {}, "kept": {"data.replay": 0.05}, "joint": {"protocol": "multitask"}})
    assert found.old_data == ("kept", "joint")
    shown = told(found)
    assert "kept \u2020" in shown
    assert "plain \u2020" not in shown
    assert "uses old data" in shown
    assert "uses old data" not in told(tables())
