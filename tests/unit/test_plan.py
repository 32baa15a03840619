"""From configurations to stages: what is shared, what is not, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from math import perm
from typing import Any

import numpy as np
import pytest

from lcia.config.grouping import TfidfConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.grouping.codebook import Placement, Route
from lcia.plan import ZERO_SHOT, Catalog, Plan, Planner, plan, union
from lcia.protocols import Features

TASKS = ("GQA", "Grounding", "OCR-VQA")
SHORT = "Answer the question using a single word or phrase."
BOX = "Please provide the bounding box coordinate of the region this sentence describes"
TEXTS = {"GQA": SHORT, "Grounding": BOX, "OCR-VQA": SHORT}


def _planner(**values: Any) -> Planner:
    return Planner(parse(RunConfig, values, "test"), "base", TfidfEmbedder(TfidfConfig()).mean_similarity)


def _catalog(order: tuple[str, ...], texts: Mapping[str, str] = TEXTS) -> Catalog:
    at = [(task, split) for task in order for split in ("train", "test")]
    features = {(task, split): Features((texts[task],), np.array([8])) for task, split in at}
    return Catalog(order, {(task, split): f"{task}/{split}" for task, split in at}, features)  # type: ignore[arg-type]


def _plan(order: tuple[str, ...] = TASKS, **values: Any) -> Plan:
    return plan(_planner(**values), _catalog(order))


def _fitted(order: tuple[str, ...] = TASKS, fits: Sequence[str] = TASKS, **values: Any) -> Plan:
    return plan(_planner(**values), replace(_catalog(order), fits={task: f"{task}/first" for task in fits}))


def test_every_group_is_asked_about_every_task_that_has_rows_to_compare_by() -> None:
    made = _fitted(fits=("GQA", "Grounding"))
    newest = made.groups[-1]
    assert [(fit.task, fit.group) for fit in made.fits] == [
        ("GQA", 0), ("GQA", 1), ("Grounding", 0), ("Grounding", 1)
    ]  # fmt: skip
    for fit in made.fits:
        assert (fit.stage.shards, fit.stage.default) == (f"{fit.task}/first", newest[fit.group])
    assert {fit.stage.key for fit in made.fits} <= {stage.key for stage in made.evals}
    assert {stage.key for stage in union([made])[1]} == {stage.key for stage in made.evals}
    # The matrix does not hold them.
    assert {cell.stage.key for cell in made.cells} == {stage.key for stage in _plan().evals}


def test_where_there_is_one_group_there_is_nothing_to_compare() -> None:
    assert _fitted(grouping={"enabled": False}).fits == ()
    assert _fitted(("GQA", "OCR-VQA")).fits == ()
    assert _fitted(protocol="multitask").fits == ()


def _distinct(tasks: Sequence[str] = TASKS, texts: Mapping[str, str] = TEXTS, **values: Any) -> int:
    """Trainings that all orders ask for together; features are the same objects for all of them, as in a study."""
    planner, catalog = _planner(**values), _catalog(tuple(tasks), texts)
    plans = (plan(planner, replace(catalog, order=order)) for order in permutations(tasks))
    return len({stage.key for made in plans for stage in made.trains})


def test_all_orders_of_three_tasks_share_their_prefixes() -> None:
    # Without groups the stages form a prefix tree: 3 + 6 + 6 of the 18 that are asked for.
    assert _distinct(grouping={"enabled": False}) == 15


def test_fresh_groups_share_more() -> None:
    # Two groups: Grounding alone is one stage; of the other two either comes first: 2 + 2.
    assert _distinct() == 5


def test_the_first_stage_of_an_adapter_is_the_same_for_all_bounds() -> None:
    off = {"enabled": False}
    low = _plan(strategy={"kind": "proximal", "beta_min": 0.1}, grouping=off)
    high = _plan(strategy={"kind": "proximal", "beta_min": 0.9}, grouping=off)
    assert low.trains[0].key == high.trains[0].key
    assert low.trains[1].key != high.trains[1].key


def test_a_group_continues_its_own_newest_stage() -> None:
    made = _plan()
    assert [p.group for p in made.placements] == [0, 1, 0]
    assert made.trains[1].parent is None
    assert made.trains[2].parent == made.trains[0].key


def test_a_new_group_may_start_from_the_newest_adapter_but_as_a_first_stage() -> None:
    made = _plan(grouping={"expand_from": "newest"})
    assert made.trains[1].parent == made.trains[0].key
    assert made.trains[1].first


def test_the_lower_triangle_is_evaluated_and_unchanged_cells_share_a_stage() -> None:
    made = _plan()
    assert [(cell.row, cell.column) for cell in made.cells] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    # Grounding's stage changes nothing for GQA's adapter, and OCR-VQA's nothing for Grounding's.
    assert made.cells[0].stage == made.cells[1].stage
    assert made.cells[2].stage == made.cells[4].stage
    assert len(made.evals) == 4


def test_zero_shot_and_the_upper_triangle_come_on_request() -> None:
    made = _plan(evaluation={"zero_shot": True, "upper_triangle": True}, grouping={"enabled": False})
    rows = [cell.row for cell in made.cells]
    assert rows.count(ZERO_SHOT) == 3
    assert len(rows) == 3 + 9


def test_multi_task_is_one_stage_on_all_data_and_zero_shot_is_none() -> None:
    together, none = _plan(protocol="multitask"), _plan(protocol="zero_shot")
    assert [stage.tasks for stage in together.trains] == [TASKS]
    assert none.trains == ()
    assert all(cell.stage.default is None for cell in none.cells)


def test_a_stage_carries_neither_order_nor_group() -> None:
    assert _plan(("GQA", "Grounding")).trains[1].key == _plan(("Grounding", "GQA")).trains[0].key


def test_groups_that_start_from_the_newest_adapter_share_little() -> None:
    # 3 first and 6 second stages. Of the 6 third ones, the two that follow their group past Grounding are second
    # stages too: OCR-VQA on GQA and GQA on OCR-VQA.
    assert _distinct(grouping={"expand_from": "newest"}) == 3 + 6 + 6 - 2


def test_without_grouping_the_matrix_has_an_own_stage_for_every_cell() -> None:
    made = _plan(grouping={"enabled": False})
    assert len(made.evals) == len(made.cells) == 3 * 4 // 2
    assert [cell.stage.default for cell in made.cells] == [
        made.trains[row].key for row in range(3) for _ in range(row + 1)
    ]


def test_multi_task_trains_once_on_all_shards_and_is_read_at_the_end() -> None:
    made = _plan(protocol="multitask")
    assert made.trains[0].shards == tuple(f"{task}/train" for task in TASKS)
    assert made.trains[0].parent is None
    assert [(c.row, c.column) for c in made.cells] == [(2, 0), (2, 1), (2, 2)]
    assert {c.stage.default for c in made.cells} == {made.trains[0].key}


def test_a_seed_or_another_base_shares_nothing() -> None:
    off = {"enabled": False}
    keys = [{stage.key for stage in _plan(grouping=off, seed=seed).trains} for seed in (0, 1)]
    assert not keys[0] & keys[1]


# How much orders share, against closed formulas that know nothing of plans -----------------------------------------


def _sequences(items: int) -> int:
    """Ordered selections of one item or more."""
    return sum(perm(items, chosen) for chosen in range(1, items + 1))


def _chain(tasks: int) -> int:
    """A training is known by the tasks before it and itself, in their order."""
    return _sequences(tasks)


def _fresh(groups: Sequence[int]) -> int:
    """A group is a chain of its own, whatever is trained in between."""
    return sum(map(_sequences, groups))


def _newest(large: int, singles: int) -> int:
    """One group of several tasks beside groups of one. A training's ancestors are a path: a group's first task comes
    after whatever was trained last, any other after its group's last. So a path holds singles alone, or singles, then
    tasks of the large group, then again singles (the only way on from a single is another group's first task)."""
    around = sum((both + 1) * perm(singles, both) for both in range(singles + 1))
    return _sequences(singles) + around * _sequences(large)


FIVE = dict.fromkeys(("GQA", "VQAv2", "OCR-VQA"), SHORT) | {"Grounding": BOX, "ImageNet": "What is the object?"}


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        ({"enabled": False}, _chain(5)),
        ({"expand_from": "newest"}, _newest(3, 2)),
        ({"expand_from": "fresh"}, _fresh((3, 1, 1))),
    ],
)
def test_all_orders_of_five_tasks_share_what_the_formulas_say(grouping: dict[str, Any], expected: int) -> None:
    assert _distinct(tuple(FIVE), FIVE, grouping=grouping) == expected


