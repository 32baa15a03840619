"""What holds layers at old weights: the rise q of the old tasks' loss and its gradient, from the two factors of their
curvature. Layers of equal shape act together: a small model's step would else be spent on starting small products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lcia.ema.buffers import wide
from lcia.ema.sharding import whole
from lcia.protocols import TunedLinear
from lcia.strategies.factors import Curvature, Factor

TOGETHER = 1 << 20
"""So many entries of LoRA are stacked at most (4 MB in fp32); larger layers act alone."""

Force = tuple[list[torch.nn.Parameter], Tensor]
"""Parameters of one shape and the gradients of q by them, whole tensors: stacked, or the only one as it is."""


def pulls(layers: Sequence[TunedLinear], known: Mapping[str, Curvature]) -> list[Pull]:
    """What holds the layers at the weights that they have now, given the curvature of each by its name."""
    products = [ProductPull(group, known) for group in _alike(layers)]
    return [*products, *(WholePull(layer, known[layer.name]) for layer in layers if layer.down is None)]


def _alike(layers: Sequence[TunedLinear]) -> Iterator[list[TunedLinear]]:
    """Groups of layers with LoRA whose tensors can be stacked."""
    groups: dict[object, list[TunedLinear]] = {}
    for layer in layers:
        if layer.down is not None:
            groups.setdefault((layer.shape, layer.down.shape, layer.up.dtype, layer.up.device), []).append(layer)
    for group in groups.values():
        out, into = group[0].shape
        size = max(1, TOGETHER // (group[0].up.shape[1] * (out + into)))
        yield from (group[start : start + size] for start in range(0, len(group), size))


class Pull(ABC):
    """q = 1/2 tr(S_g dW S_x dW') / tr of some layers, and its gradient. A collective call where weights are sharded.

    Of several layers every tensor has one more dimension in front, over the layers.
    """

    def __init__(self, layers: Sequence[TunedLinear], known: Sequence[Curvature]) -> None:
        self.count = len(layers)
        self.inputs = Factor.stack([each.inputs.factor() for each in known])
        self.outputs = Factor.stack([each.outputs.factor() for each in known])
        # Both factors of a layer without a trace are zero: old tasks do not need it.
        weights = [
            torch.where(each.trace > 0, layer.scale**2 / each.trace, 0.0)
            for layer, each in zip(layers, known, strict=True)
        ]
        self.weight = weights[0] if len(weights) == 1 else torch.stack(weights)[:, None, None]

    @abstractmethod
    def __call__(self) -> tuple[Tensor, list[Force]]:
        """q, 0-dim, the sum over the layers, and its gradients."""

    @property
    @abstractmethod
    def pulled(self) -> list[list[torch.nn.Parameter]]:
        """The parameters of each of its forces."""

    def members(self) -> Iterator[tuple[int, torch.nn.Parameter]]:
        """Each parameter with the place of its layer."""
        for parameters in self.pulled:
            yield from enumerate(parameters)

    def lengths(self, forces: Sequence[Force]) -> Tensor:
        """|h| of each layer, [layers]."""
        squares = [torch.linalg.vector_norm(h.reshape(self.count, -1).double(), dim=1).square() for _, h in forces]
        return torch.stack(squares).sum(0).sqrt()

    def weigh(self, forces: Sequence[Force], weights: Tensor) -> None:
        """Multiplies the forces of each layer by its weight, [layers]."""
        for _, h in forces:
            h.mul_(weights if self.count == 1 else weights[:, None, None])


class ProductPull(Pull):
    """dW = s (B A - B0 A0), never formed: it is s U V with U = [B - B0, B0] [out, 2r] and V = [A; A - A0] [2r, in]."""

    def __init__(self, layers: Sequence[TunedLinear], known: Mapping[str, Curvature]) -> None:
        super().__init__(layers, [known[layer.name] for layer in layers])
        self.downs = [layer.down for layer in layers if layer.down is not None]
        self.ups = [layer.up for layer in layers]
        self.down_origins = [_copy(down) for down in self.downs]
        self.up_origins = [_copy(up) for up in self.ups]

    @property
    def pulled(self) -> list[list[torch.nn.Parameter]]:
        return [self.downs, self.ups]

    def __call__(self) -> tuple[Tensor, list[Force]]:
        u = torch.cat([_moved(self.ups, self.up_origins), _stack(self.up_origins)], -1)
        v = torch.cat([_stack(self.downs).to(u), _moved(self.downs, self.down_origins).to(u)], -2)
        rank = self.downs[0].shape[0]
        vx, ug = self.inputs.times(v), self.outputs.times(u.mT)
        left, right = ug @ u, vx @ v.mT  # U'S_g U and V S_x V', [2r, 2r]
        # B is the sum of U's halves and A the first half of V.
        by_down = (self.weight * (left[..., :rank, :] + left[..., rank:, :])) @ vx
        by_up = ug.mT @ (self.weight * right[..., :rank])
        return (left * right.mT * self.weight).sum() / 2, [(self.downs, by_down), (self.ups, by_up)]


class WholePull(Pull):
    """dW = W - W0 [out, in] of a layer that is trained as it is; its bias is one more column, whose input is 1."""

    def __init__(self, layer: TunedLinear, known: Curvature) -> None:
        super().__init__([layer], [known])
        self.parameters = [layer.up] if layer.bias is None else [layer.up, layer.bias]
        self.origins = [_copy(parameter) for parameter in self.parameters]

    @property
    def pulled(self) -> list[list[torch.nn.Parameter]]:
        return [[parameter] for parameter in self.parameters]

    def __call__(self) -> tuple[Tensor, list[Force]]:
        pairs = zip(self.parameters, self.origins, strict=True)
        moved = torch.cat([whole(p.detach() - o).view(len(p), -1) for p, o in pairs], 1).to(self.weight.dtype)
        force = self.weight * self.outputs.times(self.inputs.times(moved).mT).mT
        parts = torch.split(force, [p.numel() // len(p) for p in self.parameters], 1)
        forces = [([p], part.reshape(p.shape)) for p, part in zip(self.parameters, parts, strict=True)]
        return (force * moved).sum() / 2, forces


def each(force: Force) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """The parameters, each with its own gradient."""
    parameters, gradients = force
    return zip(parameters, gradients if len(parameters) > 1 else [gradients], strict=True)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    found = [whole(tensor.detach()) for tensor in tensors]
    return found[0] if len(found) == 1 else torch.stack(found)


def _moved(parameters: Sequence[Tensor], origins: Sequence[Tensor]) -> Tensor:
    return _stack([p.detach() - o for p, o in zip(parameters, origins, strict=True)])


def _copy(parameter: Tensor) -> Tensor:
    """theta_0 of a parameter, distributed as it is, in the precision of the sums."""
    return parameter.detach().to(wide(parameter.dtype), copy=True)
