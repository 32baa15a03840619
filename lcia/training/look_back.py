"""Some of a stage's rows once more, with the weights that its training ended with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcia.protocols import UNTRAINED, Assistant, Batch, Look, TrainingRows
from lcia.stage import TrainStage, digest
from lcia.training.elsewhere import reshard, still
from lcia.training.sampling import drawn

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class LookAgain:
    """Implements lcia.protocols.LookBack for one worker of a stage."""

    stage: TrainStage
    assistant: Assistant
    rows: TrainingRows
    accelerator: Accelerator
    micro_batch: int

    def __call__(self, count: int, alone: bool) -> Iterator[Look]:
        size = 1 if alone else self.micro_batch
        chosen = drawn(len(self.rows), count, self.stage.seed)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = chosen[rank::world].tolist()
        # All workers make as many passes: one that has a row less takes the first one, without its answers.
        idle = -(-len(chosen) // world) - len(mine)
        numbers = mine + [int(chosen[0])] * idle
        with still(self.assistant.module):
            for start in range(0, len(numbers), size):
                yield self._look(numbers[start : start + size], max(0, min(size, len(mine) - start)))

    def _look(self, numbers: list[int], meant: int) -> Look:
        """The first `meant` of these rows have their answers."""
        batch = dict(self.assistant.collate(self.rows.take(numbers)))
        batch["labels"][meant:] = UNTRAINED
        return Look(batch, tuple(self._seed(number) for number in numbers), lambda: self._logits(batch))

    def _seed(self, row: int) -> int:
        return int(digest([self.stage.seed, list(self.stage.shards), row])[:15], 16)

    def _logits(self, batch: Batch) -> Tensor:
        device = self.accelerator.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.stage.training.bf16):
            scores = self.assistant.logits(self.assistant.module, batch)
        if not torch.is_grad_enabled():
            reshard(self.assistant.module)
        return scores
