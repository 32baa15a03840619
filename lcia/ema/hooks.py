"""Attaching to an optimizer: the only moment at which new weights and their gradients exist together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.tracked import Tracked


@dataclass(frozen=True)
class Step:
    """What a GradScaler leaves on a fused optimizer: `found_inf` > 0 says that the kernel skips this step, `scale` is
    the factor still on the gradients before it. Both stay on the device; None: an ordinary step."""

    found_inf: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def of(cls, optimizer: Any) -> Step:
        return cls(getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None))

    def made(self, device: torch.device) -> Tensor:
        """1 where the step changes the weights, 0 where it is skipped; fp64, 0-dim."""
        if self.found_inf is None:
            return torch.ones((), dtype=torch.float64, device=device)
        return (self.found_inf.reshape(()).to(device) == 0).double()


Hook = Callable[[Step], None]


def raw_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside accelerate's wrapper."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{type(optimizer).__name__} is not a torch optimizer, so its steps cannot be followed")
    return optimizer


def _check_held(optimizer: torch.optim.Optimizer, tracked: Tracked) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    strangers = [n for n, p in zip(tracked.names, tracked.parameters, strict=True) if id(p) not in held]
    if strangers:
        raise ValueError(
            f"the optimizer does not hold {len(strangers)} of the parameters ({', '.join(strangers[:3])} ...). Make "
            "the average from the parameters that the optimizer steps: after fully_shard, not before. DeepSpeed ZeRO "
            "steps flat copies of its own and is not supported: use DDP or FSDP2 (fully_shard)"
        )


def attach(optimizer: Any, tracked: Tracked, before: Hook | None, after: Hook | None) -> list[RemovableHandle]:
    """Calls `before` and `after` around each real step of the optimizer; remove the handles to stop."""
    raw = raw_optimizer(optimizer)
    _check_held(raw, tracked)

    handles = []
    if before is not None:
        handles.append(raw.register_step_pre_hook(partial(_call_before, before)))
    if after is not None:
        handles.append(raw.register_step_post_hook(partial(_call_after, after)))
    return handles


def _call_before(act: Hook, stepped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    # args[0] is the optimizer itself.
    if any(value is not None for value in (*args[1:2], kwargs.get("closure"))):
        raise ValueError("step(closure) makes its gradients too late for this rule: call backward before step")
    act(Step.of(stepped))


def _call_after(act: Hook, stepped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    act(Step.of(stepped))