def test_the_formulas_give_the_design_s_counts_for_coin() -> None:
    # Five tasks share a group, three have one each; 40,320 orders ask for 8 trainings each.
    assert (_chain(8), _newest(5, 3), _fresh((5, 1, 1, 1))) == (109_600, 15_940, 328)


@pytest.mark.parametrize(
    "values",
    [{}, {"grouping": {"enabled": False}}, {"evaluation": {"upper_triangle": True, "zero_shot": True}},
     {"grouping": {"fallback": "base", "threshold": 0.9}}],
)  # fmt: skip
def test_orders_planned_together_are_planned_as_each_alone(values: dict[str, Any]) -> None:
    shared, catalog = _planner(**values), _catalog(tuple(FIVE), FIVE)
    plans = {order: plan(shared, replace(catalog, order=order)) for order in permutations(FIVE)}
    for order in [tuple(FIVE), tuple(reversed(FIVE)), ("GQA", *(task for task in FIVE if task != "GQA"))]:
        alone, together = plan(_planner(**values), replace(catalog, order=order)), plans[order]
        for made in ("order", "trains", "cells", "evals", "placements", "routes", "groups"):
            assert getattr(together, made) == getattr(alone, made)
        assert len(together.cells) == (30 if "evaluation" in values else 15)
    trains, evals = union(plans.values())
    assert {s.key for s in trains} == {s.key for made in plans.values() for s in made.trains}
    assert {s.key for s in evals} == {s.key for made in plans.values() for s in made.evals}
    assert len(trains) == len({s.key for s in trains})
    seen: set[str | None] = {None}
    for stage in trains:
        assert stage.parent in seen
        seen.add(stage.key)


