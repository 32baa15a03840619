"""How many samples each grouping decision served, counted by hand from two tasks and a third that falls apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from lcia import benchmarks
from lcia.config.grouping import TfidfConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.minicoin import instructions
from lcia.data.shards import ShardCounts
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.plan import Catalog, Planner, plan
from lcia.protocols import Features
from lcia.report import decisions
from lcia.run import Prepared

SHORT = "Answer the question using a single word or phrase."
BOX = "Please provide the bounding box coordinate of the region this sentence describes"
ODD = tuple(f"{word} something else entirely" for word in ("draw", "paint", "sing", "dance", "sew", "knit"))
Texts: TypeAlias = Mapping[tuple[str, str], Mapping[str, int]]
TEXTS: Texts = {
    ("GQA", "train"): {SHORT: 30},
    ("GQA", "test"): {SHORT: 7},
    ("Grounding", "train"): {BOX: 20},
    ("Grounding", "test"): {BOX: 3, SHORT: 2},
    ("OCR-VQA", "train"): {SHORT: 10},
    ("OCR-VQA", "test"): {SHORT: 4, **dict(zip(ODD, (1, 2, 3, 4, 5, 6), strict=True))},
}


def _prepared(protocol: str = "continual", texts: Texts = TEXTS, **grouping: Any) -> Prepared:
    order = ("GQA", "Grounding", "OCR-VQA")
    values = {"benchmark": {"kind": "minicoin", "tasks": list(order)}, "protocol": protocol, "grouping": grouping}
    config = parse(RunConfig, values, "test")
    features = {at: Features(tuple(t), np.array(list(t.values()))) for at, t in texts.items()}
    shards = {at: "/".join(at) for at in texts}
    known = features if config.grouping.enabled else {}
    catalog = Catalog(order, shards, known)  # type: ignore[arg-type]
    planner = Planner(config, "base", TfidfEmbedder(TfidfConfig()).mean_similarity)
    counts = {shards[at]: ShardCounts(sum(t.values()) + 1, 1, {"empty_answer": 1}) for at, t in texts.items()}
    return Prepared(config, benchmarks.build(config.benchmark), catalog, plan(planner, catalog), counts)


def test_a_training_decision_serves_every_good_row_of_its_task() -> None:
    found = [(p.task, p.group, samples) for p, samples in decisions.placements(_prepared())]
    assert found == [("GQA", 0, 30), ("Grounding", 1, 20), ("OCR-VQA", 0, 10)]


def test_a_route_serves_the_samples_that_hold_its_instruction() -> None:
    found = {(r.task, r.instruction, r.group): samples for r, samples in decisions.routes(_prepared(), 1)}
    assert found == {("GQA", SHORT, 0): 7, ("Grounding", BOX, 1): 3, ("Grounding", SHORT, 0): 2}


def test_a_decision_for_a_whole_file_serves_all_of_it() -> None:
    found = {r.task: samples for r, samples in decisions.routes(_prepared(route="file"), 2)}
    assert found == {"GQA": 7, "Grounding": 5, "OCR-VQA": 25}


def test_every_row_of_the_matrix_says_who_answered_how_many() -> None:
    assert decisions.served(_prepared()) == {
        "GQA": {"GQA": {"g0": 7}},
        "Grounding": {"GQA": {"g0": 7}, "Grounding": {"g0": 2, "g1": 3}},
        # Six instructions are like no codebook: the oldest of two that are as unlike takes their 21 samples.
        "OCR-VQA": {"GQA": {"g0": 7}, "Grounding": {"g0": 2, "g1": 3}, "OCR-VQA": {"g0": 25}},
    }


def test_the_base_serves_what_no_group_is_like_where_the_fallback_says_so() -> None:
    assert decisions.served(_prepared(fallback="base"))["OCR-VQA"]["OCR-VQA"] == {"base": 21, "g0": 4}


def test_the_newest_group_serves_what_no_group_is_like_where_the_fallback_says_so() -> None:
    # Their 21 samples.
    assert decisions.served(_prepared(fallback="newest"))["OCR-VQA"]["OCR-VQA"] == {"g0": 4, "g1": 21}


def test_without_grouping_one_adapter_serves_all_and_the_page_shows_no_decision() -> None:
    prepared = _prepared(enabled=False)
    assert decisions.served(prepared)["OCR-VQA"] == {
        "GQA": {"g0": 7}, "Grounding": {"g0": 5}, "OCR-VQA": {"g0": 25}
    }  # fmt: skip
    assert decisions.shown(prepared) == ()


def test_joint_training_decides_nothing() -> None:
    prepared = _prepared("multitask")
    assert decisions.served(prepared) == {}
    assert decisions.shown(prepared) == ()


def test_many_instructions_are_condensed_and_their_samples_still_add_up() -> None:
    rows = [d for d in decisions.shown(_prepared(fallback="newest")) if (d.task, d.split) == ("OCR-VQA", "test")]
    assert [(d.instruction, d.group, d.action, d.samples) for d in rows] == [
        (SHORT, "g0", "routed", 4),
        *[(text, "g1", "fallback: newest", n) for text, n in zip(ODD[:4], (1, 2, 3, 4), strict=True)],
        ("2 more", "g1", "fallback: newest", 11),
    ]


def test_records_hold_the_samples_beside_the_decision() -> None:
    [first, *_] = decisions.records(decisions.placements(_prepared()))
    assert (first["task"], first["group"], first["samples"]) == ("GQA", 0, 30)


# Warnings -----------------------------------------------------------------------------------------------------------

TEN: Texts = {
    (task, split): dict.fromkeys(instructions.TEN[task], 4)
    for task in ("GQA", "Grounding", "OCR-VQA")
    for split in ("train", "test")
}
CLEAN: Texts = {(task, split): {line: 9} for task, line in (("GQA", SHORT), ("Grounding", BOX), ("OCR-VQA", SHORT))
                for split in ("train", "test")}  # fmt: skip


def test_a_stream_that_is_grouped_as_a_person_would_has_no_warning() -> None:
    assert decisions.warnings(_prepared(texts=CLEAN)) == []
    assert decisions.warnings(_prepared(texts=TEN)) == []


def test_paraphrases_that_the_threshold_separates_are_warned_of_with_their_likeness() -> None:
    [first, *_] = decisions.warnings(_prepared(texts=TEN, threshold="origin", fallback="newest"))
    assert first.startswith("The threshold 0.90 separates 3 tasks from their own paraphrases")
    assert "GQA 0.80, Grounding 0.68, OCR-VQA 0.84" in first


def test_samples_that_a_foreign_group_answers_are_counted_per_task() -> None:
    [_, *foreign] = decisions.warnings(_prepared(texts=TEN, threshold="origin", fallback="newest"))
    assert foreign[0] == (
        "40 of 40 test samples of GQA are answered by g2 (trained on OCR-VQA), not by g0, which was trained on GQA"
    )
    assert [line.split(" are ")[0].split("samples of ")[1] for line in foreign] == ["GQA", "Grounding"]


def test_the_base_that_answers_for_a_trained_group_is_warned_of() -> None:
    [line] = decisions.warnings(_prepared(fallback="base", threshold="origin", texts={**TEXTS, **_odd_only()}))
    assert "21 of 21 test samples of OCR-VQA are answered by the model without an adapter" in line


def _odd_only() -> dict[tuple[str, str], dict[str, int]]:
    """Test data of which only OCR-VQA's is like nothing that was trained on."""
    odd = dict(zip(ODD, (1, 2, 3, 4, 5, 6), strict=True))
    return {("Grounding", "test"): {BOX: 3}, ("OCR-VQA", "test"): odd}


