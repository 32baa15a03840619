"""The model with other weights than the trained ones: what a teacher says, and how far tuning has moved the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lcia.ema.sharding import local
from lcia.protocols import Assistant, Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Elsewhere:
    """Implements lcia.protocols.LogitsAt for one worker of a stage."""

    assistant: Assistant
    parameters: Mapping[str, Tensor]
    accelerator: Accelerator
    bf16: bool

    def __call__(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        module, device = self.assistant.module, self.accelerator.device.type
        assert weights.keys() == self.parameters.keys(), "other weights have the names of the trained ones"
        others = [local(weights[name]) for name in self.parameters]
        autocast = torch.autocast(device, torch.bfloat16, enabled=self.bf16)
        with torch.no_grad(), still(module), holding(module, list(self.parameters.values()), others), autocast:
            return self.assistant.logits(module, batch)


@contextlib.contextmanager
def holding(module: nn.Module, parameters: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Inside, `module` has `others`, this worker's part of each, in the place of its parameters, and its own bits
    afterwards. May stand between a forward pass and its backward pass."""
    # Of .data autograd keeps no version: it would refuse to go backward through weights that were changed in between,
    # though they are what they were.
    live = [local(parameter).data for parameter in parameters]
    own = [part.clone() for part in live]
    _fill(module, live, others)
    try:
        yield
    finally:
        _fill(module, live, own)


@torch.no_grad()
def _fill(module: nn.Module, live: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for part, value in zip(live, values, strict=True):
        part.copy_(value)
    reshard(module)


def reshard(module: nn.Module) -> None:
    """Without a backward pass the root of a sharded model keeps its weights whole, and would not see others."""
    from torch.distributed.fsdp import FSDPModule

    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


@contextlib.contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """No dropout; layers that compute their activations again in the backward pass, which they do in training only,
    still do."""
    before = {each: each.training for each in module.modules()}
    for each in before:
        each.training = bool(getattr(each, "gradient_checkpointing", False))
    try:
        yield
    finally:
        for each, training in before.items():
            each.training = training
