"""HiDe's weights (docs/method.md 2, `grouping.fusion`): how much each task's adapter counts for an instruction.

Every task opens a group. Its anchor is the mean of its samples' features; where the texts themselves are the features,
the task's instructions. d = softmax(similarity to the anchors / temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lcia.grouping.codebook import Books, Placement, Similarity, mean
from lcia.grouping.features import unit
from lcia.protocols import Features

DIGITS = 2
"""Of a weight: what a processor rounds otherwise is the same stage, and instructions with equal weights share one fused
adapter."""


def anchor(features: Features) -> Features:
    """A task's features as one, [1, dim]; texts stay as they are."""
    if features.vectors is None:
        return features
    total = (features.counts[:, None] * features.vectors.astype(np.float64)).sum(0, keepdims=True)
    return replace(features, texts=features.texts[:1], counts=features.counts.sum(keepdims=True), vectors=unit(total))


def open_group(books: Books, task: str, anchored: Features, similarity: Similarity) -> tuple[Placement, Books]:
    """A group for the task alone, and the anchors afterwards."""
    found = tuple(mean(similarity, anchored, book) for book in books)
    return Placement(task, len(books), True, found), (*books, anchored)


def weigh(table: NDArray[np.float64], temperature: float) -> tuple[tuple[float, ...], ...]:
    """Weights of the groups for each row of similarities [decisions, groups]."""
    scores = np.exp((table - table.max(axis=1, keepdims=True)) / temperature)
    shares = np.round(scores / scores.sum(axis=1, keepdims=True), DIGITS)
    return tuple(tuple(row) for row in shares.tolist())


def strongest(weights: Sequence[float]) -> int:
    """The group that counts most; the older one wins a tie."""
    return int(np.argmax(weights))
