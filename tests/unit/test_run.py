"""A whole run in one process: what is asked of the executor, and what the matrices are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from lcia import assistants
from lcia.config.assistants import LlavaConfig, TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.evaluation.answers import read_answers
from lcia.local import LocalExecutor
from lcia.models.identity import base_identity
from lcia.protocols import Progress
from lcia.report import decisions
from lcia.run import Outcome, prepare, run
from lcia.stage import EvaluateStage, TrainStage
from lcia.store.folders import Store
from lcia.training.train import TrainOptions
from lcia.types import InputError

ROWS = 6
RUN: dict[str, Any] = {
    "benchmark": {"kind": "minicoin", "tasks": ["GQA", "Grounding"], "train_size": 16, "test_size": ROWS},
    "training": {"max_steps": 3},
    "evaluation": {"zero_shot": True, "upper_triangle": True},
}


class Watching(LocalExecutor):
    """Remembers the keys of all stages that it is given."""

    asked: list[str]

    def train_and_evaluate(self, trains: Sequence[TrainStage], evals: Sequence[EvaluateStage]) -> None:
        self.asked = [stage.key for stage in (*trains, *evals)]
        super().train_and_evaluate(trains, evals)


@dataclass(frozen=True)
class Ran:
    """Two runs that differ in their name and their scoring, done together."""

    outcomes: list[Outcome]
    store: Store
    seen: list[Progress]
    asked: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    seen: list[Progress] = []
    executor = Watching(Store(str(tmp_path_factory.mktemp("run"))), TrainOptions(logging_steps=1), seen.append, 4)
    legacy = {**RUN, "evaluation": {**RUN["evaluation"], "scoring": "legacy"}}
    outcomes = run([parse(RunConfig, RUN, "strict"), parse(RunConfig, legacy, "legacy")], executor)
    return Ran(outcomes, executor.store, seen, executor.asked)


def test_runs_that_ask_for_the_same_stages_share_them(ran: Ran) -> None:
    plans = [outcome.prepared.plan for outcome in ran.outcomes]
    keys = [stage.key for stage in (*plans[0].trains, *plans[0].evals)]
    assert keys == [stage.key for stage in (*plans[1].trains, *plans[1].evals)]
    assert sorted(ran.asked) == sorted(set(keys))


def test_a_run_has_an_adapter_for_each_group_at_its_end(ran: Ran) -> None:
    outcome = ran.outcomes[0]
    first, second = outcome.prepared.plan.trains
    assert [training.folder for training in outcome.newest] == [ran.store.fetch(s.key) for s in (first, second)]
    sizes = [(ran.store.fetch(s.key) / "adapter_model.safetensors").stat().st_size for s in (first, second)]
    # The small files beside the weights say how peft loads them.
    assert sum(sizes) / 1e6 < outcome.adapters_mb < 1.1 * sum(sizes) / 1e6


def test_progress_tells_every_step_and_every_answered_row(ran: Ran) -> None:
    plan = ran.outcomes[0].prepared.plan
    for stage in plan.trains:
        assert [p.step for p in ran.seen if p.stage == stage.key] == [1, 2, 3]
    for cell in plan.cells:
        wanted = cell.stage
        [told] = [p for p in ran.seen if p.stage == wanted.key]
        assert (told.kind, told.label, told.step, told.steps) == ("eval", wanted.task, ROWS, ROWS)


def test_what_is_stored_is_neither_trained_nor_answered_again(ran: Ran) -> None:
    seen: list[Progress] = []
    [again] = run(
        [ran.outcomes[0].config], LocalExecutor(Store(ran.store.root), TrainOptions(logging_steps=1), seen.append)
    )
    assert seen == []
    np.testing.assert_array_equal(again.matrix.scores, ran.outcomes[0].matrix.scores)


def test_a_cell_is_the_mean_score_of_its_stage_s_answers_in_percent(ran: Ran) -> None:
    [outcome, _] = ran.outcomes
    for cell in outcome.prepared.plan.cells:
        task = outcome.prepared.benchmark[cell.stage.task]
        answers = read_answers(ran.store.fetch(cell.stage.key))
        assert [answer["row"] for answer in answers] == list(range(ROWS))
        for name, scorer in (("strict", task.strict), ("legacy", task.legacy)):
            matrix = outcome.scores[name]
            row = matrix.zero_shot if cell.row == -1 else matrix.scores[cell.row]
            assert row is not None
            expected = 100 * fmean(scorer(a["prediction"], a["references"]) for a in answers)
            assert row[cell.column] == pytest.approx(expected)


def test_every_wanted_cell_is_filled_and_the_base_answers_without_an_adapter(ran: Ran) -> None:
    [outcome, _] = ran.outcomes
    assert not np.isnan(outcome.matrix.scores).any()
    assert outcome.matrix.zero_shot is not None
    untuned = [cell.stage for cell in outcome.prepared.plan.cells if cell.row == -1]
    assert {a["adapter"] for stage in untuned for a in read_answers(ran.store.fetch(stage.key))} == {None}
    tuned = [cell.stage for cell in outcome.prepared.plan.cells if cell.row == 1]
    keys = {stage.key for stage in outcome.prepared.plan.trains}
    assert {a["adapter"] for stage in tuned for a in read_answers(ran.store.fetch(stage.key))} <= keys


def test_without_zero_shot_the_matrix_has_no_such_row(ran: Ran) -> None:
    config = parse(RunConfig, {**RUN, "evaluation": {}}, "plain")
    [outcome] = run([config], LocalExecutor(Store(ran.store.root), TrainOptions()))
    assert outcome.matrix.zero_shot is None
    assert np.isnan(outcome.matrix.scores).tolist() == [[False, True], [False, False]]


def test_the_matrix_of_a_run_is_that_of_its_scoring(ran: Ran) -> None:
    for outcome, scoring in zip(ran.outcomes, ("strict", "legacy"), strict=True):
        assert outcome.matrix is outcome.scores[scoring]
        assert outcome.config is outcome.prepared.config


def test_scores_are_in_the_order_of_the_answers(ran: Ran) -> None:
    outcome = ran.outcomes[0]
    stage = outcome.prepared.plan.cells[0].stage
    task, scores = outcome.prepared.benchmark[stage.task], outcome.answers[stage.key].scores
    records = read_answers(ran.store.fetch(stage.key))
    assert scores["strict"].tolist() == [task.strict(r["prediction"], r["references"]) for r in records]
    assert scores["legacy"].tolist() == [task.legacy(r["prediction"], r["references"]) for r in records]


def test_what_runs_share_is_read_once(ran: Ran) -> None:
    one, two = ran.outcomes
    assert [id(t) for t in one.trainings.values()] == [id(t) for t in two.trainings.values()]
    assert [id(a) for a in one.answers.values()] == [id(a) for a in two.answers.values()]


def test_who_serves_whom_adds_up_to_the_rows(ran: Ran) -> None:
    prepared = ran.outcomes[0].prepared
    served = decisions.served(prepared)
    assert list(served) == ["GQA", "Grounding"]
    for tasks in served.values():
        assert {task: sum(groups.values()) for task, groups in tasks.items()} == {"GQA": ROWS, "Grounding": ROWS}
    assert [samples for _, samples in decisions.placements(prepared)] == [16, 16]


# Before anything is trained ---------------------------------------------------------------------------------------


def test_a_task_without_the_split_that_is_evaluated_is_refused_with_both_names(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    task = {"name": "mine", "train": "rows.json", "test": "rows.json"}
    values = {
        "benchmark": {"kind": "custom", "root": str(tmp_path), "tasks": [task]},
        "evaluation": {"split": "validation"},
    }
    with pytest.raises(InputError, match=r"task mine has no validation data.*evaluation\.split"):
        run([parse(RunConfig, values, "test")], LocalExecutor(Store(str(tmp_path / "store"))))


def test_only_the_splits_that_are_needed_are_read(tmp_path: Path) -> None:
    def shards(**values: Any) -> set[str]:
        executor = Listing(Store(str(tmp_path / "store")))
        with pytest.raises(StopError):
            run([parse(RunConfig, {**RUN, "evaluation": {}, **values}, "test")], executor)
        return set(executor.shards)

    needed = {"GQA/train", "GQA/test", "Grounding/train", "Grounding/test"}
    # Groups are compared on validation rows.
    assert shards() == needed | {"GQA/validation", "Grounding/validation"}
    assert shards(watch={"rows": 0}) == shards(grouping={"enabled": False}) == needed
    assert shards(protocol="zero_shot") == {"GQA/test", "Grounding/test"}
    assert shards(evaluation={"split": "train"}, watch={"rows": 0}) == {"GQA/train", "Grounding/train"}


def test_only_a_stream_with_groups_needs_features(tmp_path: Path) -> None:
    def embeds(**values: Any) -> int:
        config = parse(RunConfig, {**RUN, "evaluation": {}, **values}, "test")
        return len(prepare([config], LocalExecutor(Store(str(tmp_path / "store"))))[0].embeds)

    assert embeds(grouping={"enabled": True}) > 0
    assert embeds(grouping={"enabled": False}) == 0
    assert embeds(grouping={"enabled": True}, protocol="multitask") == 0


class StopError(Exception):
    """Enough is known."""


class Listing(LocalExecutor):
    """Remembers the labels of the shards that are asked for, and makes none."""

    shards: list[str]

    def shard(self, stages: Sequence[Any]) -> None:
        self.shards = [stage.label for stage in stages]
        raise StopError


def test_bases_differ_by_their_files_and_a_hub_s_by_its_revision(tmp_path: Path) -> None:
    tiny, shapes = (base_identity(TinyConfig(base=base)) for base in ("scenes", "shapes"))
    assert tiny != shapes
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    local = LlavaConfig(kind="llava", model=str(tmp_path))
    before = base_identity(local)
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert base_identity(local) != before


def test_one_base_serves_all_trainings_and_evaluations_of_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    build = assistants.build
    monkeypatch.setattr(assistants, "build", lambda *given, **named: built.append(given) or build(*given, **named))
    executor = LocalExecutor(Store(str(tmp_path)), TrainOptions())
    values = {**RUN, "training": {"max_steps": 1}, "evaluation": {}}
    run([parse(RunConfig, values, "one"), parse(RunConfig, {**values, "seed": 1}, "other")], executor)
    assert len(built) == 1
    wider = {**values, "lora": {"r": 2}}
    run([parse(RunConfig, wider, "wider")], executor)
    assert len(built) == 2


def test_rows_that_cannot_be_used_stop_a_run_before_anything_is_trained(tmp_path: Path) -> None:
    good = {"id": "0", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}
    (tmp_path / "rows.json").write_text(json.dumps([good, {"id": "1", "conversations": []}]))
    task = {"name": "mine", "train": "rows.json", "test": "rows.json"}
    values = {"benchmark": {"kind": "custom", "root": str(tmp_path), "tasks": [task]}}
    executor = Watching(Store(str(tmp_path / "store")))
    with pytest.raises(InputError, match=r"mine/train: 1 of 2 rows cannot be used \(bad_field 1\)"):
        run([parse(RunConfig, values, "test")], executor)
    assert not hasattr(executor, "asked")


def test_stretches_are_tasks_of_the_stream_with_rows_of_their_own(tmp_path: Path) -> None:
    cut = {**RUN, "benchmark": {**RUN["benchmark"], "stretches": 2}}
    [outcome] = run([parse(RunConfig, cut, "cut")], LocalExecutor(Store(str(tmp_path))))
    prepared = outcome.prepared
    assert outcome.matrix.tasks == ("GQA.1", "Grounding.1", "GQA.2", "Grounding.2")
    assert {label: counts.rows for label, counts in prepared.counts.items()} == {
        f"{task}/{split}": rows / 2 for task in outcome.matrix.tasks for split, rows in (("train", 16), ("test", ROWS))
    }
    # Stretches ask as their task does, so that they share its adapter.
    assert [placement.group for placement in prepared.plan.placements] == [0, 1, 0, 1]


def test_noise_changes_trainings_and_neither_data_nor_questions(tmp_path: Path) -> None:
    executor = LocalExecutor(Store(str(tmp_path)))
    noisy = {**RUN, "data": {"noise": {"kind": "gibberish", "share": 1.0}}}
    clean, rough = run([parse(RunConfig, RUN, "clean"), parse(RunConfig, noisy, "rough")], executor)
    assert clean.prepared.catalog.shards == rough.prepared.catalog.shards
    for one, other in zip(clean.prepared.plan.trains, rough.prepared.plan.trains, strict=True):
        assert one.shards == other.shards
        losses = [outcome.trainings[stage.key].steps[-1]["loss"] for outcome, stage in ((clean, one), (rough, other))]
        assert losses[0] != losses[1]
    asked = [
        [
            (a["id"], a["references"])
            for stage in outcome.prepared.plan.evals
            for a in read_answers(executor.store.fetch(stage.key))
        ]
        for outcome in (clean, rough)
    ]
    assert asked[0] == asked[1]


def test_all_adapters_answer_together_and_the_strongest_is_named(tmp_path: Path) -> None:
    executor = LocalExecutor(Store(str(tmp_path)))
    fused = {**RUN, "grouping": {"fusion": {}}, "strategy": {"kind": "sequential"}}
    [outcome] = run([parse(RunConfig, fused, "fused")], executor)
    assert not np.isnan(outcome.matrix.scores[-1]).any()
    keys = [stage.key for stage in outcome.prepared.plan.trains]
    last = outcome.prepared.plan.cells[-1].stage
    assert {record["adapter"] for record in read_answers(executor.store.fetch(last.key))} <= set(keys)
    assert last.fusion is not None
    assert last.fusion.adapters == tuple(keys)
