"""One sweep over a tensor for everything that a rule has to know of it."""

from __future__ import annotations

from collections.abc import Iterator
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


def add_norms(row: list[Tensor], x: Operands, scratch: Scratch) -> None:
    """Adds |g|, |g_t - g_t-1|, |theta_t - theta_t-1|, |d| to the row's cells; previous_theta becomes theta."""
    # The kernel for L1 norms runs at a tenth of the speed of abs and sum on a CPU.
    buffer = scratch.take(0, x.average)
    same = x.gradient.dtype == buffer.dtype
    row[0].add_((torch.abs(x.gradient, out=buffer) if same else buffer.copy_(x.gradient).abs_()).sum())
    if x.previous_gradient is not None:
        row[1].add_(difference(x.gradient, x.previous_gradient, buffer).abs_().sum())
    row[3].add_(difference(x.theta, x.average, buffer).abs_().sum())
    if x.previous_theta is not None:
        row[2].add_(difference(x.theta, x.previous_theta, buffer).abs_().sum())
        x.previous_theta.copy_(x.theta)


def add_products(row: list[Tensor], x: Operands, scratch: Scratch) -> None:
    """Adds <d,d>, <g,d>, <dg,dtheta>, <dtheta,dtheta> to the row's cells; previous_theta becomes theta."""
    drift = difference(x.theta, x.average, scratch.take(0, x.average))
    gradient = _widened(x.gradient, scratch.take(1, x.average))
    row[0].add_(torch.dot(drift, drift))
    row[1].add_(torch.dot(gradient, drift))
    if x.previous_theta is None:
        return
    step = difference(x.theta, x.previous_theta, scratch.take(0, x.average))
    x.previous_theta.copy_(x.theta)
    row[3].add_(torch.dot(step, step))
    if x.previous_gradient is not None:
        change = difference(x.gradient, x.previous_gradient, scratch.take(1, x.average))
        row[2].add_(torch.dot(change, step))
