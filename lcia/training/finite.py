"""Numbers that are not finite end a stage: all workers find together which came first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcia.ema.sharding import flat, whole

if TYPE_CHECKING:
    from accelerate import Accelerator


def cause(loss: Tensor, parameters: Mapping[str, Tensor], accelerator: Accelerator) -> str:
    """Why a gradient norm is not finite: `loss` is this worker's summand. A collective call."""
    if not bool(torch.isfinite(accelerator.reduce(loss, reduction="sum"))):
        return "the loss is not finite"
    for name, parameter in parameters.items():
        if parameter.grad is not None and not bool(torch.isfinite(whole(parameter.grad)).all()):
            return f"the gradient of {name} is not finite"
    return "the gradients are too large for their norm to be a finite number"


def check_weights(parameters: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Raises FloatingPointError on all workers if a weight is not finite on one of them. A collective call."""
    broken = torch.stack([~torch.isfinite(flat(parameter)).all() for parameter in parameters.values()])
    counts = accelerator.reduce(broken.long(), reduction="sum").tolist()
    names = [name for name, count in zip(parameters, counts, strict=True) if count]
    if names:
        raise FloatingPointError(f"the weights of {names[0]} are not finite")