def test_without_grouping_every_entry_is_answered_by_the_only_group_and_nothing_falls_back() -> None:
    made = _plan(grouping={"enabled": False})
    assert made.routes == tuple(
        (row, Route(task, "test", None, 0, (), False)) for row in range(3) for task in TASKS[: row + 1]
    )
    assert made.placements == tuple(Placement(task, 0, row == 0, ()) for row, task in enumerate(TASKS))


def test_each_row_of_the_matrix_knows_the_newest_stage_of_every_group() -> None:
    made = _plan()
    first, box, last = (stage.key for stage in made.trains)
    assert made.groups == ({0: first}, {0: first, 1: box}, {0: last, 1: box})


def test_the_stage_that_answers_most_instructions_is_the_default_and_the_others_are_routes() -> None:
    asked = _planner().evaluate("GQA", "GQA/test", (("x", "k1"), ("y", "k2"), ("z", "k2"), ("w", None)))
    assert asked.default == "k2"
    assert asked.routes == (("w", None), ("x", "k1"))
    assert [asked.adapter_of(text) for text in ("x", "y", "z", "w", "new")] == ["k1", "k2", "k2", None, "k2"]
    assert asked.adapters == ("k1", "k2")


def test_zero_shot_and_multi_task_show_the_untuned_base_where_it_belongs() -> None:
    none = _plan(protocol="zero_shot")
    assert [(cell.row, cell.column) for cell in none.cells] == [(2, 0), (2, 1), (2, 2)]
    together = _plan(protocol="multitask", evaluation={"zero_shot": True})
    assert [cell.row for cell in together.cells] == [ZERO_SHOT] * 3 + [2] * 3
    assert together.groups == ({0: together.trains[0].key},)
    assert together.trains[0].first


