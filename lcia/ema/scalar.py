"""The average with one balance weight per tensor, layer or model (rules fixed, paper, official, proximal)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lcia.ema.buffers import SAVED, Needs, Part, TorchSweep, one_by_one, packed
from lcia.ema.hooks import Step
from lcia.ema.previous_gradient import Keeping
from lcia.ema.rules import ScalarRule, UnitSums, Weighed
from lcia.ema.sharding import like, part_of
from lcia.ema.sweeps import norms, products, totals
from lcia.ema.tally import Outcome, Tally
from lcia.ema.tracked import Missing, Scope, Tracked, refuse_broken, units_of
from lcia.ema.triton_launch import Kernels, TritonSweep, wanted

SWEEPS = {"none": totals, "norms": norms, "products": products}


@dataclass(frozen=True)
class Options:
    """How a rule is applied. `beta_min`, `beta_max`: bounds; `scope`: what shares one beta; `start`: theta* begins as
    the weights before the first step, or after it; `missing_gradient`: what a step without one means (skip: that
    tensor's average stays); `previous_gradient`: auto keeps it by reference where that is safe; `kernels`: auto takes
    Triton on a GPU and plain torch elsewhere."""

    beta_min: float = 0.0
    beta_max: float = 1.0
    scope: Scope = "tensor"
    start: Literal["previous", "first_step"] = "previous"
    missing_gradient: Missing = "error"
    previous_gradient: Keeping = "auto"
    kernels: Kernels = "auto"


class ScalarAverage:
    """theta* of every tracked tensor, moved once per optimizer step."""

    def __init__(self, tracked: Tracked, rule: ScalarRule, options: Options) -> None:
        self.tracked, self.rule, self.options = tracked, rule, options
        needs = Needs(SWEEPS[rule.kind], rule.needs_step, rule.kind != "none", options.previous_gradient)
        self.parts: Sequence[Part]
        self.sweep: TorchSweep | TritonSweep
        if wanted(options.kernels, tracked.device):
            self.parts = one_by_one(tracked, needs)
            self.sweep = TritonSweep(self.parts, rule.kind, tracked.device)
        else:
            self.parts = packed(tracked, needs)
            self.sweep = TorchSweep(self.parts, tracked.device)
        self._at = {place: (part, row) for part in self.parts for row, place in enumerate(part.places)}
        self.tally = Tally(len(tracked), tracked.device)
        self._make_buffers()

    def _make_buffers(self) -> None:
        tracked, device = self.tracked, self.tracked.device
        self._units = torch.tensor(units_of(tracked.names, self.options.scope), device=device)
        # Sums over a unit as a product of matrices: index_add_ on a GPU adds in an order of its own.
        self._members = torch.nn.functional.one_hot(self._units).double().T.contiguous()
        self._entries = torch.tensor(tracked.entries(), dtype=torch.float64, device=device)[:, None]
        self.memory = torch.zeros(len(self._members), 2, dtype=torch.float64, device=device)
        self.seen = torch.zeros(len(tracked), dtype=torch.bool, device=device)
        self._present = torch.ones(len(tracked), dtype=torch.bool, device=device)

    def before(self, step: Step) -> None:
        """Nothing: a scalar rule looks at weights and gradients after the step."""

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Measures, weighs, moves theta* and remembers; no host sync, at most one small all-reduce."""
        gradients, absent = self.tracked.gradients(self.options.missing_gradient)
        made = step.made(self.tracked.device)
        present = self._mask(absent)
        sums = self.tracked.add_over_shards(self.sweep.measure(gradients, None if step.found_inf is None else made))
        outcome = self._outcome(sums, present, made)
        self.sweep.move(self._weight(outcome, made))
        self.seen |= present & (made > 0)
        self.tally.record(outcome, made)

    def _mask(self, absent: list[int]) -> Tensor:
        # A mask is sent to the device only in a step that lacks a gradient.
        if not absent:
            return self._present
        missing = torch.zeros(len(self.tracked), dtype=torch.bool)
        missing[absent] = True
        return ~missing.to(self.tracked.device)

    def _outcome(self, sums: Tensor, present: Tensor, made: Tensor) -> Outcome:
        options = self.options
        broken = present & (made > 0) & ~torch.isfinite(sums).all(1)
        applied = (present if options.missing_gradient == "skip" else self._present) & (made > 0) & ~broken
        raw = self._weigh(sums, applied & self.seen)
        beta = raw.beta.clamp(options.beta_min, options.beta_max)
        at_min, at_max = raw.beta <= options.beta_min, raw.beta >= options.beta_max
        if options.start == "first_step":
            applied = applied & (self.tally.steps[0] > 0)
        return Outcome(beta, raw.fallback, at_min, at_max, applied, ~present & (made > 0), broken)

    def _weigh(self, sums: Tensor, known: Tensor) -> Weighed:
        """The rule's beta and fallback, [tensors]; tensors without a gradient or a last one add nothing to a unit."""
        rows = torch.cat([sums, self._entries, torch.ones_like(self._entries)], dim=1)
        rows = torch.where(known[:, None], rows, 0.0)
        values = rows if self.options.scope == "tensor" else self._members @ rows
        unit = UnitSums(values[:, :4], values[:, 4].clamp(min=1), values[:, 5] > 0, self.memory)
        raw = self.rule.weigh(unit)
        return Weighed(raw.beta[self._units], raw.fallback[self._units])

    def _weight(self, outcome: Outcome, made: Tensor) -> Tensor:
        """Share of the new weights [tensors]: 0 where nothing is applied, 1 at a start that follows the first step."""
        weight = torch.where(outcome.applied, 1 - outcome.beta, 0.0)
        if self.options.start == "first_step":
            weight = torch.where((self.tally.steps[0] == 0) & (made > 0), 1.0, weight)
        return weight

    def average(self, place: int) -> Tensor:
        """theta* of one tensor, this process's part [entries]."""
        part, row = self._at[place]
        return part.average(row)

    def statistics(self) -> dict[str, float]:
        """The tally's figures; an error if a gradient was not finite (the only wait for the device)."""
        self.check()
        return self.tally.summary()

    def check(self) -> None:
        """Raises if a gradient was not finite: nothing that follows would mean anything."""
        refuse_broken([self.tracked.names[place] for place in self.tally.broken()])

    def state_dict(self) -> dict[str, Tensor]:
        """All buffers by flat names, sharded as their parameters are; counters whole."""
        state = {f"tally.{key}": value for key, value in self.tally.state_dict().items()}
        state |= {"memory": self.memory, "seen": self.seen}
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            part, row = self._at[place]
            state |= {f"{key}.{name}": like(value, parameter) for key, value in part.saved(row).items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what state_dict() gave, on any number of processes."""
        prefix = "tally."
        self.tally.load_state_dict({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})
        self.memory.copy_(state["memory"])
        self.seen.copy_(state["seen"])
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            part, row = self._at[place]
            keys = [key for key in SAVED if f"{key}.{name}" in state]
            part.load(row, {key: part_of(state[f"{key}.{name}"], parameter) for key in keys})
