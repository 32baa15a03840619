"""One sweep over tensors for everything that a rule needs to know about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Entries that a sweep on a CPU handles at a time: its scratch then stays in the cache."""


@dataclass(frozen=True)
class Operands:
    """Tensors of equal size at one step, each [tensors, entries]; what does not exist is None."""

    theta: Tensor
    average: Tensor
    gradient: Tensor
    previous_gradient: Tensor | None = None
    previous_theta: Tensor | None = None


Sweep = Callable[[Operands, "Scratch"], Tensor]


class Scratch:
    """Buffers in the average's precision, made once and as long as the longest piece."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, int], Tensor] = {}
        self._rows: dict[tuple[torch.dtype, int, torch.Size], tuple[Tensor, list[Tensor]]] = {}

    def take(self, rows: int, like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[rows, *like.shape] and its rows, with the type and device of `like`; zero where nothing was written."""
        key = like.dtype, rows, like.shape
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = self._view(rows, like)
        return found

    def _view(self, rows: int, like: Tensor) -> tuple[Tensor, list[Tensor]]:
        buffer = self._buffers.get((like.dtype, rows))
        if buffer is None or buffer.shape[1] < like.numel():
            buffer = self._buffers[like.dtype, rows] = like.new_zeros(rows, like.numel())
            # Views of the shorter buffer would keep it alive.
            self._rows = {key: value for key, value in self._rows.items() if key[:2] != (like.dtype, rows)}
        pieces = buffer[:, : like.numel()].view(rows, *like.shape)
        return pieces, list(pieces.unbind())


def pieces(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors of one size, cut at the same entries on a CPU, where they would not fit into the cache; whole on an
    accelerator, where launches cost more than memory."""
    if tensors[0].shape[-1] <= CHUNK or tensors[0].device.type != "cpu":
        return [tensors]
    return list(zip(*(torch.split(tensor, CHUNK, dim=-1) for tensor in tensors), strict=True))


def difference(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a - b in the precision of `out`, whatever that of a and b."""
    return torch.sub(a, b, out=out) if a.dtype == out.dtype else out.copy_(a).sub_(b)


def totals(x: Operands, scratch: Scratch) -> Tensor:
    """[tensors, 4]: the sum of g, which is finite only where all of g is; the rest is 0."""
    total = x.gradient.sum(-1, dtype=x.average.dtype)
    return torch.stack([torch.zeros_like(total), total, torch.zeros_like(total), torch.zeros_like(total)], dim=1)


def norms(x: Operands, scratch: Scratch) -> Tensor:
    """[tensors, 4]: |d|, |g|, |g_t - g_t-1|, |theta_t - theta_t-1|; previous_theta becomes theta."""
    # The kernel for L1 norms runs at a tenth of the speed of abs and sum on a CPU.
    count = 3 if x.previous_theta is None else 4
    buffer, rows = scratch.take(count, x.average)
    difference(x.theta, x.average, rows[0])
    rows[1].copy_(x.gradient)
    if x.previous_gradient is None:
        rows[2].zero_()
    else:
        difference(x.gradient, x.previous_gradient, rows[2])
    if x.previous_theta is not None:
        difference(x.theta, x.previous_theta, rows[3])
        x.previous_theta.copy_(x.theta)
    return _columns(buffer.abs_().sum(-1))


def products(x: Operands, scratch: Scratch) -> Tensor:
    """[tensors, 4]: <d,d>, <g,d>, <dg,dtheta>, <dtheta,dtheta>; previous_theta becomes theta."""
    assert x.previous_theta is not None, "rules of inner products remember the weights"
    drift, other = scratch.take(2, x.average)[1]
    difference(x.theta, x.average, drift)
    slope = _inner(x.gradient if x.gradient.dtype == drift.dtype else other.copy_(x.gradient), drift)
    drift_sq = _inner(drift, drift)
    step = difference(x.theta, x.previous_theta, drift)
    x.previous_theta.copy_(x.theta)
    bend = torch.zeros_like(slope)
    if x.previous_gradient is not None:
        bend = _inner(difference(x.gradient, x.previous_gradient, other), step)
    return torch.stack([drift_sq, slope, bend, _inner(step, step)], dim=1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """<a,b> of each row, [tensors]."""
    # One long row is fastest with the kernel made for it; many short ones are cheaper together.
    return torch.dot(a[0], b[0])[None] if len(a) == 1 else (a * b).sum(1)


def _columns(rows: Tensor) -> Tensor:
    """[3 or 4, tensors] as [tensors, 4]; what was not measured is 0."""
    return (rows if len(rows) == 4 else torch.cat([rows, torch.zeros_like(rows[:1])])).T
