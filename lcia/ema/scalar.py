"""The average with one balance weight per tensor, layer or model (rules fixed, paper, official, proximal)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.buffers import Buffers, grouped
from lcia.ema.hooks import Step, attach
from lcia.ema.rules import ScalarRule, UnitSums, Weighed
from lcia.ema.tally import Tally
from lcia.ema.tracked import Missing, Scope, Tracked, refuse_broken, units_of


@dataclass(frozen=True)
class Options:
    """How a rule is applied. `beta_min`, `beta_max`: bounds; `scope`: what shares one beta; `start`: theta* begins as
    the weights before the first step, or after it; `missing_gradient`: what a step without one means (skip: that
    tensor's average stays); `previous_gradient`: how the gradients of the last step are held."""

    beta_min: float = 0.0
    beta_max: float = 1.0
    scope: Scope = "tensor"
    start: Literal["previous", "first_step"] = "previous"
    missing_gradient: Missing = "error"
    previous_gradient: Literal["copy", "bfloat16"] = "copy"


class ScalarAverage:
    """theta* of every tracked tensor, moved once per optimizer step."""

    def __init__(self, tracked: Tracked, rule: ScalarRule, options: Options) -> None:
        self.tracked, self.rule, self.options, device = tracked, rule, options, tracked.device
        held_as = torch.bfloat16 if options.previous_gradient == "bfloat16" else None
        self.buffers = [Buffers(tracked, places, rule, held_as) for places in grouped(tracked)]
        places = [place for buffers in self.buffers for place in buffers.places]
        self._order = sorted(range(len(places)), key=places.__getitem__)
        self._in_order = torch.tensor(self._order, device=device)
        units = torch.tensor(units_of(tracked.names, options.scope))
        self._units = units.to(device)
        # Sums over a unit as a product of matrices: index_add_ on a GPU adds in an order of its own.
        self._members = torch.nn.functional.one_hot(units).double().T.contiguous().to(device)
        self._entries = torch.tensor(tracked.entries(), dtype=torch.float64, device=device)[:, None]
        self.memory = torch.zeros(len(self._members), 2, dtype=torch.float64, device=device)
        self.seen = torch.zeros(len(tracked), dtype=torch.bool, device=device)
        self._all = torch.ones(len(tracked), dtype=torch.bool, device=device)
        self.tally = Tally(len(tracked), device)

    def attach(self, optimizer: Any) -> list[RemovableHandle]:
        """Follows the optimizer's steps; remove the handles to stop."""
        return attach(optimizer, self.tracked, None, self.after)

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Measures, weighs, moves theta* and counts; no host sync, at most one small all-reduce."""
        gradients, absent = self.tracked.gradients(self.options.missing_gradient)
        made = step.made(self.tracked.device)
        present = self._present(absent) & (made > 0)
        # A missing gradient that counts as zero takes part.
        taking_part = present if self.options.missing_gradient == "skip" else self._all & (made > 0)
        sums = self._measure(gradients, None if not absent and step.found_inf is None else taking_part)
        broken = present & ~torch.isfinite(sums).all(1)
        applied = taking_part & ~broken
        raw = self._weigh(sums, applied & self.seen)
        low, high = self.options.beta_min, self.options.beta_max
        beta = raw.beta.clamp(low, high)
        used = self._move(beta, applied, made)
        self.seen |= present
        events = [used, raw.fallback & used, (raw.beta <= low) & used, (raw.beta >= high) & used]
        self.tally.record(beta, torch.stack([*events, ~present & (made > 0), broken], dim=1), made)

    def _move(self, beta: Tensor, applied: Tensor, made: Tensor) -> Tensor:
        """theta* = beta theta* + (1 - beta) theta where `applied`; returns that mask, empty in a step that is only the
        start of the average."""
        weight = torch.where(applied, 1 - beta, 0.0)
        if self.options.start == "first_step":
            first = self.tally.steps[0] == 0
            applied, weight = applied & ~first, torch.where(first & (made > 0), 1.0, weight)
        # Backwards: what was measured last is still in the cache.
        for buffers in reversed(self.buffers):
            buffers.move(weight)
        return applied

    def _present(self, absent: list[int]) -> Tensor:
        # A mask is sent to the device only in a step that lacks a gradient.
        if not absent:
            return self._all
        present = torch.ones(len(self.tracked), dtype=torch.bool)
        present[absent] = False
        return present.to(self.tracked.device)

    def _measure(self, gradients: list[Tensor | None], fresh: Tensor | None) -> Tensor:
        """The sums of the whole tensors in the order of the parameters, [tensors, 4] fp64."""
        rows = [buffers.measure(gradients, fresh) for buffers in self.buffers]
        return self.tracked.add_over_shards(torch.cat(rows).double()[self._in_order])

    def _weigh(self, sums: Tensor, known: Tensor) -> Weighed:
        """The rule's beta and fallback, [tensors]; tensors without a gradient or a last one add nothing to a unit."""
        rows = torch.cat([sums, self._entries, torch.ones_like(self._entries)], dim=1)
        rows = torch.where(known[:, None], rows, 0.0)
        values = rows if self.options.scope == "tensor" else self._members @ rows
        unit = UnitSums(values[:, :4], values[:, 4].clamp(min=1), values[:, 5] > 0, self.memory)
        raw = self.rule.weigh(unit)
        return Weighed(raw.beta[self._units], raw.fallback[self._units])

    def averages(self) -> Iterator[Tensor]:
        """theta* of each tensor, this process's part [entries]."""
        yield from self._kept("average")

    def _kept(self, key: str) -> list[Tensor]:
        rows = [row for buffers in self.buffers for row in buffers.kept[key]]
        return [rows[number] for number in self._order]

    def check(self) -> None:
        """Raises if a gradient was not finite: nothing that follows would mean anything."""
        refuse_broken([self.tracked.names[place] for place in self.tally.broken()])

    def statistics(self) -> dict[str, float]:
        """The tally's figures; an error if a gradient was not finite (the only wait for the device)."""
        self.check()
        return self.tally.summary()

    def curvature(self) -> dict[str, Tensor]:
        """An error: a scalar rule measures none."""
        raise ValueError("only the rule Curvature measures a curvature")

    def state_dict(self) -> dict[str, Tensor]:
        """All buffers by flat names, sharded as their parameters are; counters whole."""
        state = {f"tally.{key}": value for key, value in self.tally.state_dict().items()}
        state |= {"memory": self.memory, "seen": self.seen}
        for key in self.buffers[0].kept:
            state |= self.tracked.named(self._kept(key), f"{key}.")
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what state_dict() gave, on any number of processes."""
        prefix = "tally."
        self.tally.load_state_dict({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})
        self.memory.copy_(state["memory"])
        self.seen.copy_(state["seen"])
        for key in self.buffers[0].kept:
            parts = self._kept(key)
            # What earlier versions saved lacks the gradients of tensors that had none yet.
            lacking = self.tracked.named(parts, f"{key}.") if key == "previous_gradient" else {}
            self.tracked.load(parts, f"{key}.", lacking | dict(state))
