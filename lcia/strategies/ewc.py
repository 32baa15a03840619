"""Elastic weight consolidation: the pull towards the old tasks' weights alone, theta* is theta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.curvature import Consolidation
from lcia.ema.tracked import Missing, Tracked
from lcia.protocols import LookBack, Strategy, Trained
from lcia.strategies.average import kept_curvature, old_curvature


class EwcStrategy(Strategy):
    """Adds pull * F_old (theta - theta_0) to each step's gradient, with the F_old of the rule Curvature."""

    def __init__(self, pull: float, missing: Missing) -> None:
        self.pull, self.missing = pull, missing
        self.consolidation: Consolidation | None = None
        self._handles: list[RemovableHandle] = []

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.consolidation = Consolidation(Tracked(trained.parameters), self.pull, old_curvature(kept), self.missing)
        self._handles = self.consolidation.attach(optimizer)

    @property
    def started(self) -> Consolidation:
        """The stage's curvature; an error before start()."""
        assert self.consolidation is not None, "start() comes first"
        return self.consolidation

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self._handles:
            handle.remove()
        self.started.check()
        return kept_curvature(self.started.total())

    def statistics(self) -> dict[str, float]:
        self.started.check()
        return self.started.statistics()

    def state_dict(self) -> dict[str, Any]:
        self.started.check()
        return dict(self.started.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.started.load_state_dict(state)
