"""A study's tables survive the JSON of summary.json, and are told from it as they were from the runs."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from rich.console import Console

from lcia.config.load import parse
from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.study_tables import KEYS, StudyTables, from_record, tabulate, to_record
from lcia.study import StudyConfig, expand
from pipelines.terminal.tables import study_tables

TASKS = ("GQA", "OCR-VQA")


def tables(**values: Any) -> StudyTables:
    base = {"benchmark": {"kind": "minicoin", "tasks": list(TASKS)}}
    methods = {"plain": {"strategy.kind": "sequential"}, "ours": {}}
    study = {"name": "s", "base": base, "methods": methods, "orders": ["origin", "reverse"], "seeds": [0, 1]}
    points = expand(parse(StudyConfig, {**study, **values}, "test"))
    scores = np.random.default_rng(0).uniform(10, 90, (len(points), 3))
    return tabulate(points, [AccuracyMatrix(TASKS, np.array([[a, np.nan], [b, c]])) for a, b, c in scores])


def printed(found: StudyTables) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(*study_tables(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_tables_of_a_study_survive_json() -> None:
    whole = tables()
    again = from_record(json.loads(json.dumps(to_record(whole))))
    assert again == whole
    assert printed(again) == printed(whole)
    assert set(to_record(whole)) == KEYS


def test_seeds_are_gathered_per_method_order_and_task_with_mean_spread_and_number() -> None:
    record = to_record(tables())
    assert list(record["methods"]) == ["plain", "ours"]
    assert record["methods"]["plain"]["avg_acc"]["n"] == 4
    assert list(record["orders"]) == ["plain, origin", "plain, reverse", "ours, origin", "ours, reverse"]
    assert record["orders"]["ours, reverse"]["avg_acc"]["n"] == 2
    assert set(record["tasks"]["ours"]["GQA"]["learnt"]) == {"mean", "std", "n"}
    assert record["against_first"]["ours"]["n"] == 4
    assert record["labels"]["0002-plain-reverse-seed0"] == "plain"


def test_a_study_of_one_run_has_no_spread_and_nothing_to_compare() -> None:
    record = to_record(tables(methods={"ours": {}}, orders="given", seeds=[3]))
    assert record["methods"]["ours"]["avg_acc"]["std"] is None
    assert (record["orders"], record["against_first"]) == ({}, {})
    assert from_record(json.loads(json.dumps(record))).methods["ours"]["fwt"] is None
