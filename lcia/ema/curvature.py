"""Elementwise protection: what earlier tasks need of each entry, against what this task needs (docs/method.md 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.buffers import pieces, wide
from lcia.ema.hooks import Step, attach, raw_optimizer
from lcia.ema.rules import Curvature, Moment, curvature_weight
from lcia.ema.sharding import local, part_of
from lcia.ema.tally import QUANTILES
from lcia.ema.tracked import Missing, Tracked, refuse_broken

BINS = 1000
"""Quantiles of an elementwise beta are read from a histogram with this many bins over [0, 1]."""


class OwnMoment:
    """F_t as the mean of g*g over the steps made so far, g being the task's own gradient after clipping."""

    def __init__(self, tracked: Tracked) -> None:
        flats = [tracked.flat(place) for place in range(len(tracked))]
        self.squares = [torch.zeros_like(theta, dtype=wide(theta.dtype)) for theta in flats]

    def follow(self, optimizer: Any) -> None:
        """Nothing: it needs no optimizer."""

    def add(self, place: int, gradient: Tensor, step: Step) -> None:
        """One step's g*g of one tensor, [entries]; nothing where the device skips the step."""
        squares = self.squares[place]
        gradient = gradient.to(squares.dtype)
        if step.scale is not None:
            gradient = gradient / step.scale.to(gradient.device)
        if step.found_inf is not None:
            gradient = torch.where(step.made(gradient.device) > 0, gradient, 0.0)
        squares.addcmul_(gradient, gradient)

    def current(self, place: int, steps: Tensor) -> Tensor:
        """F_t of one tensor, [entries]; `steps` made so far, 0-dim."""
        return self.squares[place] / steps.clamp(min=1).to(self.squares[place].dtype)


class AdamMoment:
    """F_t as Adam's second moment without its bias, v / (1 - beta2^t). It weighs late steps more and has seen the pull
    too."""

    def __init__(self, tracked: Tracked) -> None:
        self.tracked = tracked
        self.squares: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._beta2: dict[int, float] = {}

    def follow(self, optimizer: Any) -> None:
        """Whose moments to read.

        Raises:
            ValueError: the optimizer keeps none.
        """
        raw = raw_optimizer(optimizer)
        if not isinstance(raw, torch.optim.Adam):
            raise ValueError(
                f"moment='adam' reads the second moment of Adam or AdamW, which {type(raw).__name__} does not keep: "
                "use moment='own'"
            )
        self._optimizer = raw
        self._beta2 = {id(p): group["betas"][1] for group in raw.param_groups for p in group["params"]}

    def add(self, place: int, gradient: Tensor, step: Step) -> None:
        """Nothing: the optimizer adds it."""

    def current(self, place: int, steps: Tensor) -> Tensor:
        """F_t of one tensor, [entries]; zeros before the first step."""
        assert self._optimizer is not None, "follow() comes first"
        parameter = self.tracked.parameters[place]
        theta, state = self.tracked.flat(place), self._optimizer.state.get(parameter)
        if not state:
            return torch.zeros_like(theta, dtype=wide(theta.dtype))
        made = torch.as_tensor(state["step"], dtype=torch.float64, device=theta.device)
        unbiased = 1 - self._beta2[id(parameter)] ** made
        return local(state["exp_avg_sq"]).reshape(-1).to(wide(theta.dtype)) / unbiased.to(wide(theta.dtype))


class Known(NamedTuple):
    """What earlier tasks left of one tensor: F_old and theta_0, [entries] in fp32."""

    curvature: Tensor
    origin: Tensor


