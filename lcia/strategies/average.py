"""The dynamic average as a strategy of a run: one average per stage, theta* handed on at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lcia.ema import Curvature, DynamicEma, Options, Rule
from lcia.ema.sharding import whole
from lcia.protocols import LookBack, Strategy, Trained

FISHER = "fisher."
"""Prefix of the curvature of an adapter's tasks in what a stage keeps for the next one."""


def old_curvature(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """F_old by parameter name from what the adapter's last stage kept."""
    return {key.removeprefix(FISHER): value for key, value in kept.items() if key.startswith(FISHER)}


def kept_curvature(total: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a stage keeps: F_old + F_t by prefixed name, whole on every process, in one piece."""
    return {FISHER + name: whole(value).contiguous() for name, value in total.items()}


class EmaStrategy(Strategy):
    """theta* under one rule; for the rule Curvature the curvature goes on to the adapter's next stage."""

    def __init__(self, rule: Rule, options: Options) -> None:
        self.rule, self.options = rule, options
        self.average: DynamicEma | None = None

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        old = old_curvature(kept) if isinstance(self.rule, Curvature) else None
        self.average = DynamicEma(trained.parameters, self.rule, self.options, old).attach(optimizer)

    @property
    def started(self) -> DynamicEma:
        """The stage's average; an error before start()."""
        assert self.average is not None, "start() comes first"
        return self.average

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        average = self.started
        average.apply_()
        average.detach()
        return kept_curvature(average.curvature()) if isinstance(self.rule, Curvature) else {}

    def statistics(self) -> dict[str, float]:
        return self.started.statistics()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.started.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.started.load_state_dict(state)
