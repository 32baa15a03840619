"""A stage's key is its identity: the same for equal work everywhere and for ever, another for any other work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lcia.config.assistants import LoraConfig, TinyConfig
from lcia.config.grouping import TextConfig
from lcia.config.run import TrainingConfig
from lcia.config.strategies import CurvatureConfig
from lcia.stage import SCHEMA, EmbedStage, EvaluateStage, ShardStage, TrainStage, digest
from lcia.types import FileSource, GeneratedSource, Stretch

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "train_stage.json").read_text())

SHARD = ShardStage(
    task="GQA",
    split="test",
    source=GeneratedSource("GQA", "test", 4, 0, "origin"),
    fingerprint="f",
    instruction="last_line",
    max_image_pixels=9,
)
FILES = ShardStage.model_validate({**SHARD.record, "source": FileSource("rows.json", "llava")})
CUT = ShardStage.model_validate({**SHARD.record, "task": "GQA.2", "stretch": Stretch(1, 4)})
EMBED = EmbedStage(shards="s", embedder=TextConfig(kind="text", model="encoder"), identity="e")
TRAIN = TrainStage(
    tasks=("GQA",),
    shards=("s",),
    parent=None,
    first=True,
    base="b",
    assistant=TinyConfig(),
    lora=LoraConfig(),
    training=TrainingConfig(),
    strategy=CurvatureConfig(),
    seed=0,
)
EVAL = EvaluateStage(
    task="GQA",
    shards="s",
    base="b",
    assistant=TinyConfig(),
    default="k1",
    routes=(("Answer briefly.", "k0"), ("Überall?", None)),
    max_new_tokens=8,
)
STAGES = {"shard": SHARD, "files": FILES, "cut": CUT, "embed": EMBED, "train": TRAIN, "eval": EVAL}


def _reversed(value: Any) -> Any:
    """The same JSON with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    return [_reversed(v) for v in value] if isinstance(value, list) else value


def test_the_key_of_a_stage_that_was_stored_once_never_changes() -> None:
    # The golden key is what `b2sum -l 128` gives for the canonical JSON. A change here orphans every stored result:
    # raise SCHEMA and write a new golden file only where equal records no longer give equal results.
    assert TrainStage.model_validate(GOLDEN["record"]).key == GOLDEN["key"]


def test_the_key_does_not_depend_on_the_order_of_fields() -> None:
    turned = _reversed(GOLDEN["record"])
    assert list(turned) != list(GOLDEN["record"])
    assert TrainStage.model_validate(turned).key == GOLDEN["key"]
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_comes_back_from_its_json_equal_and_with_its_key(name: str) -> None:
    stage = STAGES[name]
    again = type(stage).model_validate(json.loads(json.dumps(stage.record)))
    assert type(again) is type(stage)
    assert again == stage
    assert again.key == stage.key


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": ["VQAv2"]},
        {"shards": ["t"]},
        {"parent": None},
        {"first": True},
        {"base": "d"},
        {"assistant": {"kind": "tiny", "train_projector": True}},
        {"seed": 8},
        {"lora": {**GOLDEN["record"]["lora"], "r": 4}},
        {"training": {**GOLDEN["record"]["training"], "learning_rate": 0.004000001}},
        {"strategy": {**GOLDEN["record"]["strategy"], "lambda": 0.31}},
        {"noise": {"kind": "swap", "share": 0.2}},
        {"replay": {"share": 0.1, "shards": ["s"]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_can_change_a_training_changes_its_key(change: dict[str, Any]) -> None:
    assert TrainStage.model_validate({**GOLDEN["record"], **change}).key != GOLDEN["key"]


def test_kinds_of_stages_never_share_a_key() -> None:
    assert len({stage.key for stage in STAGES.values()}) == len(STAGES)


def test_rows_of_a_whole_task_are_stored_under_the_key_that_they_always_had() -> None:
    # What `b2sum -l 128` gives for the record below as canonical JSON.
    assert SHARD.record == {
        "kind": "shard", "task": "GQA", "split": "test", "fingerprint": "f", "instruction": "last_line",
        "max_samples": None, "max_image_pixels": 9,
        "source": {"task": "GQA", "split": "test", "rows": 4, "seed": 0, "instructions": "origin"},
    }  # fmt: skip
    assert SHARD.key == "fdcb2aac6a1a9b3cb5d21a6cbb36c7f3"


def test_workers_keep_their_model_for_stages_that_differ_in_training_only() -> None:
    other = {"seed": 1, "parent": "k", "training": TrainingConfig(max_steps=3)}
    assert TrainStage.model_validate({**TRAIN.record, **other}).model_key == TRAIN.model_key
    wider = {"lora": LoraConfig(r=2)}
    assert TrainStage.model_validate({**TRAIN.record, **wider}).model_key != TRAIN.model_key


def test_an_evaluation_names_its_adapters_and_routes_by_instruction() -> None:
    assert EVAL.adapters == ("k0", "k1")
    assert [EVAL.adapter_of(text) for text in ("Answer briefly.", "Überall?", "Unseen")] == ["k0", None, "k1"]


def test_a_stage_is_frozen_and_refuses_fields_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TRAIN.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="order"):
        TrainStage.model_validate({**GOLDEN["record"], "order": ["GQA"]})


@pytest.mark.parametrize(("dtype", "train_projector", "told"), [
    ("float32", True, False), ("bfloat16", False, False), ("bfloat16", True, True), ("float16", True, True),
])  # fmt: skip
def test_a_projector_in_half_precision_that_did_not_move_is_not_taken_for_one_that_does(
    dtype: str, train_projector: bool, told: bool
) -> None:
    values = {"kind": "llava", "model": "m", "dtype": dtype, "train_projector": train_projector}
    stage = TrainStage.model_validate({**TRAIN.model_dump(by_alias=True), "assistant": values})
    assert ("projector" in stage.identifying) == told
    assert stage.key == digest({"schema": SCHEMA, **stage.identifying})
    assert "projector" not in stage.record
