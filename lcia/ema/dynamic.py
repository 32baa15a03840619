"""The dynamic average as an object of its own: attach it to any torch optimizer. Needs torch alone.

average = DynamicEma(model.named_parameters(), rule=Fixed(beta=0.99))
average.attach(optimizer)
...                              # train as before
with average.swapped():          # the model holds theta* in here
    evaluate(model)
average.apply_()                 # and from here on
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.curvature import CurvatureAverage, Handling
from lcia.ema.hooks import attach
from lcia.ema.rules import Curvature, Fixed, Off, Official, Paper, Proximal, Rule
from lcia.ema.scalar import Options, ScalarAverage
from lcia.ema.sharding import is_dtensor, like, local
from lcia.ema.tracked import Named, Tracked

__all__ = ["Curvature", "DynamicEma", "Fixed", "Off", "Official", "Options", "Paper", "Proximal"]


class DynamicEma:
    """theta* of the given parameters under one of the rules of docs/method.md 2.

    Tied parameters count once; those that need no gradient are left out. With DDP every process computes the same
    beta from the reduced gradients; with FSDP2 give the parameters that fully_shard left. `old_curvature` is what
    `curvature()` returned after the adapter's last task (rule Curvature only). apply_, swapped, statistics and the
    states are collective calls where parameters are sharded.
    """

    def __init__(
        self,
        parameters: Named,
        rule: Rule,
        options: Options = Options(),  # noqa: B008 (frozen)
        old_curvature: Mapping[str, Tensor] | None = None,
    ) -> None:
        if old_curvature and not isinstance(rule, Curvature):
            raise ValueError(f"the rule {type(rule).__name__} has no use for old_curvature: leave it out")
        self.tracked = Tracked(parameters)
        self.engine: ScalarAverage | CurvatureAverage | None
        if isinstance(rule, Off):
            self.engine = None
        elif isinstance(rule, Curvature):
            handling = Handling(options.missing_gradient, options.kernels, rule.moment)
            self.engine = CurvatureAverage(self.tracked, rule, old_curvature or {}, handling)
        else:
            self.engine = ScalarAverage(self.tracked, rule, options)
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizer: Any) -> DynamicEma:
        """Follows the optimizer's real steps, through accelerate's wrapper too; refuses one that steps copies."""
        if self._handles:
            raise ValueError("this average follows an optimizer already: detach() it first")
        before = None
        if isinstance(self.engine, CurvatureAverage):
            self.engine.consolidation.moment.follow(optimizer)
            before = self.engine.before
        self._handles = attach(optimizer, self.tracked, before, self.engine.after if self.engine else None)
        return self

    def detach(self) -> None:
        """Stops following; theta* stays as it is."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def weights(self) -> dict[str, Tensor]:
        """theta* by name, in the parameters' shapes and distribution, in the average's precision."""
        return {
            name: like(self._average(place), parameter)
            for place, (name, parameter) in enumerate(zip(self.tracked.names, self.tracked.parameters, strict=True))
        }

    def _average(self, place: int) -> Tensor:
        return self.tracked.flat(place) if self.engine is None else self.engine.average(place)

    def curvature(self) -> dict[str, Tensor]:
        """F_old + F_t by name: give it to the adapter's next task (rule Curvature only)."""
        if not isinstance(self.engine, CurvatureAverage):
            raise ValueError("only the rule Curvature measures a curvature")
        self.engine.check()
        return self.engine.consolidation.total()

    @torch.no_grad()
    def apply_(self) -> None:
        """Puts theta* into the parameters, in place."""
        if self.engine is not None:
            self.engine.check()
        for place, parameter in enumerate(self.tracked.parameters):
            target = local(parameter)
            target.copy_(self._average(place).view(target.shape))

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The parameters hold theta* inside the block, and what they held before after it."""
        saved = [local(parameter).clone() for parameter in self.tracked.parameters]
        try:
            self.apply_()
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.tracked.parameters, saved, strict=True):
                    local(parameter).copy_(value)

    def statistics(self) -> dict[str, float]:
        """Figures of beta, counters and |theta - theta*| (L2); nothing is computed for them until they are read."""
        if self.engine is None:
            return {}
        return self.engine.statistics() | {"distance": self._distance()}

    @torch.no_grad()
    def _distance(self) -> float:
        squares = torch.zeros(len(self.tracked), 1, dtype=torch.float64, device=self.tracked.device)
        for place in range(len(self.tracked)):
            average = self._average(place)
            squares[place] = torch.linalg.vector_norm(self.tracked.flat(place) - average).double() ** 2
        return float(self.tracked.add_over_shards(squares).sum().sqrt())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything behind theta* as one flat dict of tensors; made of the live buffers, so write it at once."""
        if self.engine is None:
            return {}
        self.engine.check()
        return self.engine.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a state exactly; whole tensors and any sharding are accepted."""
        if self.engine is not None:
            with torch.no_grad():
                self.engine.load_state_dict(state)

    @property
    def sharded(self) -> bool:
        """Whether any parameter is a shard, so that reading is a collective call."""
        return any(is_dtensor(parameter) for parameter in self.tracked.parameters)
