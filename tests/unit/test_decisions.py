"""How many samples each grouping decision served, counted by hand from two tasks and a third that falls apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from lcia import benchmarks, decisions
from lcia.config import RunConfig, TfidfConfig
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.load import parse
from lcia.plan import Catalog, Planner, plan
from lcia.protocols import Features
from lcia.run import Prepared
from lcia.shards import ShardCounts

SHORT = "Answer the question using a single word or phrase."
BOX = "Please provide the bounding box coordinate of the region this sentence describes"
ODD = tuple(f"{word} something else entirely" for word in ("draw", "paint", "sing", "dance", "sew", "knit"))
TEXTS = {
    ("GQA", "train"): {SHORT: 30},
    ("GQA", "test"): {SHORT: 7},
    ("Grounding", "train"): {BOX: 20},
    ("Grounding", "test"): {BOX: 3, SHORT: 2},
    ("OCR-VQA", "train"): {SHORT: 10},
    ("OCR-VQA", "test"): {SHORT: 4, **dict(zip(ODD, (1, 2, 3, 4, 5, 6), strict=True))},
}


def _prepared(protocol: str = "continual", **grouping: Any) -> Prepared:
    order = ("GQA", "Grounding", "OCR-VQA")
    values = {"benchmark": {"kind": "minicoin", "tasks": list(order)}, "protocol": protocol, "grouping": grouping}
    config = parse(RunConfig, values, "test")
    features = {at: Features(tuple(t), np.array(list(t.values()))) for at, t in TEXTS.items()}
    shards = {at: "/".join(at) for at in TEXTS}
    known = features if config.grouping.enabled else {}
    catalog = Catalog(order, shards, known)  # type: ignore[arg-type]
    planner = Planner(config, "base", TfidfEmbedder(TfidfConfig()).mean_similarity)
    counts = {shards[at]: ShardCounts(sum(t.values()) + 1, 1, {"empty_answer": 1}) for at, t in TEXTS.items()}
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