class Consolidation:
    """F_t, F_old and the pull towards theta_0, each in this process's part of a tensor.

    The task's own gradient is squared for F_t before the pull is added to it; both happen before the optimizer steps.
    `old` is F_old by name, `missing` what a missing gradient means, `moment` where F_t comes from.
    """

    def __init__(
        self, tracked: Tracked, pull: float, old: Mapping[str, Tensor], missing: Missing, moment: Moment = "own"
    ) -> None:
        self.tracked, self.pull, self.missing = tracked, pull, missing
        unknown = sorted(set(old) - set(tracked.names))
        if unknown:
            raise ValueError(f"the kept curvature names {unknown[:3]}, which are not trained here")
        self.moment = AdamMoment(tracked) if moment == "adam" else OwnMoment(tracked)
        self.known = [self._known(place, old.get(name)) for place, name in enumerate(tracked.names)]
        self.steps = torch.zeros(2, dtype=torch.float64, device=tracked.device)
        self.absent = 0

    def _known(self, place: int, old: Tensor | None) -> Known | None:
        if old is None:
            return None
        theta = self.tracked.flat(place)
        curvature = part_of(old, self.tracked.parameters[place]).to(wide(theta.dtype))
        return Known(curvature, theta.to(wide(theta.dtype), copy=True))

    def attach(self, optimizer: Any) -> list[RemovableHandle]:
        """Acts before each of the optimizer's steps; remove the handles to stop."""
        self.moment.follow(optimizer)
        return attach(optimizer, self.tracked, self.before, None)

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Adds g*g to F_t, then the pull to the gradient."""
        gradients, absent = self.tracked.gradients(self.missing)
        made = step.made(self.tracked.device)
        self.steps += torch.stack([made, 1 - made])
        self.absent += len(absent)
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                self.moment.add(place, gradient.reshape(-1), step)
                self._pull(place, gradient, step)

    def _pull(self, place: int, gradient: Tensor, step: Step) -> None:
        known = self.known[place]
        # A parameter without a gradient is one that the optimizer leaves where it is.
        if not self.pull or known is None or self.tracked.parameters[place].grad is None:
            return
        flat = gradient.reshape(-1)
        for theta, origin, curvature, piece in pieces(self.tracked.flat(place), known.origin, known.curvature, flat):
            force = theta - origin
            if step.scale is not None:
                force *= step.scale.to(force.device)
            piece.addcmul_(force, curvature, value=self.pull)
        if not gradient.is_contiguous():  # then `flat` is a copy
            gradient.copy_(flat.view(gradient.shape))

    def current(self, place: int) -> Tensor:
        """F_t of one tensor, [entries]."""
        return self.moment.current(place, self.steps[0])

    def total(self) -> dict[str, Tensor]:
        """F_old + F_t by name, in the parameters' shapes: the F_old of the adapter's next task."""
        current = [self.current(place) for place in range(len(self.tracked))]
        pairs = zip(self.known, current, strict=True)
        return self.tracked.named([f if known is None else f + known.curvature for known, f in pairs])

    @torch.no_grad()
    def check(self) -> None:
        """Raises if a gradient was not finite (waits for the device). A collective call where tensors are sharded:
        all workers raise, also those whose own shard is finite."""
        broken = torch.stack([~torch.isfinite(self.current(place)).all() for place in range(len(self.tracked))])
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
        known = self.known[place]
        if not self.pull or known is None:
            return 0.0
        drift = self.tracked.flat(place) - known.origin
        norm: Tensor = torch.linalg.vector_norm(self.pull * known.curvature * drift)
        return norm.double().square()

    def _kept(self) -> dict[str, list[Tensor | None]]:
        """Buffers by their prefix in a state; F_old comes from the stage before and is given again at a start."""
        origins = [None if known is None else known.origin for known in self.known]
        return {"squares.": list(self.moment.squares) or [None] * len(self.tracked), "origin.": origins}

    def state_dict(self) -> dict[str, Tensor]:
        """F_t (unless it is the optimizer's) and, where there is one, theta_0."""
        state = {"steps": self.steps, "absent": torch.tensor(self.absent)}
        for prefix, parts in self._kept().items():
            state |= self.tracked.named(parts, prefix)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what state_dict() gave, on any number of processes."""
        self.steps.copy_(state["steps"])
        self.absent = int(state["absent"])
        for prefix, parts in self._kept().items():
            self.tracked.load(parts, prefix, state)


class CurvatureAverage:
    """theta* = beta theta_0 + (1 - beta) theta-bar, formed only when it is read."""

    def __init__(self, tracked: Tracked, rule: Curvature, old: Mapping[str, Tensor], missing: Missing) -> None:
        self.tracked, self.rule = tracked, rule
        self.consolidation = Consolidation(tracked, rule.pull, old, missing, rule.moment)
        flats = [tracked.flat(place) for place in range(len(tracked))]
        self.short = [theta.to(wide(theta.dtype), copy=True) for theta in flats]

    def attach(self, optimizer: Any) -> list[RemovableHandle]:
        """Follows the optimizer's steps; remove the handles to stop."""
        return [*self.consolidation.attach(optimizer), *attach(optimizer, self.tracked, None, self.after)]

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Moves theta-bar, by nothing where the device skipped the step."""
        share: float | Tensor = 1 - self.rule.short_average
        if step.found_inf is not None:
            share = share * step.made(self.tracked.device)
        for place, short in enumerate(self.short):
            theta = self.tracked.flat(place).to(short.dtype)
            short.lerp_(theta, share.to(short.dtype) if isinstance(share, Tensor) else share)

    def weight(self, place: int) -> Tensor | None:
        """beta of each entry of one tensor, [entries]; None where no earlier task knows it."""
        known = self.consolidation.known[place]
        if known is None:
            return None
        return curvature_weight(known.curvature, self.consolidation.current(place), self.rule.lambda_)

    @torch.no_grad()
    def averages(self) -> Iterator[Tensor]:
        """theta* of each tensor, this process's part [entries]."""
        for place, (short, known) in enumerate(zip(self.short, self.consolidation.known, strict=True)):
            beta = self.weight(place)
            yield short if beta is None or known is None else torch.lerp(short, known.origin, beta)

    def check(self) -> None:
        """Raises if a gradient was not finite (a collective call where tensors are sharded)."""
        self.consolidation.check()

    def curvature(self) -> dict[str, Tensor]:
        """F_old + F_t by name; an error if a gradient was not finite."""
        self.check()
        return self.consolidation.total()

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Mean and quantiles of beta over all entries (histogram, 1e-3 wide); retain is the mean: what is left of the
        old weights if theta* is read now. A collective call where tensors are sharded."""
        self.check()
        counts, sums = self._histogram()
        total = counts.sum()
        mean = float(sums[0] / total)
        figures = {name: _quantile(counts, q) for name, q in QUANTILES.items()}
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
        """The consolidation's state and theta-bar, sharded as their parameters are."""
        return self.consolidation.state_dict() | self.tracked.named(self.short, "short.")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what state_dict() gave, on any number of processes."""
        self.consolidation.load_state_dict(state)
        self.tracked.load(self.short, "short.", state)


def _quantile(counts: Tensor, q: float) -> float:
    """Lower edge of the bin in which the share q is reached."""
    reached = counts.cumsum(0) >= q * counts.sum()
    return int(reached.long().argmax()) / BINS
