"""Training rows with wrong answers on purpose: what a method makes of labels that cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from string import ascii_lowercase
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from lcia.config.run import NoiseConfig
from lcia.data.rows import Rows
from lcia.protocols import TrainingRows
from lcia.types import Sample


def with_noise(rows: Rows, noise: NoiseConfig | None) -> TrainingRows:
    """The rows as they are trained on; None: as they are."""
    return rows if noise is None else NoisyRows(rows, noise)


@dataclass(frozen=True)
class NoisyRows:
    """Rows of which a share ends with another answer than its own.

    What becomes of a row follows from the seed, the row's id and, for `swap`, the rows of its task: it is the same in
    every process, batch and epoch.
    """

    rows: Rows
    noise: NoiseConfig

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> list[Sample]:
        """As Rows.take, with the answers that are trained on."""
        return [self._noisy(*found) for found in zip(indices, self.rows.take(indices), strict=True)]

    def lengths(self) -> NDArray[np.int64]:
        """[rows], with the rows' own answers: close enough to put rows of similar length together."""
        return self.rows.lengths()

    def _noisy(self, index: int, sample: Sample) -> Sample:
        random = Random(f"{self.noise.seed}/{sample.id}")
        if random.random() >= self.noise.share:
            return sample
        match self.noise.kind:
            case "swap":
                return answering(sample, self._other_answer(index, random))
            case "gibberish":
                length = len(sample.messages[-1].content)
                return answering(sample, "".join(random.choices(ascii_lowercase, k=length)))
            case _:
                assert_never(self.noise.kind)

    def _other_answer(self, index: int, random: Random) -> str:
        """That of another row of the task, each as likely as any other; a task's only row has its own."""
        task = self.rows.folder_of(index)
        ahead = 1 + random.randrange(max(1, len(task) - 1))
        [other] = self.rows.take([task[(index - task.start + ahead) % len(task)]])
        return other.messages[-1].content


def answering(sample: Sample, answer: str) -> Sample:
    """A training sample with another answer in its last turn."""
    *asked, last = sample.messages
    return replace(sample, messages=(*asked, replace(last, content=answer)), references=(answer,))
