"""A stage whose numbers stop being finite says in which step and why, publishes nothing, and stops no other stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lcia import assistants
from lcia.config.assistants import TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor, silent
from lcia.plan import Plan
from lcia.run import prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.training import train
from lcia.training.train import TrainOptions, Worker, train_stage

OPTIONS = TrainOptions(micro_batch=2, logging_steps=3, save_steps=100)
STRATEGIES: list[dict[str, Any]] = [
    {"kind": "sequential"},
    {"kind": "fixed", "beta": 0.9},
    {"kind": "paper"},
    {"kind": "official"},
    {"kind": "proximal"},
    {"kind": "curvature"},
    {"kind": "ewc"},
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["kind"])


def planned(store: Store, tasks: tuple[str, ...] = ("VQAv2",), **given: Any) -> Plan:
    config = {
        "benchmark": {"kind": "minicoin", "tasks": tasks, "train_size": 8, "test_size": 2},
        "training": {"max_steps": 6, "batch_size": 4},
        "grouping": {"enabled": False},
        **given,
    }
    return prepare([parse(RunConfig, config, "test")], LocalExecutor(store))[0].plan


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, value: float = float("nan"), task: str = "") -> list[int]:
    """The loss of one step (and task) is multiplied by a value; returns the steps seen."""
    step, seen = train._step, list[int]()

    def spoilt(loop: Any, batches: Any, number: int) -> Any:
        plain = train.answer_loss
        seen.append(number + 1)
        with pytest.MonkeyPatch.context() as patch:
            if number + 1 == at and task in loop.stage.tasks[0]:
                patch.setattr(train, "answer_loss", lambda logits, labels: plain(logits, labels) * value)
            return step(loop, batches, number)

    monkeypatch.setattr(train, "_step", spoilt)
    return seen


@every_strategy
def test_a_loss_that_is_not_finite_is_told_at_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any]
) -> None:
    store = Store(str(tmp_path))
    first, second = planned(store, ("VQAv2", "OCR-VQA"), strategy=strategy).trains
    seen = spoil(monkeypatch, at=2, task="OCR-VQA")
    with pytest.raises(FloatingPointError) as caught:
        LocalExecutor(store, OPTIONS).train_and_evaluate([first, second], [])
    start = f"stage {second.label} ({second.key[:8]}) diverged at step 2 of 6: the loss is not finite."
    assert str(caught.value).startswith(start)
    assert seen == [1, 2, 3, 4, 5, 6, 1, 2]
    assert (store.has(first.key), store.has(second.key)) == (True, False)


def test_a_gradient_that_is_not_finite_is_told_by_name_before_the_optimizer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, loops = Store(str(tmp_path)), list[Any]()
    [stage] = planned(store, strategy={"kind": "sequential"}).trains
    clip = train._clip

    def spoilt(loop: Any, loss: Tensor) -> float:
        if loop.state.done == 3:
            name = list(loop.state.parameters)[5]
            parameters = loop.state.parameters
            loops.append((name, {n: p.detach().clone() for n, p in parameters.items()}, parameters))
            parameters[name].grad.view(-1)[-1] = float("inf")
        return clip(loop, loss)

    monkeypatch.setattr(train, "_clip", spoilt)
    with pytest.raises(FloatingPointError) as caught:
        LocalExecutor(store, OPTIONS).train_and_evaluate([stage], [])
    [(name, before, after)] = loops
    assert f"diverged at step 3 of 6: the gradient of {name} is not finite" in str(caught.value)
    assert all(torch.equal(before[n], p) for n, p in after.items())


def test_an_infinite_loss_with_finite_gradients_is_told_where_the_loop_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant that is added has no gradient."""
    store, step = Store(str(tmp_path)), train._step
    [stage] = planned(store, strategy={"kind": "sequential"}).trains

    def spoilt(loop: Any, batches: Any, number: int) -> Any:
        loss, norm = step(loop, batches, number)
        return (loss + float("inf") if number == 0 else loss), norm

    monkeypatch.setattr(train, "_step", spoilt)
    with pytest.raises(FloatingPointError, match="at step 3 of 6: the loss is not finite"):
        LocalExecutor(store, OPTIONS).train_and_evaluate([stage], [])
    assert not store.has(stage.key)


def test_weights_that_overflow_in_the_very_last_step_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, step, names = Store(str(tmp_path)), train._step, list[str]()
    [stage] = planned(store, strategy={"kind": "sequential"}).trains

    def spoilt(loop: Any, batches: Any, number: int) -> Any:
        result = step(loop, batches, number)
        if number + 1 == loop.steps:
            names.append(list(loop.state.parameters)[7])
            loop.state.parameters[names[0]].data.view(-1)[0] = float("-inf")
        return result

    monkeypatch.setattr(train, "_step", spoilt)
    with pytest.raises(FloatingPointError) as caught:
        LocalExecutor(store, OPTIONS).train_and_evaluate([stage], [])
    assert f"at step 6 of 6: the weights of {names[0]} are not finite" in str(caught.value)
    assert not store.has(stage.key)


