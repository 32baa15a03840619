"""Weights of tasks for an instruction: a softmax of similarities to what tasks are like on average."""

from __future__ import annotations

import numpy as np
import pytest

from lcia.embedders.vectors import mean_cosine
from lcia.grouping.codebook import Books
from lcia.grouping.features import unit
from lcia.grouping.fusion import anchor, open_group, strongest, weigh
from lcia.protocols import Features


def drawn(seed: int, texts: int) -> Features:
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 9, texts)
    return Features(tuple(map(str, range(texts))), counts, unit(generator.normal(size=(texts, 5))))


def test_an_anchor_is_the_mean_of_all_samples_at_unit_length() -> None:
    features = drawn(0, 4)
    assert features.vectors is not None
    found = anchor(features)
    samples = np.repeat(features.vectors.astype(np.float64), features.counts, axis=0).mean(axis=0)
    assert found.vectors is not None
    np.testing.assert_allclose(found.vectors[0], samples / np.linalg.norm(samples), atol=1e-6)
    assert (len(found.texts), found.counts.tolist()) == (1, [features.counts.sum()])
    texts = Features(("one", "two"), np.array([1, 2]))
    assert anchor(texts) is texts, "texts have no mean"


def test_weights_are_the_softmax_of_cosines_to_the_anchors() -> None:
    tasks, asked = [drawn(seed, 3) for seed in (1, 2, 3)], drawn(4, 6)
    books: Books = ()
    for number, task in enumerate(tasks):
        placement, books = open_group(books, str(number), anchor(task), mean_cosine)
        assert (placement.group, placement.is_new, len(placement.similarities)) == (number, True, number)
    table = np.stack([mean_cosine(asked, book) for book in books], axis=1)
    for row, weights in enumerate(weigh(table, 0.1)):
        assert asked.vectors is not None
        cosines = np.array([float(asked.vectors[row] @ book.vectors[0]) for book in books if book.vectors is not None])
        expected = np.exp(cosines / 0.1) / np.exp(cosines / 0.1).sum()
        np.testing.assert_allclose(weights, expected, atol=0.006)
        assert strongest(weights) == cosines.argmax()
        assert sum(weights) == pytest.approx(1, abs=0.016)


def test_a_low_temperature_chooses_one_and_a_high_one_takes_all() -> None:
    table = np.array([[0.9, 0.1]])
    assert weigh(table, 0.001) == ((1.0, 0.0),)
    assert weigh(table, 1000.0) == ((0.5, 0.5),)
    assert weigh(np.array([[0.0, 0.0, 0.0]]), 0.1) == ((0.33, 0.33, 0.33),)
    assert strongest((0.5, 0.5)) == 0
