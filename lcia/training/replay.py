"""The rows that a stage is trained on: its own and, with experience replay, some of the adapter's earlier tasks.

Rolnick et al., "Experience Replay for Continual Learning" (NeurIPS 2019, arXiv 1811.11682), in its plainest form: a
fixed random share of every task is kept, and the kept rows are mixed with the new task's, each row as likely as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lcia.data.noise import with_noise
from lcia.data.rows import Rows
from lcia.protocols import TrainingRows
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.training.sampling import Indices
from lcia.types import Sample


def training_rows(stage: TrainStage, store: Store) -> TrainingRows:
    """The stage's own rows, then those that are trained on once more, task after task."""
    replay = stage.replay
    rows = Rows([store.files(key) for key in (*stage.shards, *(replay.shards if replay else ()))])
    noisy = with_noise(rows, stage.noise)
    if replay is None:
        return noisy
    own, old = rows.folders[: len(stage.shards)], rows.folders[len(stage.shards) :]
    kept = [
        task.start + kept_rows(stage.seed, key, len(task), replay.count(len(task)))
        for key, task in zip(replay.shards, old, strict=True)
    ]
    return ReplayedRows(noisy, np.concatenate([np.arange(own[-1].stop), *kept]), own[-1].stop)


def kept_rows(seed: int, shards: str, rows: int, count: int) -> Indices:
    """Which `count` of a task's rows are kept, in ascending order: the same ones in all later stages and on all
    workers, and a larger share holds those of a smaller one."""
    generator = np.random.Generator(np.random.PCG64([seed, int(shards, 16)]))
    return np.sort(generator.permutation(rows)[:count])


def own_rows(rows: TrainingRows) -> TrainingRows:
    """Those of the stage's own task: what a strategy looks back at, for it has looked at the old ones before."""
    return ReplayedRows(rows.rows, rows.numbers[: rows.own], rows.own) if isinstance(rows, ReplayedRows) else rows


@dataclass(frozen=True, eq=False)
class ReplayedRows:
    """Some of `rows`, by their numbers; the first `own` are those of the stage's own task."""

    rows: TrainingRows
    numbers: Indices
    own: int

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, indices: Sequence[int]) -> list[Sample]:
        """Implements TrainingRows."""
        return self.rows.take(self.numbers[list(indices)].tolist())

    def lengths(self) -> Indices:
        """Implements TrainingRows."""
        return self.rows.lengths()[self.numbers]
