"""Experience replay: which rows are kept, when they are trained on, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.rows import Rows
from lcia.local import LocalExecutor
from lcia.protocols import Progress
from lcia.run import Prepared, prepare
from lcia.store.folders import Store
from lcia.training.replay import kept_rows, own_rows, training_rows
from lcia.training.train import TrainOptions

KEY = "0123456789abcdef" * 2
STREAM: dict[str, Any] = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA", "GQA"], "train_size": 20, "test_size": 2},
    "training": {"max_steps": 4, "batch_size": 4},
    "grouping": {"enabled": False},
    "strategy": {"kind": "sequential"},
    "data": {"replay": 0.25},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Store]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    [prepared] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(store))
    return prepared, store


def ids(rows: Any) -> list[str]:
    return [sample.id for sample in rows.take(range(len(rows)))]


def test_kept_rows_follow_from_seed_and_task_and_a_larger_share_holds_a_smaller_one() -> None:
    few, many = kept_rows(3, KEY, 100, 10), kept_rows(3, KEY, 100, 30)
    assert len(set(few.tolist())) == 10
    assert set(few.tolist()) < set(many.tolist())
    assert few.tolist() == sorted(few.tolist()) == kept_rows(3, KEY, 100, 10).tolist()
    assert few.tolist() != kept_rows(4, KEY, 100, 10).tolist() != kept_rows(3, KEY[::-1], 100, 10).tolist()


def test_a_later_stage_has_its_own_rows_and_the_same_few_of_every_earlier_task(made: tuple[Prepared, Store]) -> None:
    prepared, store = made
    first, second, third = (training_rows(stage, store) for stage in prepared.plan.trains)
    tasks = [ids(Rows([store.fetch(stage.shards[0])])) for stage in prepared.plan.trains]
    assert ids(first) == tasks[0]
    assert [ids(own_rows(rows)) for rows in (first, second, third)] == tasks
    kept = ids(second)[20:]
    assert len(kept) == 5
    assert set(kept) < set(tasks[0])
    assert ids(third)[20:25] == kept
    assert set(ids(third)[25:]) < set(tasks[1])
    assert len(third) == prepared.plan.trains[2].rows(dict.fromkeys(prepared.catalog.shards.values(), 20)) == 30
    np.testing.assert_array_equal(third.lengths()[:20], own_rows(third).lengths())


def test_no_replay_leaves_every_key_as_it_was_and_a_share_changes_those_of_later_stages(
    made: tuple[Prepared, Store],
) -> None:
    _, store = made
    configs = [parse(RunConfig, {**STREAM, "data": {"replay": share}}, "test") for share in (0, 0.25, 0.5)]
    without, some, more = (one.plan.trains for one in prepare(configs, LocalExecutor(store)))
    assert "replay" not in RunConfig().model_dump(mode="json")["data"]
    assert all("replay" not in stage.record for stage in without)
    assert without[0].key == some[0].key == more[0].key, "an adapter's first task has nothing to replay"
    for number in (1, 2):
        assert len({stages[number].key for stages in (without, some, more)}) == 3
    assert [stage.replay.shards if stage.replay else () for stage in some] == [
        (), some[0].shards, (*some[0].shards, *some[1].shards)
    ]  # fmt: skip


def test_groups_replay_the_tasks_of_their_own_adapter_alone() -> None:
    from tests.unit.test_plan import _plan

    made = _plan(data={"replay": 0.1})
    assert [stage.replay.shards if stage.replay else None for stage in made.trains] == [None, None, ("GQA/train",)]
    joint = _plan(data={"replay": 0.1}, protocol="multitask")
    assert joint.trains[0].replay is None


def test_a_stage_that_replays_and_was_cut_off_ends_with_the_same_bits(tmp_path: Path) -> None:
    class StoppedError(Exception):
        """Stands for whatever ends a process."""

    def stop(progress: Progress) -> None:
        if progress.label.startswith("OCR-VQA") and progress.step == 3:
            raise StoppedError

    options, found = TrainOptions(micro_batch=4, save_steps=2, logging_steps=1), []
    config = parse(RunConfig, {**STREAM, "data": {"replay": 1.0}}, "test")
    for name in ("whole", "cut"):
        store = Store(str(tmp_path / name))
        [prepared] = prepare([config], LocalExecutor(store))
        stages = prepared.plan.trains[:2]
        if name == "cut":
            with pytest.raises(StoppedError):
                LocalExecutor(store, options, stop).train_and_evaluate(stages, [])
        LocalExecutor(store, options).train_and_evaluate(stages, [])
        found.append(store.fetch(stages[1].key))
    whole, cut = found
    facts = json.loads((cut / "result.json").read_text())
    assert (facts["resumed_at"], facts["rows"]) == ([2], 40)
    for file in ("adapter_model.safetensors", "steps.jsonl"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes()


def test_what_trains_on_old_data_says_so() -> None:
    told = {
        "replay": {"data": {"replay": 0.01}},
        "joint": {"protocol": "multitask"},
        "stream": {},
        "untuned": {"protocol": "zero_shot", "data": {"replay": 0.5}},
    }
    marked = {name for name, values in told.items() if RunConfig.model_validate(values).uses_old_data}
    assert marked == {"replay", "joint"}
