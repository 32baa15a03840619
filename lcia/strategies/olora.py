"""O-LoRA: each task trains a low-rank pair of its own, in directions that are orthogonal to those of earlier tasks.

    y = (W + s sum over i < t of B_i A_i + s B_t A_t) x,      loss = CE + weight sum over i < t of sum |A_i A_t'|

Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning" (Findings of EMNLP 2023, arXiv
2310.14152). The pairs before B_t A_t are frozen; the sum over all of them answers.

A group has one adapter, in peft's own form. So what is stored is the sum, exactly: the pairs side by side, [B_1 .. B_t]
[out, t r] and [A_1; ..; A_t] [t r, in], a LoRA of rank t r whose lora_alpha keeps the scale s. It needs nothing kept
beside it, loads in plain peft, and answers at the cost of its rank. A stage trains a fresh pair of rank r beside that
adapter, which takes part as it is (without dropout). Adding the old pairs to the base's weights instead would round
them, and answers would come from another model than the one that was trained.

The gradient of the penalty is added after the task's own was clipped, as that of the other pulls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lcia.ema.hooks import Step, attach
from lcia.ema.sharding import local, part_of, whole
from lcia.ema.tracked import Tracked
from lcia.protocols import LookBack, Strategy, Trained, TunedLinear


@dataclass(frozen=True, eq=False)
class Earlier:
    """The pairs of a layer that earlier tasks left, side by side, and the one that is trained."""

    layer: TunedLinear
    down: Tensor
    """[earlier ranks, in]"""
    up: Tensor
    """[out, earlier ranks]"""

    @property
    def trained(self) -> Parameter:
        assert self.layer.down is not None, "a layer with LoRA has both matrices"
        return self.layer.down

    def add(self, module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """A forward hook: the layer's output [..., out] with what the earlier pairs say."""
        said = F.linear(F.linear(inputs[0].to(self.down.dtype), self.down), self.up)
        return output + self.layer.scale * said.to(output.dtype)

    def products(self) -> Tensor:
        """A_t A_i' of all earlier tasks, [r, earlier ranks]. A collective call where weights are sharded."""
        return whole(self.trained.detach()) @ self.down.T


class OLoraStrategy(Strategy):
    """The rank of what is stored grows by that of the configuration with each task."""

    beside: ClassVar[bool] = True

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._on_modules: list[RemovableHandle] = []

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.names = {id(parameter): name for name, parameter in trained.parameters.items()}
        self.earlier = [self._earlier(layer, trained.parent) for layer in trained.layers if layer.down is not None]
        self._on_modules = [each.layer.module.register_forward_hook(each.add) for each in self.earlier]
        self._on_optimizer = attach(optimizer, Tracked(trained.parameters), self.before, None)

    def _earlier(self, layer: TunedLinear, parent: Mapping[str, Tensor]) -> Earlier:
        assert layer.down is not None
        down, up = (parent[self.names[id(p)]].to(local(p)) for p in (layer.down, layer.up))
        return Earlier(layer, down, up)

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Adds weight sign(A_t A_i') A_i, summed over the earlier tasks, to the gradient of each A_t."""
        for each in self.earlier:
            gradient = each.trained.grad
            assert gradient is not None, "a layer that is trained has a gradient"
            force = self.weight * each.products().sign() @ each.down
            mine = local(gradient)
            mine.add_(part_of(force, gradient).view(mine.shape))

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self._on_optimizer:
            handle.remove()
        return {}

    def stored(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        joined = dict(weights)
        for each in self.earlier:
            down, up = self.names[id(each.trained)], self.names[id(each.layer.up)]
            joined[down] = torch.cat([each.down.to(weights[down]), weights[down]], 0)
            joined[up] = torch.cat([each.up.to(weights[up]), weights[up]], 1)
        return joined

    def release(self) -> None:
        for handle in self._on_modules:
            handle.remove()

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """`overlap`: sum over i < t of sum |A_i A_t'|, over all layers."""
        return {"overlap": float(torch.stack([each.products().abs().sum().double() for each in self.earlier]).sum())}