def test_a_foreign_answer_that_a_later_task_put_right_is_warned_of_with_its_place() -> None:
    # Nothing is like "paint the house" until OCR-VQA, trained on it too, joins GQA's group.
    paint = "paint the house"
    texts = {**CLEAN, ("GQA", "test"): {paint: 6}, ("OCR-VQA", "train"): {SHORT: 5, paint: 5}}
    [line] = decisions.warnings(_prepared(texts=texts, threshold=0.4, fallback="newest"))
    assert line.startswith("6 of 6 test samples of GQA are answered after training Grounding by g1")


def test_a_chosen_threshold_without_a_clear_gap_is_warned_of() -> None:
    prepared = _prepared(texts=CLEAN)
    for gap, warned in (((0.25, 0.375), True), ((0.25, 0.5), False)):
        *rows, last = prepared.plan.rows
        assert last.placement is not None
        placement = replace(last.placement, gap=gap)
        plan = replace(prepared.plan, rows=(*rows, replace(last, placement=placement)))
        found = [line for line in decisions.warnings(replace(prepared, plan=plan)) if "no clear gap" in line]
        assert [line.split(": auto chose the ")[1][:31] for line in found] == (
            ["threshold between 0.25 and 0.38"] if warned else []
        )


def test_without_grouping_there_is_nothing_to_warn_of() -> None:
    assert decisions.warnings(_prepared(texts=TEN, enabled=False)) == []
    assert decisions.warnings(_prepared("multitask", texts=TEN)) == []


def test_warnings_of_several_runs_are_told_once_with_their_runs() -> None:
    assert decisions.gather({"a": ["x", "y"]}) == ["x", "y"]
    assert decisions.gather({"a": ["x", "y"], "b": ["x"], "c": []}) == ["x (2 of 3 runs)", "y (run a)"]
