"""Rows that are seen once more: which ones, by whom, and in what state the model is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from lcia import assistants
from lcia.config.assistants import TinyConfig
from lcia.config.load import parse
from lcia.config.run import NoiseConfig, RunConfig
from lcia.data.noise import with_noise
from lcia.data.rows import Rows
from lcia.local import LocalExecutor
from lcia.protocols import UNTRAINED, Assistant, TrainingRows
from lcia.run import prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.training.look_back import LookAgain
from lcia.training.sampling import drawn

STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "train_size": 20, "test_size": 2},
    "training": {"max_steps": 1},
    "lora": {"lora_dropout": 0.5},
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainStage, Rows]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    [prepared] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(store))
    found = prepared.plan.trains[0]
    return found, Rows([store.fetch(key) for key in found.shards])


@pytest.fixture(scope="module")
def assistant(stage: tuple[TrainStage, Rows]) -> Assistant:
    built = assistants.build(TinyConfig(), stage[0].lora, gradient_checkpointing=True, device="cpu")
    built.adapters.add("tuned", seed=0)
    built.module.train()
    return built


def look_again(
    stage: tuple[TrainStage, TrainingRows], assistant: Assistant, rank: int = 0, world: int = 1
) -> LookAgain:
    accelerator = SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))
    return LookAgain(stage[0], assistant, stage[1], cast(Any, accelerator), micro_batch=4)


def shares(stage: tuple[TrainStage, Rows], assistant: Assistant, world: int, alone: bool) -> list[list[list[int]]]:
    """Per worker and look: the seeds of the rows that have answers."""
    return [
        [
            [seed for seed, row in zip(look.seeds, look.batch["labels"], strict=True) if (row != UNTRAINED).any()]
            for look in look_again(stage, assistant, rank, world)(10, alone)
        ]
        for rank in range(world)
    ]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_workers_share_the_same_rows_in_as_many_looks(
    stage: tuple[TrainStage, Rows], assistant: Assistant, world: int, alone: bool
) -> None:
    [whole] = shares(stage, assistant, 1, False)
    parts = shares(stage, assistant, world, alone)
    assert len({len(looks) for looks in parts}) == 1
    seeds = [seed for looks in parts for look in looks for seed in look]
    assert len(seeds) == len(set(seeds)) == 10
    assert sorted(seeds) == sorted(seed for look in whole for seed in look)
    if alone:
        assert max(len(look) for looks in parts for look in looks) == 1


def test_few_rows_are_all_seen(stage: tuple[TrainStage, Rows], assistant: Assistant) -> None:
    seen = [seed for look in look_again(stage, assistant)(128, False) for seed in look.seeds]
    assert len(set(seen)) == len(seen) == 20


def test_dropout_rests_and_activations_are_still_computed_again(
    stage: tuple[TrainStage, Rows], assistant: Assistant
) -> None:
    before = {module: module.training for module in assistant.module.modules()}
    for look in look_again(stage, assistant)(4, False):
        assert not any(module.training for module in before if isinstance(module, nn.Dropout))
        assert sum(module.training for module in before if type(module).__name__ == "LlamaDecoderLayer") == 3
        one, other = look.logits(), look.logits()
        assert torch.equal(one, other)
    assert all(module.training is was for module, was in before.items())


def test_an_error_in_the_middle_leaves_the_model_as_it_was(
    stage: tuple[TrainStage, Rows], assistant: Assistant
) -> None:
    looks = look_again(stage, assistant)(10, False)
    next(looks)
    cast(Any, looks).close()
    assert assistant.module.training


def test_the_draw_of_rows_is_of_different_ones_and_follows_from_the_seed() -> None:
    assert len(set(drawn(100, 10, 3).tolist())) == 10
    assert drawn(100, 10, 3).tolist() == sorted(drawn(100, 10, 3).tolist())
    assert drawn(100, 10, 3).tolist() == drawn(100, 10, 3).tolist() != drawn(100, 10, 4).tolist()
    assert drawn(4, 10, 0).tolist() == [0, 1, 2, 3]


def test_a_rows_seed_is_its_own_and_the_same_in_every_strategy(
    stage: tuple[TrainStage, Rows], assistant: Assistant, tmp_path: Path
) -> None:
    other = stage[0].model_copy(update={"seed": 1})
    mine, theirs = (look_again((each, stage[1]), assistant)._seed(3) for each in (stage[0], other))
    assert mine != theirs
    assert mine != look_again(stage, assistant)._seed(4)
    assert 0 <= mine < 2**63


def test_rows_are_seen_again_with_the_answers_that_were_trained_on(
    stage: tuple[TrainStage, Rows], assistant: Assistant
) -> None:
    train, rows = stage
    noisy = with_noise(rows, NoiseConfig(kind="gibberish", share=1))
    clean, changed = (
        torch.cat([look.batch["labels"].flatten() for look in look_again((train, each), assistant)(5, True)])
        for each in (rows, noisy)
    )
    expected = [assistant.collate(noisy.take([row]))["labels"].flatten() for row in drawn(20, 5, train.seed).tolist()]
    assert changed.tolist() == torch.cat(expected).tolist() != clean.tolist()
