"""A base in shards (FSDP2): which layers are sharded, and how an adapter gets into its shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcia.assistants.adapters import LoraAdapters
from lcia.protocols import Assistant, TunedLinear
from lcia.types import InputError

INCOMING = "incoming"
"""The twin's adapter whose weights are about to take the place of sharded ones."""
WHOLE = "a sharded base holds one adapter, for training only: load the base whole to answer or to use several"
ORIGINAL = "original_module"
"""peft's name for the base's own copy of a module that every adapter brings along: new adapters start from it."""


def shard(assistant: Assistant, apply: Callable[[nn.Module], object]) -> None:
    """Gives `apply` (fully_shard) every layer that each batch passes through, then the whole.

    From then on only the adapter that was active is trained: others take its place, and it can neither be dropped nor
    set aside.
    """
    whole = assistant.adapters
    assert isinstance(whole, LoraAdapters)
    sharded = ShardedAdapter(whole)
    if any(assistant.in_projector(name) for name in whole.trainable()):
        in_turn(whole.base)
    for layer in layers(whole.base):
        apply(layer)
    apply(whole.module)
    assistant.adapters = sharded


class ShardedAdapter:
    """Implements lcia.protocols.Adapters for the one adapter of a base that is in shards.

    The modules of a sharded base cannot change, so the adapter that is there stays and later ones go in its place. A
    twin whose frozen weights take no memory adds or loads them first, the way peft always does. So an adapter starts
    with the same bits whether the base is sharded or not, and the base is loaded once for a chain of stages.
    """

    def __init__(self, whole: LoraAdapters) -> None:
        """Before anything is sharded."""
        self._adapters, self._twin = whole, LoraAdapters(hollow(whole.module), whole.lora)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._adapters.module
        return module

    def add(self, name: str, seed: int) -> None:
        self._replace(name, lambda: self._twin.add(INCOMING, seed))

    def load(self, name: str, folder: Path) -> None:
        self._replace(name, lambda: self._twin.load(INCOMING, folder))

    def save(self, name: str, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        self._adapters.save(name, folder, weights)

    def use(self, name: str | None) -> None:
        raise InputError(WHOLE)

    def merge(self, name: str) -> None:
        raise InputError(WHOLE)

    def drop(self, name: str) -> None:
        raise InputError(WHOLE)

    def trainable(self) -> dict[str, nn.Parameter]:
        return self._adapters.trainable()

    def layers(self) -> tuple[TunedLinear, ...]:
        return self._adapters.layers()

    def _replace(self, name: str, bring: Callable[[], None]) -> None:
        """Puts the weights that `bring` gives the twin's INCOMING into the shards of `name`."""
        if name != self._adapters.module.active_adapter:
            raise InputError(WHOLE)
        bring()
        try:
            if self._adapters.form(name) != self._twin.form(INCOMING):
                raise InputError("a sharded adapter cannot be replaced by one of another form: load the base again")
            fill(self.trainable(), self._twin.weights(INCOMING))
        finally:
            self._twin.drop(INCOMING)


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
