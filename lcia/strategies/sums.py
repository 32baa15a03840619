"""One sweep over a tensor for everything that a rule has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Entries that a sweep on a CPU handles at a time: its scratch then stays in the cache."""


@dataclass(frozen=True)
class Operands:
    """One tensor at one step, each [entries]; what does not exist yet is None."""

    theta: Tensor
    average: Tensor
    gradient: Tensor
    previous_gradient: Tensor | None
    previous_theta: Tensor | None

    def chunks(self) -> Iterator[Operands]:
        """The tensor piece by piece on a CPU; whole on an accelerator, where launches cost more than memory."""
        size = self.theta.numel()
        if size <= CHUNK or self.theta.device.type != "cpu":
            yield self
            return
        values = (getattr(self, field.name) for field in fields(self))
        pieces = [[None] * -(-size // CHUNK) if value is None else value.split(CHUNK) for value in values]
        for piece in zip(*pieces, strict=True):
            yield Operands(*piece)


class Scratch:
    """Two buffers in the average's precision, made once and as long as the longest piece."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}

    def take(self, number: int, like: Tensor) -> Tensor:
        """Buffer `number` (0, 1) with the length, type and device of `like`."""
        buffer = self._buffers.get((number, like.dtype))
        if buffer is None or buffer.numel() < like.numel():
            buffer = self._buffers[number, like.dtype] = torch.empty_like(like)
        return buffer[: like.numel()]


def difference(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a - b in the precision of `out`, whatever that of a and b."""
    return torch.sub(a, b, out=out) if a.dtype == out.dtype else out.copy_(a).sub_(b)


def _widened(value: Tensor, buffer: Tensor) -> Tensor:
    return value if value.dtype == buffer.dtype else buffer.copy_(value)


def norms(x: Operands, scratch: Scratch) -> list[Tensor]:
    """|g|, |g_t - g_t-1|, |theta_t - theta_t-1|, |d|, 0-dim; previous_theta becomes theta."""
    # The kernel for L1 norms runs at a tenth of the speed of abs and sum on a CPU.
    buffer = scratch.take(0, x.average)
    same = x.gradient.dtype == buffer.dtype
    gradient = (torch.abs(x.gradient, out=buffer) if same else buffer.copy_(x.gradient).abs_()).sum()
    change = step = torch.zeros_like(gradient)
    if x.previous_gradient is not None:
        change = difference(x.gradient, x.previous_gradient, buffer).abs_().sum()
    drift = difference(x.theta, x.average, buffer).abs_().sum()
    if x.previous_theta is not None:
        step = difference(x.theta, x.previous_theta, buffer).abs_().sum()
        x.previous_theta.copy_(x.theta)
    return [gradient, change, step, drift]


def products(x: Operands, scratch: Scratch) -> list[Tensor]:
    """<d,d>, <g,d>, <dg,dtheta>, <dtheta,dtheta>, 0-dim; previous_theta becomes theta."""
    assert x.previous_theta is not None, "rules of inner products remember the weights"
    drift = difference(x.theta, x.average, scratch.take(0, x.average))
    drift_sq, slope = torch.dot(drift, drift), torch.dot(_widened(x.gradient, scratch.take(1, x.average)), drift)
    step = difference(x.theta, x.previous_theta, scratch.take(0, x.average))
    x.previous_theta.copy_(x.theta)
    bend = torch.zeros_like(slope)
    if x.previous_gradient is not None:
        bend = torch.dot(difference(x.gradient, x.previous_gradient, scratch.take(1, x.average)), step)
    return [drift_sq, slope, bend, torch.dot(step, step)]


def swept(x: Operands, sweep: Callable[[Operands, Scratch], list[Tensor]], scratch: Scratch) -> list[Tensor]:
    """The four sums of a whole tensor; those of its pieces are added up in fp64."""
    pieces = [sweep(piece, scratch) for piece in x.chunks()]
    if len(pieces) == 1:
        return pieces[0]
    return list(torch.stack([torch.stack(piece) for piece in pieces]).double().sum(0).unbind())
