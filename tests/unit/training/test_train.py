"""One stage of tuning: continued exactly, the same for any micro-batch, never done twice, plain for peft."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from lcia import assistants
from lcia.assistants.pictures import Pictures
from lcia.assistants.tiny import TINY_BASE
from lcia.config.assistants import TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor, silent
from lcia.protocols import UNTRAINED, Batch, Progress, Strategy
from lcia.run import Prepared, prepare
from lcia.store.folders import Store
from lcia.training.result import KEPT, RESULT, STEPS
from lcia.training.train import TrainOptions, Worker, train_stage
from pipelines.launch import LaunchConfig

PLAIN = Pictures.__call__
ADAPTER_FILE = "adapter_model.safetensors"
STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 32, "test_size": 4},
    "training": {"max_steps": 6, "batch_size": 8},
    "grouping": {"enabled": False},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"kind": "sequential"},
    "curvature": {"kind": "curvature", "lambda": 0.3, "pull": 1000},
    "paper": {"kind": "paper"},
    "kronecker": {"kind": "kronecker", "rows": 12, "k": 16},
    "lwf": {"kind": "lwf", "weight": 3, "mask_target": True},
    "olora": {"kind": "olora"},
    "slao": {"kind": "slao"},
    "mean_teacher": {"kind": "mean_teacher", "stored": "student"},
    "gpm": {"kind": "gpm", "rows": 12},
}
KEEPING = ("curvature", "kronecker", "slao", "mean_teacher", "gpm")


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def _trained(folder: Path, strategy: dict[str, Any], options: TrainOptions, stop_at: int = 0) -> tuple[Prepared, Store]:
    """Trains both stages; with `stop_at` the second one is cut off there and then run again."""

    def observe(progress: Progress) -> None:
        if progress.label.startswith("OCR-VQA") and progress.step == stop_at and not stopped:
            stopped.append(progress.step)
            raise StoppedError

    stopped: list[int] = []
    store = Store(str(folder))
    config = parse(RunConfig, {**STREAM, "strategy": strategy}, "test")
    [prepared] = prepare([config], LocalExecutor(store))
    executor = LocalExecutor(store, options, observe)
    if stop_at:
        with pytest.raises(StoppedError):
            executor.train_and_evaluate(prepared.plan.trains, [])
        executor = LocalExecutor(store, options)
    executor.train_and_evaluate(prepared.plan.trains, [])
    return prepared, store


def _published(prepared: Prepared, store: Store, stage: int = -1) -> Path:
    return store.fetch(prepared.plan.trains[stage].key)


def _differences(one: Path, two: Path, file: str = ADAPTER_FILE) -> torch.Tensor:
    """Absolute differences of all entries of two adapters, or of what is kept beside them."""
    a, b = (load_file(folder / file) for folder in (one, two))
    assert a.keys() == b.keys()
    assert {value.dtype for value in a.values()} == {value.dtype for value in b.values()}
    return torch.cat([(a[name] - b[name]).abs().flatten() for name in a])


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "sequential"])
def test_a_stage_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path, strategy: str) -> None:
    options = TrainOptions(micro_batch=8, save_steps=2, logging_steps=1)
    whole = _published(*_trained(tmp_path / "whole", STRATEGIES[strategy], options))
    # After step 5: the checkpoint of step 4 is there, step 5 is lost and done again.
    cut = _published(*_trained(tmp_path / "cut", STRATEGIES[strategy], options, stop_at=5))
    assert json.loads((cut / RESULT).read_text())["resumed_at"] == [4]
    assert "resumed_at" not in json.loads((whole / RESULT).read_text())
    same = {ADAPTER_FILE, STEPS} | ({KEPT} if strategy in KEEPING else set())
    assert same <= {file.name for file in whole.iterdir()}
    assert [name for name in same if (cut / name).read_bytes() != (whole / name).read_bytes()] == []


def test_a_notice_saves_at_the_next_step_and_the_result_keeps_its_bits(tmp_path: Path) -> None:
    """After the third step of either stage. Nothing else would be saved: a checkpoint is due after 1,000 steps."""
    answers = cycle([False, False, True, False, False, False])
    options = TrainOptions(micro_batch=8, save_steps=1000, logging_steps=1)
    noticed = replace(options, save_now=lambda: next(answers))
    whole = _published(*_trained(tmp_path / "whole", STRATEGIES["kronecker"], options))
    cut = _published(*_trained(tmp_path / "cut", STRATEGIES["kronecker"], noticed, stop_at=5))
    assert json.loads((cut / RESULT).read_text())["resumed_at"] == [3]
    same = (ADAPTER_FILE, STEPS, KEPT)
    assert [name for name in same if (cut / name).read_bytes() != (whole / name).read_bytes()] == []


def _noisy(pictures: Pictures, images: Sequence[bytes]) -> torch.Tensor:
    """Augmentation as it is often written: from the global generators of python and numpy."""
    pixels = PLAIN(pictures, images)
    return pixels * random.uniform(0.8, 1.2) + torch.from_numpy(np.random.normal(0, 0.1, pixels.shape)).float()


def test_augmentation_is_the_same_after_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainOptions(micro_batch=4, save_steps=2, logging_steps=1)
    plain = _published(*_trained(tmp_path / "plain", STRATEGIES["sequential"], options))
    monkeypatch.setattr(Pictures, "__call__", _noisy)
    whole = _published(*_trained(tmp_path / "whole", STRATEGIES["sequential"], options))
    cut = _published(*_trained(tmp_path / "cut", STRATEGIES["sequential"], options, stop_at=5))
    assert json.loads((cut / RESULT).read_text())["resumed_at"] == [4]
    assert (cut / ADAPTER_FILE).read_bytes() == (whole / ADAPTER_FILE).read_bytes()
    assert _differences(whole, plain).max() > 1e-3


@pytest.mark.numeric
@pytest.mark.parametrize("strategy", ["sequential", "kronecker", "lwf"])
def test_micro_batches_do_not_matter(tmp_path: Path, strategy: str) -> None:
    """In double precision: in single, Adam makes a whole step of the rounding of a gradient that is next to nothing.

    The bar is 500 times what three instruction sets leave in the second stage, and far below any mistake of the loop.
    """
    one, many = (
        _tuned_in_double(tmp_path / str(micro), STRATEGIES[strategy], TrainOptions(micro_batch=micro))
        for micro in (8, 3)
    )
    for whole, parts in zip(one, many, strict=True):
        assert _differences(whole, parts).max() <= 1e-10
        if strategy in KEEPING:
            assert _differences(whole, parts, KEPT).max() <= 1e-10


def _tuned_in_double(folder: Path, strategy: dict[str, Any], options: TrainOptions) -> list[Path]:
    """Both stages on a base in float64; what they published."""
    store = Store(str(folder))
    [prepared] = prepare([parse(RunConfig, {**STREAM, "strategy": strategy}, "test")], LocalExecutor(store))
    assistant = assistants.build(TinyConfig())
    assistant.module.double()
    for stage in prepared.plan.trains:
        train_stage(stage, assistant, Worker(store, Accelerator(cpu=True), options, silent))
    return [store.fetch(stage.key) for stage in prepared.plan.trains]


def test_an_adapter_beside_its_parents_starts_from_other_directions_and_both_are_stored(tmp_path: Path) -> None:
    prepared, store = _trained(tmp_path, STRATEGIES["olora"], TrainOptions())
    first, both = (load_file(_published(prepared, store, stage) / ADAPTER_FILE) for stage in (0, 1))
    for name, old in first.items():
        rank = min(old.shape)
        kept, new = both[name].split(rank, 0 if "lora_A" in name else 1)
        assert torch.equal(kept, old)
        if "lora_A" in name:
            # Six steps turn a row by little: from the same seed these would be nearly 1.
            assert torch.nn.functional.cosine_similarity(kept, new).abs().max() < 0.7


def test_the_adapter_loads_in_stock_peft(tmp_path: Path) -> None:
    folder = _published(*_trained(tmp_path, {"kind": "curvature"}, TrainOptions()))
    model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(TINY_BASE), folder)
    stored = load_file(folder / ADAPTER_FILE)
    loaded = {name.replace(".default.", "."): p for name, p in model.named_parameters() if "lora_" in name}
    assert loaded.keys() == stored.keys()
    assert [name for name, p in loaded.items() if not torch.equal(p, stored[name])] == []
    assert any(bool(p.any()) for name, p in stored.items() if "lora_B" in name)


def test_a_trained_projector_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    """The first step of Adam moves whatever has a gradient by the rate."""
    rates = {"learning_rate": 1e-3, "projector_learning_rate": 1e-4, "lr_scheduler_type": "constant"}
    config = {**STREAM, "strategy": {"kind": "sequential"}, "assistant": {"kind": "tiny", "train_projector": True},
              "training": {"max_steps": 1, "batch_size": 8, "weight_decay": 0.0, **rates}}  # fmt: skip
    executor = LocalExecutor(Store(str(tmp_path)))
    [prepared] = prepare([parse(RunConfig, config, "test")], executor)
    executor.train_and_evaluate(prepared.plan.trains[:1], [])
    base = LlavaForConditionalGeneration.from_pretrained(TINY_BASE).model.multi_modal_projector.state_dict()
    stored = load_file(_published(prepared, executor.store, 0) / ADAPTER_FILE)
    moved = [stored[name] - base[name.split("projector.")[1]] for name in stored if "projector" in name]
    assert max(float(value.abs().max()) for value in moved) == pytest.approx(1e-4, rel=1e-2)
    fresh = [value for name, value in stored.items() if "lora_B" in name]
    assert max(float(value.abs().max()) for value in fresh) == pytest.approx(1e-3, rel=1e-2)


def test_a_stage_that_is_stored_is_never_trained_again(tmp_path: Path) -> None:
    prepared, store = _trained(tmp_path, {"kind": "sequential"}, TrainOptions())
    seen: list[Progress] = []
    LocalExecutor(store, TrainOptions(logging_steps=1), seen.append).train_and_evaluate(prepared.plan.trains, [])
    assert seen == []
    # The observer does tell: what is not stored any more is trained, and only that.
    shutil.rmtree(_published(prepared, store))
    LocalExecutor(Store(store.root), TrainOptions(logging_steps=1), seen.append).train_and_evaluate(
        prepared.plan.trains, []
    )
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 6]
    assert {p.stage for p in seen} == {prepared.plan.trains[-1].key}


def test_the_speed_is_that_of_the_steps_since_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, seen = count(step=10), list[Progress]()
    monkeypatch.setattr("lcia.training.train.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    [prepared] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(Store(str(tmp_path))))
    LocalExecutor(Store(str(tmp_path)), TrainOptions(logging_steps=2), seen.append).train_and_evaluate(
        prepared.plan.trains[:1], []
    )
    # Ten seconds from one look at the clock to the next: two steps of eight rows and two looks each around the wait for
    # their rows, and one more look at the end.
    assert [progress.values["samples_per_second"] for progress in seen] == [16 / 50] * 3
    assert [progress.values["data_wait_share"] for progress in seen] == [20 / 50] * 3


class Ridge(Strategy):
    """Adds the squared scores of the answers' tokens to the loss: any penalty will do."""

    def penalty(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return 1e-3 * logits[batch["labels"] != UNTRAINED].square().sum()


def test_a_penalty_is_part_of_the_loss_whatever_the_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _tuned_in_double(tmp_path / "plain", STRATEGIES["sequential"], TrainOptions(micro_batch=8))
    monkeypatch.setattr("lcia.strategies.build", lambda config, steps: Ridge())
    one, many = (
        _tuned_in_double(tmp_path / str(micro), STRATEGIES["sequential"], TrainOptions(micro_batch=micro))
        for micro in (8, 3)
    )
    assert _differences(one[0], many[0]).max() <= 1e-10
    assert _differences(one[0], plain[0]).max() > 1e-4
    losses = [json.loads((folder / STEPS).read_text().splitlines()[-1])["loss"] for folder in (plain[0], one[0])]
    assert losses[1] > losses[0]


def test_a_loop_without_options_saves_and_logs_as_a_launch_does() -> None:
    launch, options = LaunchConfig(), TrainOptions()
    assert (options.save_steps, options.logging_steps) == (launch.save_steps, launch.logging_steps)
    assert (options.micro_batch, options.parallelism) == (launch.per_device_train_batch_size, launch.parallelism)
