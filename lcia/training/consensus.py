"""Decisions on which all workers of a stage must agree, while another process may change the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lcia.store.folders import Checkpoints

if TYPE_CHECKING:
    from accelerate import Accelerator

LOOKS = 5
"""How often workers try to find the checkpoint that they all continue from."""


def agreed(value: int, accelerator: Accelerator) -> int:
    """The main worker's value, on all workers: each may have seen the store at another moment."""
    from accelerate.utils import broadcast

    return int(broadcast(torch.tensor([value], device=accelerator.device)))


def choose(accelerator: Accelerator, checkpoints: Checkpoints, scratch: Path) -> tuple[Path | None, list[str]]:
    """The main worker's choice of a checkpoint, on all workers. Where another process saves or clears meanwhile, some
    may not find it, and all try again."""
    for look in range(LOOKS):
        folder, damaged = checkpoints.load(scratch / f"{look}")
        step = agreed(_step_of(folder), accelerator)
        if not accelerator.is_main_process and step != _step_of(folder):
            folder, _ = checkpoints.load(scratch / f"{look}again", newest=step)
        steps = accelerator.gather(torch.tensor([_step_of(folder)], device=accelerator.device))
        if bool((steps == step).all()):
            return folder, damaged
    raise RuntimeError(f"workers would continue from different steps: {steps.tolist()}")


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name)
