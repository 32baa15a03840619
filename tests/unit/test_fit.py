"""One stage of tuning: continued exactly, the same for any micro-batch, never done twice, plain for peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from lcia.assistants.tiny import TINY_BASE
from lcia.config import RunConfig
from lcia.fit import FitOptions
from lcia.load import parse
from lcia.local import LocalExecutor
from lcia.protocols import Progress
from lcia.run import Prepared, prepare
from lcia.store import Store

STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 32, "test_size": 4},
    "training": {"max_steps": 6, "batch_size": 8},
    "grouping": {"enabled": False},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"kind": "sequential"},
    "curvature": {"kind": "curvature", "lambda": 0.3, "pull": 1000},
    "paper": {"kind": "paper"},
}


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def _trained(folder: Path, strategy: dict[str, Any], options: FitOptions, stop_at: int = 0) -> tuple[Prepared, Store]:
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
            executor.tune(prepared.plan.trains, [])
        executor = LocalExecutor(store, options)
    executor.tune(prepared.plan.trains, [])
    return prepared, store


def _weights(prepared: Prepared, store: Store) -> bytes:
    return (store.fetch(prepared.plan.trains[-1].key) / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stage_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path, strategy: str) -> None:
    options = FitOptions(micro_batch=8, save_steps=2, logging_steps=1)
    whole = _weights(*_trained(tmp_path / "whole", STRATEGIES[strategy], options))
    # After step 5: the checkpoint of step 4 is there, step 5 is lost and done again.
    assert _weights(*_trained(tmp_path / "cut", STRATEGIES[strategy], options, stop_at=5)) == whole


def test_micro_batches_do_not_matter(tmp_path: Path) -> None:
    one = _trained(tmp_path / "one", {"kind": "sequential"}, FitOptions(micro_batch=8))
    many = _trained(tmp_path / "many", {"kind": "sequential"}, FitOptions(micro_batch=3))
    first, second = (load_file(s.fetch(p.plan.trains[-1].key) / "adapter_model.safetensors") for p, s in (one, many))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-2, atol=1e-4)


def test_the_adapter_loads_in_stock_peft_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    prepared, store = _trained(tmp_path, {"kind": "curvature"}, FitOptions())
    folder = store.fetch(prepared.plan.trains[-1].key)
    model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(TINY_BASE), folder)
    loaded = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    assert any(bool(p.abs().sum() > 0) for p in loaded.values())
    before = (folder / "complete.json").stat().st_mtime_ns
    LocalExecutor(store).tune(prepared.plan.trains, [])
    assert (folder / "complete.json").stat().st_mtime_ns == before
