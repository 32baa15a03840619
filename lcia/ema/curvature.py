"""Elementwise protection: what earlier tasks need of each entry, against what this task needs (docs/method.md 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lcia.ema.buffers import wide
from lcia.ema.hooks import Step
from lcia.ema.moments import AdamMoment, OwnMoment
from lcia.ema.rules import Curvature, Moment, curvature_weight
from lcia.ema.sharding import like, part_of
from lcia.ema.sweeps import Scratch, difference, pieces
from lcia.ema.tally import QUANTILES
from lcia.ema.tracked import Missing, Tracked, refuse_broken
from lcia.ema.triton_launch import Kernels, Launcher, Row, wanted

BINS = 1000
"""Quantiles of an elementwise beta are read from a histogram with this many bins over [0, 1]."""


@dataclass(frozen=True)
class Handling:
    """What a missing gradient means, whether the passes are kernels, and where F_t comes from."""

    missing: Missing
    kernels: Kernels = "auto"
    moment: Moment = "own"


class Consolidation:
    """F_t, F_old and the pull towards theta_0. Each holds this process's part of a tensor, [entries] in fp32.

    The task's own gradient is squared for F_t before the pull is added to it; both happen before the optimizer steps.
    """

    def __init__(self, tracked: Tracked, pull: float, old: Mapping[str, Tensor], handling: Handling) -> None:
        self.tracked, self.pull, self.missing = tracked, pull, handling.missing
        unknown = sorted(set(old) - set(tracked.names))
        if unknown:
            raise ValueError(f"the kept curvature names {unknown[:3]}, which are not trained here")
        parts = list(zip(tracked.names, tracked.parameters, strict=True))
        self.moment = AdamMoment(tracked) if handling.moment == "adam" else OwnMoment(tracked)
        self.old = [part_of(old[name], p).to(wide(p.dtype)) if name in old else None for name, p in parts]
        kept = enumerate(self.old)
        self.origin = [None if f is None else tracked.flat(place).to(f.dtype, copy=True) for place, f in kept]
        self.steps = torch.zeros(2, dtype=torch.float64, device=tracked.device)
        self.absent = 0
        sizes = [tracked.flat(place).numel() for place in range(len(tracked))]
        self.launcher = Launcher(sizes, tracked.device) if wanted(handling.kernels, tracked.device) else None
        self._one = torch.ones((), dtype=torch.float64, device=tracked.device)
        self._strength = self._one * pull
        self._scratch = Scratch()

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Adds g*g to F_t, then the pull to the gradient."""
        gradients, absent = self.tracked.gradients(self.missing)
        made = step.made(self.tracked.device)
        self.steps += torch.stack([made, 1 - made])
        self.absent += len(absent)
        if self.launcher is not None:
            self._launch(self.launcher, gradients, step, made)
            return
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                self.moment.add(place, gradient.reshape(-1), step, made)
        if self.pull:
            self._pull(gradients, step)

    def _launch(self, launcher: Launcher, gradients: list[Tensor | None], step: Step, made: Tensor) -> None:
        """Both in one pass over all tensors (Triton)."""
        from lcia.ema import triton_kernels

        found = {place: (g, g.reshape(-1)) for place, g in enumerate(gradients) if g is not None}
        rows = [self._row(place, found[place][1] if place in found else None) for place in range(len(gradients))]
        scale = self._one if step.scale is None else step.scale.to(launcher.device)
        squares = bool(self.moment.squares)
        typed = {"THETA": "theta", "GRADIENT": "gradient", "WIDE": "average" if squares else "old"}
        launcher.launch(triton_kernels.consolidate_kernel, rows, typed, made, scale, self._strength, SQUARES=squares)
        for gradient, flat in found.values():
            _put_back(gradient, flat)

    def _row(self, place: int, gradient: Tensor | None) -> Row:
        squares = self.moment.squares[place] if self.moment.squares else None
        columns = {"theta": self.tracked.flat(place), "average": squares, "gradient": gradient}
        if self._pulled(place):
            columns |= {"old": self.old[place], "origin": self.origin[place]}
        return Row(columns)

    def _pulled(self, place: int) -> bool:
        # A parameter without a gradient is one that the optimizer leaves where it is.
        return bool(self.pull) and self.old[place] is not None and self.tracked.parameters[place].grad is not None

    def _pull(self, gradients: list[Tensor | None], step: Step) -> None:
        for place, gradient in enumerate(gradients):
            old, origin = self.old[place], self.origin[place]
            if gradient is None or old is None or origin is None or not self._pulled(place):
                continue
            flat = gradient.reshape(-1)
            for theta, start, kept, piece in pieces(self.tracked.flat(place), origin, old, flat):
                force = difference(theta, start, self._scratch.take(1, start)[1][0])
                if step.scale is not None:
                    force *= step.scale.to(force.device)
                piece.addcmul_(force, kept, value=self.pull)
            _put_back(gradient, flat)

    def current(self, place: int) -> Tensor:
        """F_t of one tensor, [entries]."""
        return self.moment.current(place, self.steps[0])

    def total(self) -> dict[str, Tensor]:
        """F_old + F_t by name, in the parameters' shapes: the F_old of the adapter's next task."""
        result = {}
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            old, current = self.old[place], self.current(place)
            result[name] = like(current if old is None else current + old, parameter)
        return result

    @torch.no_grad()
    def check(self) -> None:
        """Raises if a gradient was not finite (waits for the device). A collective call where tensors are sharded:
        all workers raise, also those whose own shard is finite."""
        broken = torch.stack([~self.moment.finite(place) for place in range(len(self.tracked))])
        counts = self.tracked.add_over_shards(broken[:, None].double()).flatten().tolist()
        refuse_broken([name for name, count in zip(self.tracked.names, counts, strict=True) if count])

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """`pull_norm`: |pull F_old (theta - theta_0)|, what the next step is pulled with (L2); `pull_ratio`: that over
        the root mean square of the task's own |g| so far. A collective call where tensors are sharded.

        Both are made of what is kept anyway, so a step costs nothing more.
        """
        squares = torch.zeros(len(self.tracked), 2, dtype=torch.float64, device=self.tracked.device)
        for place in range(len(self.tracked)):
            squares[place, 0] = self._force(place)
            squares[place, 1] = self.current(place).double().sum()
        pull, gradient = self.tracked.add_over_shards(squares).sum(0).sqrt().tolist()
        made, skipped = self.steps.tolist()
        counts = {"steps": made, "skipped": skipped, "missing": float(self.absent)}
        return counts | {"pull_norm": pull, "pull_ratio": pull / gradient if gradient else 0.0}

    def _force(self, place: int) -> Tensor | float:
        """The sum of the squared entries of one tensor's pull."""
        old, origin = self.old[place], self.origin[place]
        if not self.pull or old is None or origin is None:
            return 0.0
        norm: Tensor = torch.linalg.vector_norm(self.pull * old * (self.tracked.flat(place) - origin))
        return norm.double().square()

    def state_dict(self) -> dict[str, Tensor]:
        """F_t (unless it is the optimizer's) and, where there is one, theta_0; F_old comes from the stage before and is
        given again at a start."""
        state = {"steps": self.steps, "absent": torch.tensor(self.absent)}
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            if self.moment.squares:
                state[f"squares.{name}"] = like(self.moment.squares[place], parameter)
            origin = self.origin[place]
            if origin is not None:
                state[f"origin.{name}"] = like(origin, parameter)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])
        self.absent = int(state["absent"])
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            if self.moment.squares:
                self.moment.squares[place].copy_(part_of(state[f"squares.{name}"], parameter))
            origin = self.origin[place]
            if origin is not None:
                origin.copy_(part_of(state[f"origin.{name}"], parameter))


