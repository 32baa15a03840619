"""What all embedders of dense vectors share: batches, and the cosine of unit rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcia.protocols import Features

BATCH = 64
"""Texts or images that a model sees at once."""

Item = TypeVar("Item")
Rows: TypeAlias = NDArray[np.float32]


def in_batches(items: Sequence[Item], encode: Callable[[Sequence[Item]], Rows]) -> Rows:
    """[len(items), dim] of an encoder that takes BATCH items at a time; `items` is not empty."""
    return np.concatenate([encode(items[start : start + BATCH]) for start in range(0, len(items), BATCH)])


def once(texts: Sequence[str], encode: Callable[[Sequence[str]], Rows]) -> Rows:
    """[len(texts), dim], each distinct text encoded once."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return in_batches(tuple(places), encode)[[places[text] for text in texts]]


def mean_cosine(a: Features, b: Features) -> NDArray[np.float64]:
    """[len(a.texts)], mean over the texts of b: the product with their mean vector, so no table is made."""
    mean: NDArray[np.float64] = _rows(b).mean(axis=0)
    return _rows(a) @ mean


def _rows(features: Features) -> NDArray[np.float64]:
    assert features.vectors is not None, "these features were made by an embedder of texts alone"
    return features.vectors.astype(np.float64)
