"""The dynamic average as an object of its own: attach it to any torch optimizer.

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
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.curvature import CurvatureAverage
from lcia.ema.pema import Pema, PemaAverage
from lcia.ema.rules import Curvature, ScalarRule
from lcia.ema.scalar import Options, ScalarAverage
from lcia.ema.sharding import local
from lcia.ema.tracked import Named, Tracked

Rule: TypeAlias = ScalarRule | Curvature | Pema


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
        self.tracked = Tracked(parameters)
        self.engine: ScalarAverage | CurvatureAverage | PemaAverage
        if isinstance(rule, Curvature):
            self.engine = CurvatureAverage(self.tracked, rule, old_curvature or {}, options.missing_gradient)
        elif old_curvature:
            raise ValueError(f"the rule {type(rule).__name__} has no use for old_curvature: leave it out")
        elif isinstance(rule, Pema):
            self.engine = PemaAverage(self.tracked, rule, options.missing_gradient)
        else:
            self.engine = ScalarAverage(self.tracked, rule, options)
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizer: Any) -> DynamicEma:
        """Follows the optimizer's real steps, through accelerate's wrapper too; refuses one that steps copies."""
        if self._handles:
            raise ValueError("this average follows an optimizer already: detach() it first")
        self._handles = self.engine.attach(optimizer)
        return self

    def detach(self) -> None:
        """Stops following; theta* stays as it is."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def weights(self) -> dict[str, Tensor]:
        """theta* by name, in the parameters' shapes and distribution, in the average's precision."""
        return self.tracked.named(list(self.engine.averages()))

    def curvature(self) -> dict[str, Tensor]:
        """F_old + F_t by name: give it to the adapter's next task (rule Curvature only)."""
        return self.engine.curvature()

    @torch.no_grad()
    def apply_(self) -> None:
        """Puts theta* into the parameters, in place."""
        self.engine.check()
        for parameter, average in zip(self.tracked.parameters, self.engine.averages(), strict=True):
            target = local(parameter)
            target.copy_(average.view(target.shape))

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
        return self.engine.statistics() | {"distance": self._distance()}

    @torch.no_grad()
    def _distance(self) -> float:
        squares = torch.zeros(len(self.tracked), 1, dtype=torch.float64, device=self.tracked.device)
        for place, average in enumerate(self.engine.averages()):
            squares[place] = torch.linalg.vector_norm(self.tracked.flat(place) - average).double() ** 2
        return float(self.tracked.add_over_shards(squares).sum().sqrt())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything behind theta* as one flat dict of tensors; made of the live buffers, so write it at once."""
        self.engine.check()
        return self.engine.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a state exactly; whole tensors and any sharding are accepted."""
        self.engine.load_state_dict(state)
