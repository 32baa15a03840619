"""Spreading a stage over workers: what is refused at start, and what one process can tell (the rest: integration)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from lcia import assistants
from lcia.config.assistants import TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor, silent
from lcia.protocols import Progress
from lcia.run import prepare
from lcia.store.folders import Store
from lcia.training.parallel import base_device, check_even_split, from_main, wrap
from lcia.training.train import TrainOptions, Worker, train_stage
from lcia.types import InputError

STREAM = {"benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "train_size": 8, "test_size": 4}}


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def _patch(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Changes a fact of the real accelerator, as a launcher's environment would."""
    monkeypatch.setitem(AcceleratorState._shared_state, name, value)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (DistributedType.DEEPSPEED, "ZeRO steps flat copies of the weights.*choose parallelism ddp, or fsdp2"),
        (DistributedType.FSDP, "a plugin for FSDP.*choose parallelism ddp or fsdp2"),
        (DistributedType.MEGATRON_LM, "a plugin for MEGATRON_LM.*choose parallelism ddp or fsdp2"),
    ],
)
def test_an_accelerator_with_an_engine_of_its_own_is_refused_before_anything_is_trained(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, engine: DistributedType, message: str
) -> None:
    store, seen = Store(str(tmp_path)), list[Progress]()
    [stage] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(store))[0].plan.trains
    assistant = assistants.build(TinyConfig())
    _patch(monkeypatch, "distributed_type", engine)
    with pytest.raises(InputError, match=message):
        train_stage(stage, assistant, Worker(store, accelerator, TrainOptions(logging_steps=1), seen.append))
    assert (seen, assistant.adapters.names, store.has(stage.key)) == ([], (), False)


def test_a_deepspeed_plugin_is_refused_though_it_is_not_in_use_yet(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    [stage] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(store))[0].plan.trains
    _patch(monkeypatch, "deepspeed_plugins", {"default": object()})
    with pytest.raises(InputError, match="DeepSpeed is not supported"):
        train_stage(stage, assistants.build(TinyConfig()), Worker(store, accelerator, TrainOptions(), silent))


def test_sharding_workers_refuse_a_batch_that_gives_them_different_numbers_of_rows(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_even_split(7, "fsdp2", accelerator)
    _patch(monkeypatch, "num_processes", 2)
    check_even_split(8, "fsdp2", accelerator)
    check_even_split(7, "ddp", accelerator)
    with pytest.raises(InputError, match="batch_size 7 cannot be split over 2 workers"):
        check_even_split(7, "fsdp2", accelerator)


def test_a_base_that_is_to_be_sharded_is_read_into_host_memory(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _patch(monkeypatch, "device", torch.device("meta"))
    assert [base_device(kind, accelerator) for kind in ("ddp", "fsdp2")] == ["meta", "meta"]
    _patch(monkeypatch, "num_processes", 2)
    assert [base_device(kind, accelerator) for kind in ("ddp", "fsdp2")] == ["meta", "cpu"]


def test_a_worker_that_is_alone_agrees_with_itself(accelerator: Accelerator) -> None:
    assert from_main(7, accelerator) == 7


def test_one_worker_trains_the_plain_module(accelerator: Accelerator) -> None:
    assistant = assistants.build(TinyConfig())
    assistant.adapters.add("a", seed=0)
    assert wrap(assistant, "fsdp2", accelerator) is assistant.module
