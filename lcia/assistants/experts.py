"""MoELoRA: the rank of a LoRA is shared out among experts, which a router in each layer weighs token by token.

Chen et al., "CoIN: A Benchmark of Continual Instruction tuNing for Multimodel Large Language Model" (NeurIPS 2024,
arXiv 2403.08350; code zackschen/CoIN, coinmoelora.py). With N experts of rank r / N and the router R [N, in]:
    y = W x + s sum over i of  N g_i B_i A_i x        g = softmax(R x)
A_i [r / N, in] are N slices of one stock LoRA's A, and B_i [out, r / N] of its B. So the adapter is a stock one, which
answers with equal gates (N g_i = 1) wherever the routers are missing. The authors' code has no N in front of g: it is
this one with lora_alpha / N. Their A starts from a normal distribution of deviation 0.01, ours as peft's does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

ROUTERS = "router.safetensors"
"""The routers' weights, beside the stock adapter."""
ROUTER = "router"
"""The router is a child of A, which peft frees, freezes, moves and deletes with its adapter."""


class LoraForm(peft.LoraConfig):  # type: ignore[misc]
    """peft's form of an adapter, and the number of its experts, which peft does not know and does not write."""

    def __init__(self, experts: int = 1, **values: Any) -> None:
        super().__init__(**values)
        self.experts = experts


def experts_of(form: peft.LoraConfig) -> int:
    """1: a stock adapter."""
    return form.experts if isinstance(form, LoraForm) else 1


def route(model: nn.Module, name: str, experts: int) -> None:
    """Gives each layer of a stock adapter that was just attached a router; what is random comes from torch's generator,
    after all that peft draws."""
    for _, down in _downs(model, name):
        router = nn.Linear(down.in_features, experts, bias=False)
        down.register_module(ROUTER, router.to(down.weight.device, down.weight.dtype))
        down.register_forward_hook(_weigh)


def routers(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Linear]]:
    """The routers of a loaded adapter, each with the path of its layer; a stock adapter has none."""
    for path, down in _downs(model, name):
        if ROUTER in dict(down.named_children()):
            yield path, _router(down)


def router_weights(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Those of a loaded adapter, by keys that do not hold its name."""
    return {f"{path}.lora_A.{ROUTER}.weight": cast(nn.Parameter, each.weight) for path, each in routers(model, name)}


@torch.no_grad()
def fill(model: nn.Module, name: str, weights: Mapping[str, Tensor]) -> None:
    """Puts stored weights into the routers of a loaded adapter."""
    found = router_weights(model, name)
    assert found.keys() == weights.keys(), "adapters of one form have the same routers"
    for key, weight in weights.items():
        found[key].copy_(weight)


def count_experts(model: nn.Module, name: str) -> int:
    """Of a loaded adapter; 1: a stock one."""
    return next((router.out_features for _, router in routers(model, name)), 1)


def is_router(name: str) -> bool:
    """Whether a name of Adapters.trainable() is a router's."""
    return name.endswith(f".{ROUTER}.weight")


def experts_in(weights: Mapping[str, Tensor]) -> int:
    """Of an adapter whose routers have these weights; 1: none."""
    return next((len(value) for value in weights.values()), 1)


def _downs(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Linear]]:
    """The A of each layer that an adapter tunes, with the path of the layer."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            yield path, module.lora_A[name]


def _router(down: nn.Module) -> nn.Linear:
    return cast(nn.Linear, down.get_submodule(ROUTER))


def _weigh(down: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A x [..., r] with each expert's slice times N g. All that it needs is in the layer itself, so that a copy of the
    model routes by weights of its own."""
    gates = torch.softmax(_router(down)(inputs[0]), dim=-1)
    experts = gates.shape[-1]
    slices = output.view(*output.shape[:-1], experts, -1)
    return (slices * (experts * gates)[..., None]).view(output.shape).to(output.dtype)
