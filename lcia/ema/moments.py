"""F_t, the curvature of the task at hand: squared gradients of its own, or those that Adam keeps anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lcia.ema.buffers import wide
from lcia.ema.hooks import Step, raw_optimizer
from lcia.ema.sharding import local
from lcia.ema.tracked import Tracked


class OwnMoment:
    """The mean of g*g over the steps made so far, g being the task's own gradient after clipping."""

    def __init__(self, tracked: Tracked) -> None:
        flats = [tracked.flat(place) for place in range(len(tracked))]
        self.squares = [torch.zeros_like(theta, dtype=wide(theta.dtype)) for theta in flats]

    def follow(self, optimizer: Any) -> None:
        """Nothing: it needs no optimizer."""

    def add(self, place: int, gradient: Tensor, step: Step, made: Tensor) -> None:
        """One step's g*g of one tensor, [entries]; nothing where the device skips the step."""
        squares = self.squares[place]
        gradient = gradient.to(squares.dtype)
        if step.scale is not None:
            gradient = gradient / step.scale.to(gradient.device)
        if step.found_inf is not None:
            gradient = torch.where(made > 0, gradient, 0.0)
        squares.addcmul_(gradient, gradient)

    def current(self, place: int, steps: Tensor) -> Tensor:
        """F_t of one tensor, [entries]; `steps` made so far, 0-dim."""
        return self.squares[place] / steps.clamp(min=1).to(self.squares[place].dtype)

    def finite(self, place: int) -> Tensor:
        return torch.isfinite(self.squares[place]).all()


class AdamMoment:
    """Adam's second moment without its bias: v / (1 - beta2^t). It weighs late steps more and has seen the pull too."""

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

    def add(self, place: int, gradient: Tensor, step: Step, made: Tensor) -> None:
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

    def finite(self, place: int) -> Tensor:
        return torch.isfinite(self.current(place, torch.ones(()))).all()
