"""How a stage is spread over workers: the whole base on each (DDP), or a shard of everything on each (FSDP2).

The mathematics is the same under both: global batch, loss, clipping, averages and results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcia.ema.sharding import flat, is_dtensor, part_of, whole
from lcia.protocols import Assistant
from lcia.types import InputError, Parallelism

if TYPE_CHECKING:
    from accelerate import Accelerator


def refuse_engines(accelerator: Accelerator) -> None:
    """Raises InputError if the accelerator brings an engine or a precision of its own, before anything is trained."""
    engine = str(accelerator.distributed_type.value)
    if engine == "DEEPSPEED" or accelerator.state.deepspeed_plugins:
        raise InputError(
            "DeepSpeed is not supported: ZeRO steps flat copies of the weights, which no average can follow. Give a "
            "plain Accelerator() and choose parallelism ddp, or fsdp2, which shards weights, gradients and moments too"
        )
    if engine in ("FSDP", "MEGATRON_LM"):
        raise InputError(
            f"an Accelerator with a plugin for {engine} is not supported: give a plain Accelerator() and choose "
            "parallelism ddp or fsdp2"
        )
    if accelerator.mixed_precision != "no":
        # It would change the result and be in no key.
        raise InputError(
            f"an Accelerator with mixed precision {accelerator.mixed_precision} is not supported: give a plain "
            "Accelerator() and set training.bf16 in the run's configuration"
        )


def is_sharding(parallelism: Parallelism, accelerator: Accelerator) -> bool:
    """Whether the model is cut up; a single worker holds it whole either way, as it does without DDP's wrapper."""
    return parallelism == "fsdp2" and accelerator.num_processes > 1


def base_device(parallelism: Parallelism, accelerator: Accelerator) -> str:
    """Where a worker loads the base: in host memory if it is to be sharded, for the device has room for a shard."""
    return "cpu" if is_sharding(parallelism, accelerator) else str(accelerator.device)


def wrap(assistant: Assistant, parallelism: Parallelism, accelerator: Accelerator) -> torch.nn.Module:
    """The module to train with, after the adapter is attached and before its parameters are asked for."""
    if not is_sharding(parallelism, accelerator):
        return _replicated(assistant.module, accelerator)
    if not any(is_dtensor(parameter) for parameter in assistant.module.parameters()):
        _shard(assistant, accelerator)
    return assistant.module


def _replicated(module: torch.nn.Module, accelerator: Accelerator) -> torch.nn.Module:
    """Under DDP only what is trained is broadcast and reduced; the frozen base is equal by construction."""
    frozen = [n for n, p in module.named_parameters() if not p.requires_grad] + [n for n, _ in module.named_buffers()]
    module._ddp_params_and_buffers_to_ignore = frozen  # type: ignore[assignment]
    wrapped: torch.nn.Module = accelerator.prepare_model(module)
    return wrapped


def _shard(assistant: Assistant, accelerator: Accelerator) -> None:
    """FSDP2 over all workers. Parameters keep their dtypes, and autocast computes as it does under DDP.

    accelerate's own FSDP2 plugin is not used: it wants a model and its one optimizer prepared together, while here an
    optimizer lasts for a stage and the model for many; and it shards the vision tower layer by layer, which waits for
    ever where one worker's rows have pictures and another's have none.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It imports peft, which takes seconds.
    from lcia.assistants.sharded import shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    shard(assistant, partial(fully_shard, mesh=mesh))


def from_main(value: int, accelerator: Accelerator) -> int:
    """The main worker's value, on all workers: each may have seen the store at another moment."""
    from accelerate.utils import broadcast

    return int(broadcast(torch.tensor([value], device=accelerator.device)))


@contextlib.contextmanager
def synchronised(module: torch.nn.Module, accelerator: Accelerator, last: bool) -> Iterator[None]:
    """Gradients are reduced over the workers in the backward pass of a step's last micro-batch only."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        yield
    else:
        with contextlib.nullcontext() if last else accelerator.no_sync(module):
            yield


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors in host memory where `keep`, nothing elsewhere. A collective call where tensors are sharded."""
    result = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if keep:
            result[name] = value.to("cpu", copy=True).contiguous()
    return result


def gather_verified(parameters: Mapping[str, Tensor], accelerator: Accelerator) -> tuple[dict[str, Tensor], str]:
    """theta* whole on the main worker (others: nothing) and its checksum, the same for any number of workers.

    Every worker sums the bits of each whole tensor as it sees it, and of its own part. All must see the same sum, and
    it must be the sum of the parts (of each copy, where every worker holds one).

    Raises:
        RuntimeError: the workers hold different averages.
    """
    seen = part = torch.zeros((), dtype=torch.long, device=accelerator.device)
    kept: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        value = whole(parameter.detach())
        places = torch.arange(1, parameter.numel() + 1, device=value.device).view(parameter.shape)
        seen = seen + _bits(value.reshape(-1), places.view(-1))
        part = part + _bits(flat(parameter), part_of(places, parameter))
        kept |= gathered({name: value}, accelerator.is_main_process)
    sums = accelerator.gather(torch.stack([seen, part])[None])
    sharded = any(is_dtensor(parameter) for parameter in parameters.values())
    expected = sums[:, 1].sum() if sharded else part
    if not bool((sums[:, 0] == expected).all()):
        raise RuntimeError(f"the workers hold different averages (sums of all and of parts: {sums.tolist()})")
    return kept, f"{int(seen) & (2**64 - 1):016x}"


def _bits(values: Tensor, places: Tensor) -> Tensor:
    """Sum of fp32 bit patterns, each times its place, modulo 2^64; both [entries]."""
    return (values.float().contiguous().view(torch.int32).long() * places).sum()


def check_even_split(batch_size: int, parallelism: Parallelism, accelerator: Accelerator) -> None:
    """Raises InputError where sharding workers would run different numbers of micro-batches: some would wait for
    ever."""
    if is_sharding(parallelism, accelerator) and batch_size % accelerator.num_processes:
        raise InputError(
            f"training.batch_size {batch_size} cannot be split over {accelerator.num_processes} workers: make it a "
            "multiple of them"
        )
