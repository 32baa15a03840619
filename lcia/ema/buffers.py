"""What an average holds of the tensors it follows: one by one, or small ones of equal size as the rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lcia.ema.previous_gradient import Keeping, PreviousGradient
from lcia.ema.sharding import local
from lcia.ema.sweeps import Operands, Scratch, Sweep, pieces
from lcia.ema.tracked import Tracked

SMALL = 1 << 14
"""Entries up to which tensors of equal size are handled together: one by one, calls would cost more than the sums."""

SAVED = ("average", "previous_weights", "previous_gradient")
"""What a checkpoint calls the buffers of a tensor."""

Share: TypeAlias = float | Tensor


@dataclass(frozen=True)
class Needs:
    """What a rule asks its parts to measure, and whether they remember the last weights and the last gradients."""

    sweep: Sweep
    weights: bool
    gradients: bool
    keeping: Keeping


def wide(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64 weights, else fp32: a small step is lost when it is added to a bf16 average."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Whole:
    """One tensor. Everything is this process's part, [entries].

    On a CPU a step costs what it loads and stores. Where the last weights are kept anyway, theta* takes its step
    together with the next sweep, which loads both, or when it is read: the same numbers for a quarter less memory
    traffic.
    """

    def __init__(self, tracked: Tracked, place: int, needs: Needs, scratch: Scratch) -> None:
        self.tracked, self.places, self.needs, self._scratch = tracked, [place], needs, scratch
        theta = tracked.flat(place)
        self.star = theta.to(wide(theta.dtype), copy=True)
        self.weights = theta.clone() if needs.weights else None
        self.previous = PreviousGradient(needs.keeping)
        self._postponed = 0.0
        self._current = False

    @property
    def theta(self) -> Tensor:
        return self.tracked.flat(self.places[0])

    def measure(self, gradients: Sequence[Tensor | None], made: Tensor | None) -> Tensor:
        """The sweep's sums [1, 4]; afterwards weights and gradient are those of this step."""
        gradient = gradients[0]
        self._current = gradient is not None
        if gradient is None:
            return torch.zeros(1, 4, dtype=self.star.dtype, device=self.star.device)
        sums = [self._swept(piece) for piece in self._pieces(gradient)]
        self._postponed = 0.0
        if self.needs.gradients:
            self.previous.keep(gradient, made)
        # The sums of pieces are added up in fp64, so that a long tensor does not lose digits.
        return sums[0] if len(sums) == 1 else torch.stack(sums).double().sum(0)

    def _swept(self, piece: Operands) -> Tensor:
        if self._postponed and piece.previous_theta is not None:
            piece.average.lerp_(piece.previous_theta.to(piece.average.dtype), self._postponed)
        return self.needs.sweep(piece, self._scratch)

    def _pieces(self, gradient: Tensor) -> list[Operands]:
        found = {"theta": self.theta, "average": self.star, "gradient": gradient.reshape(-1),
                 "previous_gradient": self.previous.get(gradient), "previous_theta": self.weights}  # fmt: skip
        there = {name: value[None] for name, value in found.items() if value is not None}
        return [Operands(**dict(zip(there, piece, strict=True))) for piece in pieces(*there.values())]

    def move(self, weight: Tensor, shares: Sequence[Share]) -> None:
        """theta* += share (theta - theta*)."""
        share = shares[self.places[0]]
        self._settle()
        if isinstance(share, float) and self.weights is not None and self._current:
            self._postponed = share
        # A share of 0 is skipped, not multiplied: 0 * NaN is NaN.
        elif isinstance(share, Tensor) or share != 0:
            theta = self.theta.to(self.star.dtype)
            self.star.lerp_(theta, share.to(theta.dtype) if isinstance(share, Tensor) else share)

    def _settle(self) -> None:
        if self._postponed and self.weights is not None:
            self.star.lerp_(self.weights.to(self.star.dtype), self._postponed)
        self._postponed = 0.0

    def average(self, row: int) -> Tensor:
        self._settle()
        return self.star

    def saved(self, row: int) -> dict[str, Tensor]:
        """Its buffers as a checkpoint names them."""
        gradient = self.previous.value()
        found = {"average": self.average(row)}
        found |= {} if self.weights is None else {"previous_weights": self.weights}
        return found if gradient is None else found | {"previous_gradient": gradient.contiguous()}

    def load(self, row: int, values: Mapping[str, Tensor]) -> None:
        self._postponed = 0.0
        self.star.copy_(values["average"])
        if self.weights is not None:
            self.weights.copy_(values["previous_weights"])
        if "previous_gradient" in values:
            self.previous.load(values["previous_gradient"])


