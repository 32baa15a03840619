"""Features of several tasks become one."""

from __future__ import annotations

import numpy as np

from lcia.grouping.features import join
from lcia.protocols import Features


def with_vectors(texts: tuple[str, ...], counts: list[int], vectors: list[list[float]]) -> Features:
    return Features(texts, np.array(counts, np.int64), np.array(vectors, np.float32))


def test_joined_vectors_are_weighted_by_multiplicity_and_of_unit_length() -> None:
    a = with_vectors(("x", "y"), [3, 1], [[1, 0], [0, 1]])
    b = with_vectors(("z", "x"), [2, 4], [[0, -1], [0, 1]])
    joined = join(a, b)
    assert joined.texts == ("x", "y", "z")
    assert joined.counts.tolist() == [7, 1, 2]
    assert joined.vectors is not None
    np.testing.assert_allclose(joined.vectors, np.array([[0.6, 0.8], [0, 1], [0, -1]]), atol=1e-7)
