"""Arithmetic of features: joined, and brought to unit length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lcia.protocols import Features


def join(a: Features, b: Features) -> Features:
    """Distinct instructions of both, in alphabetical order, so that it does not matter which came first; multiplicities
    add up.

    Where both hold a text, its vector is the mean of the two weighted by their multiplicities, brought to unit length.
    """
    assert (a.vectors is None) == (b.vectors is None), "features of two different embedders"
    places = {text: place for place, text in enumerate(sorted({*a.texts, *b.texts}))}
    targets = np.array([places[text] for text in (*a.texts, *b.texts)], np.int64)
    counts = np.zeros(len(places), np.int64)
    np.add.at(counts, targets, np.concatenate([a.counts, b.counts]))
    joined = Features(tuple(places), counts)
    if a.vectors is None or b.vectors is None:
        return joined
    weighted = np.concatenate([a.vectors * a.counts[:, None], b.vectors * b.counts[:, None]])
    sums = np.zeros((len(places), weighted.shape[1]))
    np.add.at(sums, targets, weighted)
    return replace(joined, vectors=unit(sums))


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [n, dim] brought to unit length; a row of zeros stays zero and is like nothing."""
    exact = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > 0)
    return scaled.astype(np.float32)