class Pack:
    """Small tensors of equal size as rows of matrices [tensors, entries]; their gradients are copied anyway."""

    def __init__(self, tracked: Tracked, places: list[int], needs: Needs, scratch: Scratch) -> None:
        self.tracked, self.places, self.needs, self._scratch = tracked, places, needs, scratch
        first = tracked.flat(places[0])
        self._theta = torch.empty(len(places), first.numel(), dtype=wide(first.dtype), device=first.device)
        self._gradient = torch.zeros_like(self._theta)
        self._rows = torch.tensor(places, device=first.device)
        self._views = [self._shaped(buffer) for buffer in (self._theta, self._gradient)]
        self._take_theta()
        self.star = self._theta.clone()
        self.weights = self._theta.clone() if needs.weights else None
        held = torch.bfloat16 if needs.keeping == "bfloat16" else self._theta.dtype
        self.held = torch.zeros_like(self._theta, dtype=held) if needs.gradients else None

    def _shaped(self, buffer: Tensor) -> list[Tensor]:
        parts = [local(self.tracked.parameters[place]) for place in self.places]
        return [row.view(part.shape) for row, part in zip(buffer, parts, strict=True)]

    def _take_theta(self) -> None:
        torch._foreach_copy_(self._views[0], [local(self.tracked.parameters[place]) for place in self.places])

    def measure(self, gradients: Sequence[Tensor | None], made: Tensor | None) -> Tensor:
        """The sweep's sums [tensors, 4]; afterwards weights and gradients are those of this step."""
        there = [row for row, gradient in enumerate(gradients) if gradient is not None]
        self._take_theta()
        if there:  # torch refuses to copy an empty list
            torch._foreach_copy_([self._views[1][row] for row in there], [g for g in gradients if g is not None])
        remembered = None if len(there) == len(gradients) else self._remembered(there)
        x = Operands(self._theta, self.star, self._gradient, self.held, self.weights)
        sums = self.needs.sweep(x, self._scratch)
        if self.held is not None:
            self.held.copy_(self._gradient if made is None else torch.where(made > 0, self._gradient, self.held))
        if remembered is not None:
            self._restore(remembered)
        return sums

    def _remembered(self, there: list[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Rows without a gradient, and what they keep from the step when they had one."""
        absent = torch.ones(len(self.places), dtype=torch.bool)
        absent[there] = False
        rows = absent.nonzero().flatten().to(self.star.device)
        held, weights = (None if kept is None else kept[rows] for kept in (self.held, self.weights))
        return rows, held, weights

    def _restore(self, remembered: tuple[Tensor, Tensor | None, Tensor | None]) -> None:
        rows, held, weights = remembered
        if self.held is not None and held is not None:
            self.held[rows] = held
        if self.weights is not None and weights is not None:
            self.weights[rows] = weights

    def move(self, weight: Tensor, shares: Sequence[Share]) -> None:
        """theta* += share (theta - theta*) in each row."""
        self._take_theta()
        share = weight[self._rows, None].to(self.star.dtype)
        # A row with a share of 0 is replaced by its own average: 0 * NaN is NaN.
        self.star.lerp_(torch.where(share > 0, self._theta, self.star), share)

    def average(self, row: int) -> Tensor:
        return self.star[row]

    def saved(self, row: int) -> dict[str, Tensor]:
        """A row's buffers as a checkpoint names them."""
        found = {"average": self.star[row]}
        found |= {} if self.weights is None else {"previous_weights": self.weights[row]}
        return found if self.held is None else found | {"previous_gradient": self.held[row]}

    def load(self, row: int, values: Mapping[str, Tensor]) -> None:
        self.star[row] = values["average"]
        if self.weights is not None:
            self.weights[row] = values["previous_weights"]
        if self.held is not None and "previous_gradient" in values:
            self.held[row] = values["previous_gradient"].to(self.held.dtype)


Part: TypeAlias = Whole | Pack


def one_by_one(tracked: Tracked, needs: Needs) -> list[Whole]:
    """A part for each tensor, in their order."""
    scratch = Scratch()
    return [Whole(tracked, place, needs, scratch) for place in range(len(tracked))]


def packed(tracked: Tracked, needs: Needs) -> list[Part]:
    """A part for each large tensor, and one for all small ones of equal size and type."""
    scratch = Scratch()
    by_size: dict[tuple[int, torch.dtype], list[int]] = {}
    for place in range(len(tracked)):
        theta = tracked.flat(place)
        by_size.setdefault((theta.numel(), theta.dtype), []).append(place)
    parts: list[Part] = []
    for (size, _), places in by_size.items():
        if len(places) > 1 and 0 < size <= SMALL:
            parts.append(Pack(tracked, places, needs, scratch))
        else:
            parts += [Whole(tracked, place, needs, scratch) for place in places]
    return parts


class TorchSweep:
    """Measures and moves in plain torch, part by part."""

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        self.parts = parts
        order = [place for part in parts for place in part.places]
        self._to_places = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=device)

    def measure(self, gradients: Sequence[Tensor | None], made: Tensor | None) -> Tensor:
        """The sums of every tensor in the order of the parameters, [tensors, 4] fp64."""
        rows = [part.measure([gradients[place] for place in part.places], made) for part in self.parts]
        return torch.cat(rows).double()[self._to_places]

    def move(self, weight: Tensor) -> None:
        """theta* += weight (theta - theta*) for every tensor; weight [tensors] fp64, 0: left alone."""
        # On a CPU a number is the faster weight; on an accelerator reading it would wait for the device.
        shares: list[Share] = weight.tolist() if weight.device.type == "cpu" else list(weight.unbind())
        for part in self.parts:
            part.move(weight, shares)