def _put_back(gradient: Tensor, flat: Tensor) -> None:
    """A gradient that does not lie in one piece was pulled in a copy, `flat`."""
    if not gradient.is_contiguous():
        gradient.copy_(flat.view(gradient.shape))


class CurvatureAverage:
    """theta* = beta theta_0 + (1 - beta) theta-bar, formed only when it is read."""

    def __init__(self, tracked: Tracked, rule: Curvature, old: Mapping[str, Tensor], handling: Handling) -> None:
        self.tracked, self.rule = tracked, rule
        self.consolidation = Consolidation(tracked, rule.pull, old, handling)
        flats = [tracked.flat(place) for place in range(len(tracked))]
        self.short = [theta.to(wide(theta.dtype), copy=True) for theta in flats]

    def before(self, step: Step) -> None:
        self.consolidation.before(step)

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Moves theta-bar, by nothing where the device skipped the step."""
        share: float | Tensor = 1 - self.rule.short_average
        if step.found_inf is not None:
            share = share * step.made(self.tracked.device)
        if (launcher := self.consolidation.launcher) is not None:
            weight = torch.ones(len(self.tracked), dtype=torch.float64, device=self.tracked.device) * share
            launcher.move([(self.tracked.flat(place), short) for place, short in enumerate(self.short)], weight)
            return
        for place, short in enumerate(self.short):
            theta = self.tracked.flat(place).to(short.dtype)
            short.lerp_(theta, share.to(short.dtype) if isinstance(share, Tensor) else share)

    def weight(self, place: int) -> Tensor | None:
        """beta of each entry of one tensor, [entries]; None where no earlier task knows it."""
        old = self.consolidation.old[place]
        if old is None:
            return None
        return curvature_weight(old, self.consolidation.current(place), self.rule.lambda_)

    @torch.no_grad()
    def average(self, place: int) -> Tensor:
        """theta* of one tensor, this process's part [entries]."""
        beta, origin = self.weight(place), self.consolidation.origin[place]
        short = self.short[place]
        return short if beta is None or origin is None else torch.lerp(short, origin, beta)

    def check(self) -> None:
        self.consolidation.check()

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Mean and quantiles of beta over all entries (histogram, 1e-3 wide); retain is the mean: what is left of the
        old weights if theta* is read now. A collective call where tensors are sharded."""
        self.check()
        counts, sums = self._histogram()
        total = counts.sum()
        mean = float(sums[0] / total)
        figures = {f"beta_q{round(100 * q):02d}": _quantile(counts, q) for q in QUANTILES}
        shares = {"fallback": 0.0, "at_beta_min": float(sums[1] / total), "at_beta_max": float(sums[2] / total)}
        return figures | {"beta": mean, "retain": mean} | shares | self.consolidation.statistics()

    def _histogram(self) -> tuple[Tensor, Tensor]:
        """Counts [BINS] of beta and (sum, zeros, ones) [3], over all tensors and their shards."""
        rows = torch.zeros(len(self.tracked), BINS + 3, dtype=torch.float64, device=self.tracked.device)
        for place, short in enumerate(self.short):
            beta = self.weight(place)
            if beta is None:
                beta = torch.zeros_like(short)
            places = (beta * BINS).long().clamp_(max=BINS - 1)
            rows[place, :BINS] = torch.bincount(places, minlength=BINS)
            rows[place, BINS:] = torch.stack([beta.double().sum(), (beta <= 0).sum(), (beta >= 1).sum()])
        summed = self.tracked.add_over_shards(rows).sum(0)
        return summed[:BINS], summed[BINS:]

    def state_dict(self) -> dict[str, Tensor]:
        return self.consolidation.state_dict() | dict(self._shorts())

    def _shorts(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter, short in zip(self.tracked.names, self.tracked.parameters, self.short, strict=True):
            yield f"short.{name}", like(short, parameter)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.consolidation.load_state_dict(state)
        for name, parameter, short in zip(self.tracked.names, self.tracked.parameters, self.short, strict=True):
            short.copy_(part_of(state[f"short.{name}"], parameter))


def _quantile(counts: Tensor, q: float) -> float:
    """Lower edge of the bin in which the share q is reached."""
    reached = counts.cumsum(0) >= q * counts.sum()
    return int(reached.long().argmax()) / BINS
