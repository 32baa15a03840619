"""The average with one balance weight per tensor, layer or model (rules fixed, paper, official, proximal)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lcia.strategies.hooks import Step
from lcia.strategies.previous import Keeping, PreviousGradients
from lcia.strategies.rules import ScalarRule, UnitSums, Weighed
from lcia.strategies.sums import Operands, Scratch, norms, products, swept
from lcia.strategies.tally import Outcome, Tally
from lcia.strategies.tracked import Missing, Scope, Tracked, like, part_of, units_of


@dataclass(frozen=True)
class Options:
    """How a rule is applied. `beta_min`, `beta_max`: bounds; `scope`: what shares one beta; `start`: theta* begins as
    the weights before the first step, or after it; `missing_gradient`: what a step without one means (skip: that
    tensor's average stays); `previous_gradient`: auto keeps it by reference where that is safe."""

    beta_min: float = 0.0
    beta_max: float = 1.0
    scope: Scope = "tensor"
    start: Literal["previous", "first_step"] = "previous"
    missing_gradient: Missing = "error"
    previous_gradient: Keeping = "auto"


def average_of(parameter: Tensor) -> Tensor:
    """A copy [entries] of this process's part, in fp32 (fp64 for fp64 weights): bf16 averages do not arrive."""
    part = parameter.detach().reshape(-1)
    return part.to(torch.float64 if part.dtype == torch.float64 else torch.float32, copy=True)


class ScalarAverage:
    """theta* of every tracked tensor, moved once per optimizer step."""

    def __init__(self, tracked: Tracked, rule: ScalarRule, options: Options) -> None:
        self.tracked, self.rule, self.options = tracked, rule, options
        self.averages = [average_of(tracked.flat(place)) for place in range(len(tracked))]
        self.weights = [tracked.flat(place).clone() for place in range(len(tracked))] if rule.needs_step else []
        self.previous = PreviousGradients(len(tracked), options.previous_gradient)
        self.tally = Tally(len(tracked), tracked.device)
        self._make_buffers()

    def _make_buffers(self) -> None:
        tracked, device = self.tracked, self.tracked.device
        self._units = torch.tensor(units_of(tracked.names, self.options.scope), device=device)
        self._entries = torch.tensor(tracked.entries(), dtype=torch.float64, device=device)
        self.memory = torch.zeros(int(self._units.max()) + 1, 2, dtype=torch.float64, device=device)
        self.seen = torch.zeros(len(tracked), dtype=torch.bool, device=device)
        self._nothing = torch.zeros(len(tracked), 4, dtype=torch.float64, device=device)
        self._zero = torch.zeros((), device=device)
        self._present = torch.ones(len(tracked), dtype=torch.bool, device=device)
        self._scratch = Scratch()

    def before(self, step: Step) -> None:
        """Nothing: a scalar rule looks at weights and gradients after the step."""

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Measures, weighs, moves theta* and remembers; no host sync, at most one small all-reduce."""
        gradients, absent = self.tracked.gradients(self.options.missing_gradient)
        made = step.made(self.tracked.device)
        sums = self._measure(gradients)
        outcome = self._outcome(sums, self._mask(absent), made)
        self._move(self._weight(outcome, made))
        self._remember(gradients, None if step.found_inf is None else made)
        self.tally.record(outcome, made)

    def _mask(self, absent: list[int]) -> Tensor:
        # Only a step that lacks a gradient pays for sending its mask to the device.
        if not absent:
            return self._present
        missing = torch.zeros(len(self.tracked), dtype=torch.bool)
        missing[absent] = True
        return ~missing.to(self.tracked.device)

    def _measure(self, gradients: list[Tensor | None]) -> Tensor:
        if self.rule.kind == "none":
            return self._nothing
        sweep = norms if self.rule.kind == "norms" else products
        cells: list[Tensor] = []
        for place, gradient in enumerate(gradients):
            if gradient is None:
                cells += [self._zero] * 4
            else:
                cells += swept(self._operands(place, gradient), sweep, self._scratch)
        # Small tensors are added up in one go: 0-dim additions one by one would cost more than the sweep.
        return self.tracked.add_over_shards(torch.stack(cells).double().view(-1, 4))

    def _operands(self, place: int, gradient: Tensor) -> Operands:
        theta, average = self.tracked.flat(place), self.averages[place]
        previous_theta = self.weights[place] if self.weights else None
        return Operands(theta, average, gradient.reshape(-1), self.previous.get(place, gradient), previous_theta)

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
        rows = torch.cat([sums, self._entries[:, None], torch.ones_like(self._entries)[:, None]], dim=1)
        rows = torch.where(known[:, None], rows, 0.0)
        values = rows.new_zeros(len(self.memory), 6).index_add_(0, self._units, rows)
        unit = UnitSums(values[:, :4], values[:, 4].clamp(min=1), values[:, 5] > 0, self.memory)
        raw = self.rule.weigh(unit)
        return Weighed(raw.beta[self._units], raw.fallback[self._units])

    def _weight(self, outcome: Outcome, made: Tensor) -> Tensor:
        """Share of the new weights [tensors]: 0 where nothing is applied, 1 at a start that follows the first step."""
        weight = torch.where(outcome.applied, 1 - outcome.beta, 0.0)
        if self.options.start == "first_step":
            weight = torch.where((self.tally.steps[0] == 0) & (made > 0), 1.0, weight)
        return weight

    def _move(self, weight: Tensor) -> None:
        # On a CPU a number is the faster weight; on an accelerator reading it would wait for the device.
        weights = weight.tolist() if weight.device.type == "cpu" else list(weight.unbind())
        for place, share in enumerate(weights):
            # A tensor that is left alone may hold NaN, which times 0 is NaN.
            if isinstance(share, Tensor) or share != 0:
                average = self.averages[place]
                theta = self.tracked.flat(place).to(average.dtype)
                average.lerp_(theta, share.to(average.dtype) if isinstance(share, Tensor) else share)

    def _remember(self, gradients: list[Tensor | None], made: Tensor | None) -> None:
        if self.rule.kind == "none":
            return
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                self.previous.keep(place, gradient, made)
        absent = [place for place, gradient in enumerate(gradients) if gradient is None]
        self.seen |= self._mask(absent) & (True if made is None else made > 0)

    def average(self, place: int) -> Tensor:
        """theta* of one tensor, this process's part [entries]."""
        return self.averages[place]

    def statistics(self) -> dict[str, float]:
        """The tally's figures; an error if a gradient was not finite (the only wait for the device)."""
        self.check()
        return self.tally.summary()

    def check(self) -> None:
        """Raises if a gradient was not finite: nothing that follows would mean anything."""
        broken = [self.tracked.names[place] for place in self.tally.broken()]
        if broken:
            raise FloatingPointError(
                f"gradients of {len(broken)} parameters were not finite ({', '.join(broken[:3])} ...)"
            )

    def state_dict(self) -> dict[str, Tensor]:
        """All buffers by flat names, sharded as their parameters are; counters whole."""
        state = {f"tally.{key}": value for key, value in self.tally.state_dict().items()}
        state |= {"memory": self.memory, "seen": self.seen}
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            for key, part in self._parts(place):
                state[f"{key}.{name}"] = like(part, parameter)
        return state

    def _parts(self, place: int) -> Iterator[tuple[str, Tensor]]:
        yield "average", self.averages[place]
        if self.weights:
            yield "previous_weights", self.weights[place]
        gradient = self.previous.value(place)
        if gradient is not None:
            yield "previous_gradient", gradient.contiguous()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what state_dict() gave, on any number of processes."""
        prefix = "tally."
        self.tally.load_state_dict({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})
        self.memory.copy_(state["memory"])
        self.seen.copy_(state["seen"])
        for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True)):
            self.averages[place].copy_(part_of(state[f"average.{name}"], parameter))
            if self.weights:
                self.weights[place].copy_(part_of(state[f"previous_weights.{name}"], parameter))
            if f"previous_gradient.{name}" in state:
                self.previous.load(place, part_of(state[f"previous_gradient.{name}"], parameter))
