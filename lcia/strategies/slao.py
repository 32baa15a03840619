"""SLAO, merge before forget: one merged LoRA answers, and the next task is trained from the last fine-tuned one.

    A_t starts as Q',  with A_{t-1}' = Q R and R's diagonal positive;      B_t starts as B_{t-1}
    after task t:      A* = A_t,      B* += (B_t - B*) / sqrt(t)

"Merge before Forget: A Single LoRA Continual Learning via Continual Merging" (ICLR 2026, arXiv 2512.23017). A_{t-1} and
B_{t-1} are what the last task's training ended with, (A*, B*) answers. The first task is plain tuning, so that after it
both are the same.

What is stored as the adapter is (A*, B*); the fine-tuned pair is kept beside it for the next task. What is trained as
it is, without LoRA, is handled as B is; the paper has none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lcia.ema.sharding import local, part_of, whole
from lcia.protocols import LookBack, Strategy, Trained

SLAO = "slao."
"""Prefix of the fine-tuned weights in what a stage keeps for the next one."""
TASKS = "tasks"
"""Under it: how many tasks the adapter has learnt."""


def orthonormal(down: Tensor) -> Tensor:
    """Q' [r, in] of A' = Q R for A [r, in]: orthonormal rows that span what the rows of A do.

    Raises:
        ValueError: the rank is greater than the width.
    """
    rank, width = down.shape
    if rank > width:
        raise ValueError(
            f"slao needs orthonormal directions, and a layer with {width} inputs has no {rank}: lower lora.r"
        )
    q, r = torch.linalg.qr(down.double().T)
    # The signs of a QR are the library's; these are the only ones that turn no direction round.
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0)
    found: Tensor = (q * signs).T
    return found.to(down.dtype)


class SlaoStrategy(Strategy):
    """The step itself is plain tuning's."""

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.parameters = trained.parameters
        self.merged = {name: local(parameter).clone() for name, parameter in self.parameters.items()}
        found = {key.removeprefix(SLAO): value for key, value in kept.items() if key.startswith(SLAO)}
        self.tasks = int(found.pop(TASKS, torch.tensor(1))) + 1
        self.downs = {id(layer.down) for layer in trained.layers if layer.down is not None}
        for name, parameter in self.parameters.items():
            tuned = found.get(name, whole(parameter.detach()))
            _fill(parameter, orthonormal(tuned) if id(parameter) in self.downs else tuned)

    @torch.no_grad()
    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        kept = {SLAO + name: whole(value.detach()).clone() for name, value in self.parameters.items()}
        for name, parameter in self.parameters.items():
            if id(parameter) not in self.downs:
                tuned = local(parameter)
                tuned.copy_(torch.lerp(self.merged[name], tuned, self.tasks**-0.5))
        return {**kept, SLAO + TASKS: torch.tensor(self.tasks)}


@torch.no_grad()
def _fill(parameter: Tensor, value: Tensor) -> None:
    mine = local(parameter)
    mine.copy_(part_of(value, parameter).view(mine.shape))
