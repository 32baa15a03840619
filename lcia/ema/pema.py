"""The authors' next rule: squared gradients for the curvature, and a matrix in the place of norms.

    beta = (g + 1) (d' g^2 + epsilon I)^-1        [m, n], d = theta - theta*, g^2 entry by entry; weighs the OLD average

MAGE (2026), as its code computes it for each tensor of LoRA, with epsilon = 1e-5 and 0.99 where the inverse fails. What
differs here, and why:
- There beta is used whatever its value; where it leaves (0, 1) the average would run away, so `fallback` stands for it,
  entry by entry, as in the paper's rule. With gradients clipped to 1, d' g^2 is far below epsilon and beta far above 1:
  then the fallback decides, and the rule is a constant.
- There it runs before the optimizer's step, and theta* starts as the weights of the first step. Here, as for all rules,
  after the step and from the weights before it.
- There the average overwrites the weights whenever a checkpoint is saved. Here it does at the task's end.
- A tensor of one dimension, which LoRA has none of, is a matrix of one column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.buffers import wide
from lcia.ema.hooks import Step, attach
from lcia.ema.sharding import like, part_of, whole
from lcia.ema.tracked import Missing, Tracked, refuse_broken


@dataclass(frozen=True)
class Pema:
    """`fallback` is beta outside (0, 1)."""

    fallback: float
    epsilon: float


def pema_beta(gradient: Tensor, drift: Tensor, epsilon: float) -> Tensor:
    """(g + 1) (d' g^2 + epsilon I)^-1, [m, n] in fp64; NaN where there is no inverse."""
    g, d = gradient.double(), drift.double()
    raised, curved = g + 1, g.square()
    if len(g) >= g.shape[1]:
        return _over(raised, d.T @ curved, epsilon)
    # Woodbury: a matrix [m, m] is inverted instead of [n, n], which for LoRA's A is as wide as the layer.
    return (raised - _over(raised @ d.T, curved @ d.T, epsilon) @ curved) / epsilon


def _over(rows: Tensor, matrix: Tensor, epsilon: float) -> Tensor:
    """rows (matrix + epsilon I)^-1"""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    found, failed = torch.linalg.solve_ex(matrix + epsilon * eye, rows, left=False)
    return torch.where(failed > 0, torch.nan, found)


class PemaAverage:
    """theta* of every tracked tensor, moved entry by entry once per optimizer step."""

    def __init__(self, tracked: Tracked, rule: Pema, missing: Missing) -> None:
        self.tracked, self.rule, self.missing = tracked, rule, missing
        flats = [tracked.flat(place) for place in range(len(tracked))]
        self.average = [theta.to(wide(theta.dtype), copy=True) for theta in flats]
        self.steps = torch.zeros(2, dtype=torch.float64, device=tracked.device)
        self.absent = 0
        # Of each tensor: mean of beta in its last step; uses, fallbacks (in steps) and broken gradients so far.
        self.counts = torch.zeros(len(tracked), 4, dtype=torch.float64, device=tracked.device)

    def attach(self, optimizer: Any) -> list[RemovableHandle]:
        """Follows the optimizer's steps; remove the handles to stop."""
        return attach(optimizer, self.tracked, None, self.after)

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Moves theta*, by nothing where the device skipped the step. A collective call where tensors are sharded."""
        gradients, absent = self.tracked.gradients(self.missing)
        made = step.made(self.tracked.device)
        self.steps += torch.stack([made, 1 - made])
        self.absent += len(absent)
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                self._move(place, gradient.reshape(-1), made)

    def _move(self, place: int, gradient: Tensor, made: Tensor) -> None:
        parameter, average = self.tracked.parameters[place], self.average[place]
        theta = self.tracked.flat(place).to(average.dtype)
        g, d = (whole(like(part, parameter)) for part in (gradient.to(average.dtype), theta - average))
        beta = pema_beta(g.reshape(len(g), -1), d.reshape(len(d), -1), self.rule.epsilon)
        # Comparisons with NaN are false.
        inside = (beta > 0) & (beta < 1)
        beta = torch.where(inside, beta, self.rule.fallback)
        finite = torch.isfinite(g).all()
        used = made * finite
        share = (1 - part_of(beta.view(parameter.shape), parameter)).to(average.dtype)
        # Where the step is skipped theta may be NaN, and 0 * NaN is NaN.
        average.copy_(torch.where(used > 0, average.lerp(theta, share), average))
        outside = 1 - inside.double().mean()
        mean = torch.where(used > 0, beta.mean(), self.counts[place, 0])
        self.counts[place, 0] = mean
        self.counts[place, 1:] += torch.stack([used, used * outside, made * (1 - finite.double())])

    def averages(self) -> Iterator[Tensor]:
        """theta* of each tensor, this process's part [entries]."""
        yield from self.average

    def check(self) -> None:
        """Raises if a gradient was not finite: nothing that follows would mean anything."""
        broken = torch.nonzero(self.counts[:, 3]).flatten().tolist()
        refuse_broken([self.tracked.names[place] for place in broken])

    def curvature(self) -> dict[str, Tensor]:
        """An error: this rule measures none."""
        raise ValueError("only the rule Curvature measures a curvature")

    def statistics(self) -> dict[str, float]:
        """`beta`: mean over the entries of a tensor, and over tensors, in the last step; `fallback`: share of entries
        and steps in which the formula left (0, 1)."""
        self.check()
        beta, fallback = self.counts[:, 0].mean(), self.counts[:, 2].sum() / self.counts[:, 1].sum().clamp_min(1)
        made, skipped = self.steps.tolist()
        figures = {"beta": float(beta), "fallback": float(fallback)}
        return figures | {"steps": made, "skipped": skipped, "missing": float(self.absent)}

    def state_dict(self) -> dict[str, Tensor]:
        """theta*, sharded as its parameters are, and the counters."""
        state = {"steps": self.steps, "counts": self.counts, "absent": torch.tensor(self.absent)}
        return state | self.tracked.named(self.average, "average.")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what state_dict() gave, on any number of processes."""
        self.steps.copy_(state["steps"])
        self.counts.copy_(state["counts"])
        self.absent = int(state["absent"])
        self.tracked.load(self.average, "average.", state)
