"""Inputs and output gradients of tuned layers, with activations kept or computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lcia.protocols import TunedLinear
from lcia.strategies.watch import watched

Seen = list[tuple[str, Tensor, Tensor]]


class Twice(nn.Module):
    """Two linear layers, their activations kept or computed again in the backward pass."""

    def __init__(self, again: dict[str, Any] | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        self.again = again

    def block(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        if self.again is None:
            return self.block(x)
        return checkpoint(self.block, x, **self.again)  # type: ignore[no-any-return]

    @property
    def layers(self) -> list[TunedLinear]:
        return [TunedLinear(name, layer, layer.weight, bias=layer.bias) for name, layer in self.named_children()]


def look(model: Twice) -> Seen:
    seen: Seen = []
    x = torch.arange(12.0, dtype=torch.float64).view(2, 2, 3).requires_grad_()
    with watched(model.layers, lambda layer, x, g: seen.append((layer.name, x.detach(), g))):
        model(x).square().sum().backward()
    return sorted(seen, key=lambda found: found[0])


def test_they_are_what_the_weights_gradient_is_made_of() -> None:
    model = Twice(None)
    for (name, x, g), layer in zip(look(model), model.layers, strict=True):
        assert name == layer.name
        torch.testing.assert_close(layer.up.grad, torch.einsum("bto,bti->oi", g, x))


@pytest.mark.parametrize("again", [{"use_reentrant": False}, {"use_reentrant": True}])
def test_activations_that_are_computed_again_are_seen_once(again: dict[str, Any]) -> None:
    for kept, made in zip(look(Twice(None)), look(Twice(again)), strict=True):
        assert kept[0] == made[0]
        assert torch.equal(kept[1], made[1])
        assert torch.equal(kept[2], made[2])


def test_a_watched_model_computes_what_it_computed_and_is_free_afterwards() -> None:
    model, x = Twice(None), torch.ones(1, 1, 3, dtype=torch.float64)
    free = model(x)
    with watched(model.layers, lambda layer, x, g: None):
        assert torch.equal(model(x), free)
    assert not model.first._forward_hooks
