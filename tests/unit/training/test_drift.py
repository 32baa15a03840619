"""How far a stage has moved the model on its own data, against two models loaded from what the stages left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcia import assistants
from lcia.config.assistants import TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.rows import Rows
from lcia.local import LocalExecutor
from lcia.protocols import UNTRAINED, Assistant
from lcia.run import prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.training.drift import ROWS
from lcia.training.look_back import LookAgain
from lcia.training.result import TrainResult

STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 48, "test_size": 2},
    "training": {"max_steps": 8, "batch_size": 8},
    "grouping": {"enabled": False},
    "lora": {"lora_dropout": 0.3},
}


# An average moves the weights once more at the end: the divergence is that of what is handed on. O-LoRA trains an
# adapter of its own and stores it together with the ones before it.
STRATEGIES: dict[str, dict[str, Any]] = {"fixed": {"kind": "fixed", "retain": 0.5}, "olora": {"kind": "olora"}}


@pytest.fixture(scope="module", params=STRATEGIES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[TrainStage], Store]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    executor = LocalExecutor(store)
    config = {**STREAM, "strategy": STRATEGIES[request.param]}
    [prepared] = prepare([parse(RunConfig, config, "test")], executor)
    executor.train_and_evaluate(prepared.plan.trains, [])
    return list(prepared.plan.trains), store


def _log_probabilities(stage: TrainStage, store: Store, adapter: str | None) -> Tensor:
    """Of the answer tokens of the stage's rows under the adapter of a stage, or under the bare base."""
    assistant: Assistant = assistants.build(TinyConfig(), stage.lora, device="cpu")
    if adapter is not None:
        assistant.adapters.load("tuned", store.fetch(adapter))
    assistant.module.eval()
    rows = Rows([store.fetch(key) for key in stage.shards])
    alone = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    looks = LookAgain(stage, assistant, rows, cast(Any, alone), micro_batch=len(rows))(ROWS, False)
    with torch.no_grad():
        [(scores, labels)] = [(look.logits()[:, :-1], look.batch["labels"][:, 1:]) for look in looks]
    return scores[labels != UNTRAINED].log_softmax(-1)


@pytest.mark.parametrize("number", [0, 1])
def test_it_is_the_divergence_of_the_tuned_model_from_the_one_before(
    trained: tuple[list[TrainStage], Store], number: int
) -> None:
    stages, store = trained
    stage = stages[number]
    tuned = _log_probabilities(stage, store, stage.key)
    started = _log_probabilities(stage, store, stage.parent)
    expected = F.kl_div(started, tuned, log_target=True, reduction="sum") / len(tuned)
    found = TrainResult.read(store.fetch(stage.key)).kl_from_start
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert found > 0.01


def test_an_older_result_has_none(tmp_path: Path) -> None:
    assert TrainResult(tmp_path, (), {"steps": 1, "seconds": 1.0}).kl_from_start is None