@every_strategy
def test_a_rate_that_is_far_too_high_ends_in_an_error_and_not_in_an_adapter(
    tmp_path: Path, strategy: dict[str, Any]
) -> None:
    store = Store(str(tmp_path))
    training = {"max_steps": 6, "batch_size": 4, "learning_rate": 1e30, "lr_scheduler_type": "constant"}
    trains = planned(store, ("VQAv2", "OCR-VQA"), strategy=strategy, training=training).trains
    with pytest.raises(FloatingPointError, match=r"stage VQAv2 .* diverged at step \d"):
        LocalExecutor(store, OPTIONS).train_and_evaluate(trains, [])
    assert [store.has(stage.key) for stage in trains] == [False, False]


def test_what_does_not_need_the_stage_is_done_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, grouped = Store(str(tmp_path)), {"enabled": True, "threshold": 1.0}
    plan = planned(store, ("VQAv2", "ImageNet", "Grounding"), grouping=grouped, strategy={"kind": "sequential"})
    bad, *good = plan.trains
    assert [stage.parent for stage in plan.trains] == [None] * 3
    spoil(monkeypatch, at=2, task="VQAv2")
    with pytest.raises(FloatingPointError, match="stage VQAv2"):
        LocalExecutor(store, OPTIONS).train_and_evaluate(plan.trains, plan.evals)
    assert [store.has(stage.key) for stage in good] == [True, True]
    answered = [stage for stage in plan.evals if bad.key not in stage.adapters]
    assert [stage for stage in plan.evals if store.has(stage.key)] == answered != []


def test_a_child_of_the_stage_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    trains = planned(store, ("VQAv2", "OCR-VQA", "GQA"), strategy={"kind": "sequential"}).trains
    seen = spoil(monkeypatch, at=2, task="VQAv2")
    with pytest.raises(FloatingPointError, match="stage VQAv2"):
        LocalExecutor(store, OPTIONS).train_and_evaluate(trains, [])
    assert seen == [1, 2]


def test_the_same_assistant_goes_on_to_the_next_stage_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, assistant = Store(str(tmp_path / "one")), assistants.build(TinyConfig())
    bad, good = (_only(store, task) for task in ("VQAv2", "OCR-VQA"))
    device = LocalExecutor(store)._device()
    spoil(monkeypatch, at=2, task="VQAv2")
    with pytest.raises(FloatingPointError):
        train_stage(bad, assistant, Worker(store, device, OPTIONS, silent))
    train_stage(good, assistant, Worker(store, device, OPTIONS, silent))
    alone = Store(str(tmp_path / "two"))
    train_stage(_only(alone, "OCR-VQA"), assistants.build(TinyConfig()), Worker(alone, device, OPTIONS, silent))
    files = [s.fetch(good.key) / "adapter_model.safetensors" for s in (store, alone)]
    assert files[0].read_bytes() == files[1].read_bytes()


def _only(store: Store, task: str) -> TrainStage:
    [stage] = planned(store, (task,), strategy={"kind": "fixed", "beta": 0.9}).trains
    return stage


# Autocast -----------------------------------------------------------------------------------------------------------


def test_bf16_is_the_runs_and_computes_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types, plain = set[torch.dtype](), train.answer_loss

    def watched(logits: Tensor, labels: Tensor) -> Tensor:
        types.add(logits.dtype)
        return plain(logits, labels)

    monkeypatch.setattr(train, "answer_loss", watched)
    keys, losses = set[str](), set[float]()
    for bf16, expected in ((False, torch.float32), (True, torch.bfloat16)):
        types.clear()
        store = Store(str(tmp_path / f"{bf16}"))
        training = {"max_steps": 1, "batch_size": 4, "bf16": bf16}
        [stage] = planned(store, strategy={"kind": "sequential"}, training=training).trains
        LocalExecutor(store, OPTIONS).train_and_evaluate([stage], [])
        assert types == {expected}
        keys.add(stage.key)
        losses.add(json.loads((store.fetch(stage.key) / "steps.jsonl").read_text())["loss"])
    assert (len(keys), len(losses)) == (2, 2)


def test_an_environment_that_asks_accelerate_for_another_precision_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert LocalExecutor(Store(str(tmp_path)))._device().mixed_precision == "no"


def test_an_accelerator_with_a_precision_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from lcia.types import InputError

    store = Store(str(tmp_path))
    [stage] = planned(store).trains
    accelerator = Accelerator(cpu=True)
    monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "bf16")
    with pytest.raises(InputError, match=r"mixed precision bf16 is not supported.*set training\.bf16"):
        train_stage(stage, assistants.build(TinyConfig()), Worker(store, accelerator, OPTIONS, silent))
    assert not store.has(stage.key)
