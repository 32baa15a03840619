"""What goes into linear layers and what comes back through them: inputs x and output gradients g."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from lcia.protocols import Look, LookBack, Trained, TunedLinear

See = Callable[[Tensor, Tensor], None]
"""Gets x [..., in] and d loss / d y [..., out] of one call of a layer, during the backward pass."""


class _Tap(torch.autograd.Function):
    """Passes a layer's output on. Its input is saved by autograd itself, so that a checkpointed layer holds none and
    gives it when it is computed again."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, see: See) -> Tensor:
        ctx.see = see
        ctx.save_for_backward(inputs)
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inputs,) = ctx.saved_tensors
        ctx.see(inputs, gradient)
        return gradient, None, None


@contextlib.contextmanager
def watched(layers: Sequence[TunedLinear], see: Callable[[TunedLinear, Tensor, Tensor], None]) -> Iterator[None]:
    """Calls `see` with each layer, its inputs and the gradients of its outputs in every backward pass inside."""
    handles = [layer.module.register_forward_hook(_tapped(partial(see, layer))) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def look_over(
    trained: Trained,
    rows: int,
    look_back: LookBack,
    loss: Callable[[Look], tuple[Tensor, Tensor]],
    see: Callable[[TunedLinear, Tensor, Tensor], None],
) -> Tensor:
    """Goes backward through `loss` of each look at so many rows, which gives the loss and its number of answer tokens;
    `see` is called as in watched(). Returns the answer tokens that all workers have seen, 0-dim; leaves no gradient."""
    tokens = torch.zeros((), dtype=torch.float64, device=next(iter(trained.parameters.values())).device)
    with watched(trained.layers, see):
        for look in look_back(rows, _alone(trained)):
            with torch.enable_grad():
                value, count = loss(look)
                value.backward()  # type: ignore[no-untyped-call]
            tokens += count
            for parameter in trained.parameters.values():
                parameter.grad = None
    if dist.is_initialized():
        dist.all_reduce(tokens)
    return tokens


def one_by_one(trained: Trained, tensor: Tensor) -> Tensor:
    """What `see` got in look_over(), as [rows, tokens, width]."""
    return tensor.reshape(1, -1, tensor.shape[-1]) if _alone(trained) else tensor


def _alone(trained: Trained) -> bool:
    """How the pictures of a projector's batch belong to rows is the model's own affair, so each row comes alone."""
    return any(layer.down is None for layer in trained.layers)


def _tapped(see: See) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, inputs, output: _Tap.apply(output, inputs[0], see)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def noted(layers: Sequence[TunedLinear]) -> Iterator[dict[str, Tensor]]:
    """Gives the inputs [tokens, in] of all calls of each layer inside, by the layer's name; no backward pass is needed.
    A layer that is not called has none."""
    found: dict[str, Tensor] = {}
    handles = [layer.module.register_forward_hook(_noting(found, layer.name)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _noting(found: dict[str, Tensor], name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].detach().flatten(0, -2)
        found[name] = torch.cat([found[name], rows]) if name in found else rows

    return note