def test_an_entry_asks_about_its_task_with_that_task_s_shards() -> None:
    for made in (_plan(), _plan(protocol="multitask"), _plan(evaluation={"zero_shot": True})):
        for cell in made.cells:
            assert (cell.stage.task, cell.stage.shards) == (TASKS[cell.column], f"{TASKS[cell.column]}/test")
            assert (cell.stage.base, cell.stage.max_new_tokens) == ("base", 32)
        for stage in made.trains:
            assert stage.shards == tuple(f"{task}/train" for task in stage.tasks)


def test_a_task_s_own_batch_size_is_that_of_its_stage_and_of_no_other() -> None:
    sizes = {"GQA": 4, "Grounding": 12}
    given = _plan(training={"batch_size": 8, "task_batch_sizes": sizes}, grouping={"enabled": False})
    assert [stage.training.batch_size for stage in given.trains] == [4, 12, 8]
    # The first stage is the one that a run with this size for all tasks would train.
    assert given.trains[0].key == _plan(training={"batch_size": 4}, grouping={"enabled": False}).trains[0].key


def test_joint_training_has_one_batch_size() -> None:
    [stage] = _plan(protocol="multitask", training={"batch_size": 8, "task_batch_sizes": {"GQA": 4}}).trains
    assert (stage.training.batch_size, dict(stage.training.task_batch_sizes)) == (8, {})


FUSED = {"fusion": {"temperature": 0.1}}


def test_where_all_adapters_answer_every_task_has_one_and_its_weights_follow_from_its_instructions() -> None:
    made = _fitted(grouping=FUSED, strategy={"kind": "sequential"})
    assert [placement.group for placement in made.placements] == [0, 1, 2]
    assert all(stage.first and stage.parent is None for stage in made.trains)
    assert made.cells[0].stage.fusion is None, "one adapter is itself"
    assert made.cells[0].stage.default == made.trains[0].key
    fusion = made.cells[-1].stage.fusion
    assert fusion is not None
    assert fusion.adapters == tuple(stage.key for stage in made.trains)
    # OCR-VQA asks as GQA does, and Grounding otherwise: e^(1/0.1) to e^(0/0.1), twice.
    assert dict(fusion.weights) == {SHORT: (0.5, 0.0, 0.5)}
    assert made.cells[-1].stage.adapters == tuple(sorted(fusion.adapters))
    assert fusion.of(SHORT).strongest == made.trains[0].key
    assert made.fits == ()
    last = [route for row, route in made.routes if row == 2]
    assert [(route.task, route.group, len(route.similarities)) for route in last] == [
        ("GQA", 0, 3), ("Grounding", 1, 3), ("OCR-VQA", 0, 3)
    ]  # fmt: skip


def test_a_temperature_changes_answers_and_no_training() -> None:
    sharp, soft = (_plan(grouping={"fusion": {"temperature": t}}) for t in (0.1, 0.5))
    assert [stage.key for stage in sharp.trains] == [stage.key for stage in soft.trains]
    assert sharp.cells[0].stage.key == soft.cells[0].stage.key
    assert sharp.cells[-1].stage.key != soft.cells[-1].stage.key


def test_one_decision_for_a_file_gives_it_the_weights_of_its_mean() -> None:
    made = _plan(grouping={**FUSED, "route": "file"})
    fusion = made.cells[-1].stage.fusion
    assert fusion is not None
    assert [text for text, _ in fusion.weights] == [None]
    assert fusion.of("anything").weights == (0.5, 0.0, 0.5)


def test_adapters_of_their_own_are_shared_by_all_orders() -> None:
    assert _distinct(grouping=FUSED) == 3
