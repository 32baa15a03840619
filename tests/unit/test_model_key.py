"""Each executor of stages has the model of each stage's own settings loaded, and loads no model twice in a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcia import assistants
from lcia.assistants.tiny import TINY_BASE
from lcia.config.assistants import LlavaConfig, LoraConfig
from lcia.config.baselines import SequentialConfig
from lcia.config.run import TrainingConfig
from lcia.local import LocalExecutor
from lcia.stage import EvaluateStage, TrainStage
from lcia.store.folders import Store
from pipelines.launch import LaunchConfig
from pipelines.stages.evaluate import Answerer

PLAIN = LlavaConfig(kind="llava", model=str(TINY_BASE), dtype="float32", max_length=512)
CHANGES: list[dict[str, Any]] = [{"pad_image_to_square": False}, {"dtype": "bfloat16"}, {"max_length": 64}]
changed = pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))


def evaluation(config: LlavaConfig, base: str = "b") -> EvaluateStage:
    return EvaluateStage(task="A", shards="s", base=base, assistant=config, default=None, max_new_tokens=4)


def training(config: LlavaConfig, lora: LoraConfig = LoraConfig()) -> TrainStage:  # noqa: B008 (frozen)
    return TrainStage(
        tasks=("A",), shards=("s",), parent=None, first=True, base="b", assistant=config, lora=lora,
        training=TrainingConfig(), strategy=SequentialConfig(), seed=0,
    )  # fmt: skip


def settings(assistant: Any) -> LlavaConfig:
    """The configuration that a loaded assistant has, read off what it computes with."""
    found = {
        "dtype": str(assistant.module.dtype).removeprefix("torch."),
        "max_length": assistant.dialogue.max_length,
        "pad_image_to_square": assistant.pictures.pad,
    }
    return PLAIN.model_copy(update=found)


@changed
def test_an_actor_answers_with_the_model_of_its_stage(tmp_path: Path, change: dict[str, Any]) -> None:
    actor = Answerer(LaunchConfig(storage=str(tmp_path)))
    for config in (PLAIN, PLAIN.model_copy(update=change), PLAIN):
        assert settings(actor._predictor(evaluation(config))._assistant) == config


@changed
def test_so_does_this_process(tmp_path: Path, change: dict[str, Any]) -> None:
    executor = LocalExecutor(Store(str(tmp_path)))
    for config in (PLAIN, PLAIN.model_copy(update=change), PLAIN):
        for stage in (training(config), evaluation(config)):
            assert settings(executor._load(stage)[0]) == config


def test_another_base_under_the_same_settings_is_loaded(tmp_path: Path) -> None:
    actor, executor = Answerer(LaunchConfig(storage=str(tmp_path))), LocalExecutor(Store(str(tmp_path)))
    one, two = evaluation(PLAIN, "b"), evaluation(PLAIN, "c")
    assert actor._predictor(one) is not actor._predictor(two)
    first = executor._load(one)[0]
    assert executor._load(two)[0] is not first


def test_stages_of_one_model_share_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], assistants.build

    def counted(*given: Any, **more: Any) -> Any:
        built.append(given)
        return build(*given, **more)

    monkeypatch.setattr(assistants, "build", counted)
    executor, actor = LocalExecutor(Store(str(tmp_path))), Answerer(LaunchConfig(storage=str(tmp_path)))
    wide = LoraConfig(r=2)
    # A model that trains one form of LoRA answers with any; another form to train needs another model.
    for stage in (training(PLAIN), evaluation(PLAIN), training(PLAIN), training(PLAIN, wide), evaluation(PLAIN)):
        executor._load(stage)
    assert [given[1] for given in built] == [LoraConfig(), wide]
    built.clear()
    for _ in range(2):
        actor._predictor(evaluation(PLAIN))
    assert len(built) == 1


@changed
def test_every_setting_of_the_assistant_is_in_the_key_of_the_model(change: dict[str, Any]) -> None:
    other = PLAIN.model_copy(update=change)
    assert training(other).model_key != training(PLAIN).model_key
    assert evaluation(other).model_key != evaluation(PLAIN).model_key


def test_where_the_model_lies_is_not_for_its_identity_says_what_lies_there() -> None:
    moved = PLAIN.model_copy(update={"model": "/elsewhere", "revision": "main"})
    assert training(moved).model_key == training(PLAIN).model_key
    assert (training(moved).key, evaluation(moved).key) == (training(PLAIN).key, evaluation(PLAIN).key)
    assert evaluation(PLAIN, "c").model_key != evaluation(PLAIN).model_key
