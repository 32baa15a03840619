"""What FSDP2 leaves to us: which layers to shard, and how an adapter gets into its shards."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lcia.types import InputError

ORIGINAL = "original_module"
"""peft's name for the base's own copy of a module that every adapter brings along: new adapters start from it."""


def layers(model: Any) -> list[nn.Module]:
    """The blocks of a transformers model's decoder, by the names that the model gives for them.

    Not those of the vision tower: sharded layers wait for one another, and a worker whose rows have no pictures would
    never come to them. The tower is sharded with the rest of the model, which every batch gathers.
    """
    decoder = model.get_decoder()
    found = [module for module in decoder.modules() if type(module).__name__ in (decoder._no_split_modules or ())]
    if not found:
        raise InputError(f"{type(decoder).__name__} names no layers to shard: use parallelism ddp")
    return found


def in_turn(model: Any) -> None:
    """Lets every batch's gradient go through all layers, as that of a trained projector does.

    Without pictures nothing before the first layer is trained, so that layer would hand in its gradients after the
    rest of the model instead of before, and wait for workers that do it the other way round.
    """
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))


def hollow(module: nn.Module) -> nn.Module:
    """A copy in host memory whose weights are zeros that take no room, but for what new adapters start from."""
    weights = {id(p): _stand_in(name, p) for name, p in module.named_parameters()}
    # deepcopy takes what it finds in its memo instead of copying.
    return deepcopy(module, weights)


def _stand_in(name: str, parameter: nn.Parameter) -> nn.Parameter:
    if ORIGINAL in name:
        return nn.Parameter(parameter.detach().to("cpu", copy=True), requires_grad=False)
    return nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape), requires_grad=False)


@torch.no_grad()
def fill(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Puts whole tensors into sharded parameters, each worker its own part; nothing is sent."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert parameters.keys() == weights.keys(), "adapters of one form have the same weights"
    for name, parameter in parameters.items():
        assert isinstance(parameter, DTensor)
        mesh, placements = parameter.device_mesh, parameter.placements
        value = weights[name].to(parameter.device, parameter.dtype)
        parameter.copy_(distribute_tensor(value, mesh, placements, src_data_rank=None))
