"""What a scalar rule keeps of the tensors that it averages, and the sums that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lcia.ema.rules import Kind, ScalarRule
from lcia.ema.tracked import Tracked

SMALL = 1 << 14
"""Entries up to which tensors of equal size share a matrix on a CPU: one by one, calls would cost more than sums."""

MATRIX = 1 << 24
"""Entries of a shared matrix at most. On an accelerator, where launches cost most, tensors of any size share one."""

CHUNK = 1 << 16
"""Entries that a CPU handles at a time: six fp32 tensors of them lie in a second-level cache of 2 MB."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64 weights, else fp32: a small step is lost when it is added to a bf16 average."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pieces(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors of one size, on a CPU cut at the same entries."""
    if tensors[0].shape[-1] <= CHUNK or tensors[0].device.type != "cpu":
        return [tensors]
    return list(zip(*(torch.split(tensor, CHUNK, dim=-1) for tensor in tensors), strict=True))


@dataclass(frozen=True)
class Operands:
    """Tensors of equal size at one step, each [tensors, entries]; what the rule does not keep is None."""

    theta: Tensor
    gradient: Tensor
    average: Tensor
    previous_weights: Tensor | None = None
    previous_gradient: Tensor | None = None


def totals(x: Operands) -> Tensor:
    """[tensors, 4]: the sum of g, which is finite only where all of g is; the rest is 0."""
    return torch.nn.functional.pad(x.gradient.sum(-1, dtype=x.average.dtype)[:, None], (0, 3))


def norms(x: Operands) -> Tensor:
    """[tensors, 4]: |d|, |g|, |g_t - g_t-1|, |theta_t - theta_t-1| (0 where the weights are not kept)."""
    assert x.previous_gradient is not None, "rules of norms keep the gradients"
    # torch's kernel for L1 norms runs at a tenth of the speed of abs and sum on a CPU.
    gradient = x.gradient.to(x.average.dtype).abs().sum(-1)
    change = _renew(x.previous_gradient, x.gradient, x.average.dtype)
    drift = (x.theta - x.average).abs_().sum(-1)
    kept = x.previous_weights
    step = torch.zeros_like(drift) if kept is None else _renew(kept, x.theta, x.average.dtype)
    return torch.stack([drift, gradient, change, step], dim=1)


def products(x: Operands) -> Tensor:
    """[tensors, 4]: <d,d>, <g,d>, <dg,dtheta>, <dtheta,dtheta>."""
    assert x.previous_gradient is not None, "rules of products keep the gradients"
    assert x.previous_weights is not None, "and the weights"
    drift = x.theta - x.average
    slope, drift_sq = _inner(x.gradient.to(drift.dtype), drift), _inner(drift, drift)
    step = _difference(x.previous_weights, x.theta, drift.dtype)
    step_sq = _inner(step, step)
    bend = _inner(_difference(x.previous_gradient, x.gradient, drift.dtype), step)
    x.previous_weights.copy_(x.theta)
    x.previous_gradient.copy_(x.gradient)
    return torch.stack([drift_sq, slope, bend, step_sq], dim=1)


SUMS: dict[Kind, Callable[[Operands], Tensor]] = {"none": totals, "norms": norms, "products": products}


def _difference(kept: Tensor, now: Tensor, dtype: torch.dtype) -> Tensor:
    """kept - now in `dtype`; where that is the type of `kept`, in its place, which must be overwritten afterwards."""
    return kept.to(dtype).sub_(now)


def _renew(kept: Tensor, now: Tensor, dtype: torch.dtype) -> Tensor:
    """|now - kept| of each row (L1), [tensors]; then `now` is kept."""
    change = _difference(kept, now, dtype).abs_().sum(-1)
    # Now, while both are in the cache.
    kept.copy_(now)
    return change


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """<a,b> of each row, [tensors]."""
    # One long row is fastest with the kernel made for it; many short ones are cheaper together.
    return torch.dot(a.view(-1), b.view(-1)).view(1) if a.shape[0] == 1 else (a * b).sum(1)


class Buffers:
    """Tensors of equal size and type as the rows of matrices [tensors, entries], in a process's own part.

    `kept` holds them by the names of a checkpoint: `average`, theta* in fp32 or wider, and, where the rule needs them,
    `previous_weights` and `previous_gradient` in the tensors' type (or `held_as`).
    """

    def __init__(self, tracked: Tracked, places: list[int], rule: ScalarRule, held_as: torch.dtype | None) -> None:
        self.tracked, self.places, self.rule = tracked, places, rule
        theta = self._theta()
        self.kept = {"average": theta.to(wide(theta.dtype), copy=True)}
        if rule.needs_step:
            self.kept["previous_weights"] = theta.clone()
        if rule.kind != "none":
            self.kept["previous_gradient"] = torch.zeros_like(theta, dtype=held_as or theta.dtype)
        self._index = torch.tensor(places, device=theta.device)

    def _theta(self) -> Tensor:
        return _matrix([self.tracked.flat(place) for place in self.places])

    def measure(self, gradients: Sequence[Tensor | None], fresh: Tensor | None) -> Tensor:
        """The sums of this step, [tensors, 4]; then this step is the previous one for the tensors that are `fresh`.

        `gradients` and `fresh` are those of all tensors; None: all are fresh.
        """
        mine, average = [gradients[place] for place in self.places], self.kept["average"]
        if all(gradient is None for gradient in mine):
            return average.new_zeros(len(mine), 4)
        theta = self._theta()
        gradient = _matrix([torch.zeros_like(theta[0]) if g is None else g.reshape(-1) for g in mine])
        found = {"theta": theta, "gradient": gradient} if fresh is None else self._held(theta, gradient, fresh)
        found |= self.kept
        sums = [
            SUMS[self.rule.kind](Operands(**dict(zip(found, piece, strict=True)))) for piece in pieces(*found.values())
        ]
        # The sums of pieces are added up in fp64, so that a long tensor does not lose digits.
        return sums[0] if len(sums) == 1 else torch.stack(sums).double().sum(0)

    def _held(self, theta: Tensor, gradient: Tensor, fresh: Tensor) -> dict[str, Tensor]:
        """Weights and gradients, where a tensor is not fresh those that are kept: nothing uses the sums of its row."""
        rows = fresh[self._index, None]
        pairs = {"theta": (theta, "previous_weights"), "gradient": (gradient, "previous_gradient")}
        return {name: torch.where(rows, now, self.kept.get(kept, now)) for name, (now, kept) in pairs.items()}

    def move(self, weight: Tensor) -> None:
        """theta* += weight (theta - theta*), weight [all tensors] fp64; where it is 0, theta* stays as it is."""
        theta, average = self._theta(), self.kept["average"]
        if len(self.places) == 1 and weight.device.type == "cpu":
            # On a CPU a number is the faster weight.
            if share := float(weight[self.places[0]]):
                average.lerp_(theta.to(average.dtype), share)
            return
        shares = weight[self._index, None].to(average.dtype)
        # Where the share is 0 theta may be NaN, and 0 * NaN is NaN.
        average.lerp_(torch.where(shares > 0, theta, average), shares)


def _matrix(rows: list[Tensor]) -> Tensor:
    """[rows, entries]; a single row is not copied."""
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def grouped(tracked: Tracked) -> Iterator[list[int]]:
    """Places of the tensors that share matrices: equal in size and type, and small unless on an accelerator."""
    alike: dict[tuple[int, torch.dtype], list[int]] = {}
    for place in range(len(tracked)):
        theta = tracked.flat(place)
        alike.setdefault((theta.numel(), theta.dtype), []).append(place)
    for (size, _), places in alike.items():
        shared = size <= SMALL or tracked.device.type != "cpu"
        count = max(1, MATRIX // max(1, size)) if shared else 1
        for start in range(0, len(places), count):
            yield places[start : start + count]
