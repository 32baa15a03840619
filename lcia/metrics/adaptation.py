"""How fast a stream of stretches is learnt: scores right before and right after each round of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcia.metrics.matrix import AccuracyMatrix


class Round(NamedTuple):
    """Mean scores in percent on the stretches of one round, each right before and right after it is trained.

    None where one of them was not evaluated; before training that takes `evaluation.upper_triangle`, and for the first
    stretch of all `evaluation.zero_shot`.
    """

    before: float | None
    after: float | None


def rounds(matrix: AccuracyMatrix, stretches: int) -> tuple[Round, ...]:
    """mean_i A[i-1, i] and mean_i A[i, i] over the tasks i of each round, where A[0, i] is b_i (docs/method.md 5)."""
    untuned = [np.nan] if matrix.zero_shot is None else matrix.zero_shot[:1]
    before = np.concatenate([untuned, np.diagonal(matrix.scores, offset=1)])
    parts = zip(np.split(before, stretches), np.split(np.diagonal(matrix.scores), stretches), strict=True)
    return tuple(Round(_mean(early), _mean(late)) for early, late in parts)


def _mean(scores: NDArray[np.float64]) -> float | None:
    return None if np.isnan(scores).any() else float(scores.mean())
