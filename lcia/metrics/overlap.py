"""How many of a task's test answers could have been learnt with another task.

Where tasks share their answers, retention looks better than it is: the last task keeps the words of the first alive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcia.metrics.scoring import plain_answer

Answers: TypeAlias = Mapping[str, int]
"""Distinct answers in their plain form, with the number of samples that have each."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """`shares[i, j]`: per cent of the test samples of task i whose answer is one of the training answers of task j;
    nan where one of the two is not known."""

    tasks: tuple[str, ...]
    shares: NDArray[np.float64]

    def of(self, task: str) -> dict[str, float]:
        """Trained task -> share, of one tested task; without those that are not known."""
        row = self.shares[self.tasks.index(task)].tolist()
        return {other: share for other, share in zip(self.tasks, row, strict=True) if share == share}


def count_answers(references: Iterable[Sequence[str]]) -> Counter[str]:
    """Of each sample the most frequent of its references; none of a sample without any."""
    plain = ([plain_answer(reference) for reference in given] for given in references)
    return Counter(Counter(given).most_common(1)[0][0] for given in plain if given)


def overlap(tasks: Sequence[str], tested: Mapping[str, Answers], trained: Mapping[str, Answers]) -> Overlap:
    """Of the tasks in this order; a task may be missing on either side."""
    shares = np.full((len(tasks), len(tasks)), np.nan)
    for row, asked in enumerate(tasks):
        for column, learnt in enumerate(tasks):
            if asked in tested and learnt in trained:
                shares[row, column] = _share(tested[asked], trained[learnt])
    return Overlap(tuple(tasks), shares)


def _share(tested: Answers, trained: Answers) -> float:
    samples = sum(tested.values())
    known = sum(count for answer, count in tested.items() if answer in trained)
    return 100 * known / samples if samples else float("nan")
