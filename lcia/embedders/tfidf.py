"""TF-IDF similarity of instructions: the authors' fit on each pair in closed form, and one fit on both sides together.

The features are the texts themselves. Two equal texts (after case folding) have similarity 1 by definition, also when
English stop words are all they hold; the authors' code raises "empty vocabulary" for such a pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from lcia.config.grouping import TfidfConfig
from lcia.protocols import Features
from lcia.types import Sample

UNSHARED_SQUARED = (1 + math.log(1.5)) ** 2
"""Squared smoothed idf of a term in one of two documents; of a term in both it is 1 (scikit-learn's formula)."""

Sparse: TypeAlias = Any  # scipy.sparse.csr_matrix, which carries no types


@dataclass(frozen=True)
class TfidfEmbedder:
    """Embedder whose features are the texts; `chunk` rows are compared at a time, so that no temporary outgrows
    chunk x the other side."""

    config: TfidfConfig
    chunk: int = 512

    def embed(self, samples: Sequence[Sample]) -> None:
        """The texts are the features: there is nothing to compute per sample."""

    def similarity(self, a: Features, b: Features) -> NDArray[np.float64]:
        """[len(a.texts), len(b.texts)]."""
        table = np.zeros((len(a.texts), len(b.texts)))
        for start, block in self._blocks(a.texts, b.texts):
            table[start : start + block.shape[0]] = block.toarray()
        return table

    def mean_similarity(self, a: Features, b: Features) -> NDArray[np.float64]:
        """[len(a.texts)]: mean over all texts of b; the table is never whole in memory."""
        means = np.zeros(len(a.texts))
        for start, block in self._blocks(a.texts, b.texts):
            means[start : start + block.shape[0]] = np.asarray(block.sum(axis=1)).ravel() / len(b.texts)
        return means

    def _blocks(self, a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[int, Sparse]]:
        x, y = _counts(a, b)
        left, right = (x, y) if self.config.fit == "pairwise" else _fitted_on_both(x, y)
        compare = _pairwise_cosine if self.config.fit == "pairwise" else _cosine
        same = _equal_but_empty(a, b, x)
        for start in range(0, len(a), self.chunk):
            rows = slice(start, start + self.chunk)
            yield start, compare(left[rows], right) + same[rows]


def _counts(a: Sequence[str], b: Sequence[str]) -> tuple[Sparse, Sparse]:
    """Term counts [len(a), terms], [len(b), terms] over one vocabulary, English stop words left out."""
    analyse = CountVectorizer(stop_words="english").build_analyzer()
    vocabulary: dict[str, int] = {}
    pieces = [_count_rows([analyse(text) for text in texts], vocabulary) for texts in (a, b)]
    # A vocabulary may be empty, a sparse matrix may not have zero columns in every version of scipy.
    width = max(len(vocabulary), 1)
    x, y = (sp.csr_matrix(piece, shape=(len(piece[2]) - 1, width)) for piece in pieces)
    return x, y


def _count_rows(documents: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> tuple[NDArray[Any], ...]:
    """(data, indices, indptr) of the documents' term counts; new terms are added to the vocabulary."""
    data: list[int] = []
    indices: list[int] = []
    starts = [0]
    for words in documents:
        row: dict[int, int] = {}
        for word in words:
            term = vocabulary.setdefault(word, len(vocabulary))
            row[term] = row.get(term, 0) + 1
        indices.extend(row)
        data.extend(row.values())
        starts.append(len(indices))
    return np.asarray(data, np.float64), np.asarray(indices, np.int32), np.asarray(starts, np.int32)


def _pairwise_cosine(x: Sparse, y: Sparse) -> Sparse:
    """Cosine of TF-IDF fitted on each pair alone (docs/method.md 3), sparse [len(x), len(y)].

    With k = 1 + ln(3/2): cos = <x,y> / sqrt((k^2 |x|^2 - (k^2-1) |x|^2_shared) (the same of y)), since a term of both
    texts weighs its count and a term of one text k times its count. The three products have one sparsity pattern: the
    pairs that share a term.
    """
    dots = _sorted(x @ y.T)
    shared_x = _sorted(_squared(x) @ y.sign().T)
    shared_y = _sorted(x.sign() @ _squared(y).T)
    rows = np.repeat(np.arange(dots.shape[0]), np.diff(dots.indptr))
    norms = _norms(x)[rows], _norms(y)[dots.indices]
    weighted = [
        UNSHARED_SQUARED * norm - (UNSHARED_SQUARED - 1) * shared.data
        for norm, shared in zip(norms, (shared_x, shared_y), strict=True)
    ]
    dots.data = dots.data / np.sqrt(weighted[0] * weighted[1])
    return dots


def _cosine(x: Sparse, y: Sparse) -> Sparse:
    """Of rows that have unit length or are empty."""
    return (x @ y.T).tocsr()


def _fitted_on_both(x: Sparse, y: Sparse) -> tuple[Sparse, Sparse]:
    """Unit TF-IDF rows, the idf (smoothed) taken over all texts of both sides."""
    weights = TfidfTransformer().fit(sp.vstack([x, y]))
    return weights.transform(x), weights.transform(y)


def _equal_but_empty(a: Sequence[str], b: Sequence[str], x: Sparse) -> Sparse:
    """1 where two texts are equal after case folding although no term is left of them; sparse [len(a), len(b)]."""
    places: dict[str, list[int]] = {}
    for column, text in enumerate(b):
        places.setdefault(text.casefold(), []).append(column)
    empty = np.flatnonzero(np.diff(x.indptr) == 0).tolist()
    found = [(row, column) for row in empty for column in places.get(a[row].casefold(), ())]
    rows, columns = np.asarray(found, np.int64).reshape(-1, 2).T
    return sp.csr_matrix((np.ones(len(found)), (rows, columns)), shape=(len(a), len(b)))


def _norms(counts: Sparse) -> NDArray[np.float64]:
    return np.asarray(_squared(counts).sum(axis=1)).ravel()


def _squared(counts: Sparse) -> Sparse:
    return counts.multiply(counts).tocsr()


def _sorted(matrix: Sparse) -> Sparse:
    matrix = matrix.tocsr()
    matrix.sort_indices()
    return matrix
