"""Scores of captions against several reference captions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from lcia.types import CorpusScorer

Gram: TypeAlias = tuple[str, ...]
Vectors: TypeAlias = tuple[Mapping[Gram, float], ...]
"""tf-idf weights by n-gram, for n = 1 to 4."""

SIGMA = 6.0
ORDERS = (1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class Cider:
    """CIDEr-D (Vedantam et al. 2015) over its maximum of 10, so that it lies in [0, 1]: mean over n = 1..4 and over
    references r of

        exp(-(l(c) - l(r))^2 / (2 sigma^2)) * min(g_n(c), g_n(r)) . g_n(r) / (|g_n(c)| |g_n(r)|)

    g_n: tf-idf of n-grams, with idf = log(samples / samples in whose references the n-gram stands); l: words;
    sigma = 6.
    Published figures are 10 times ours in percent. They cut words with Stanford's tokenizer, which needs Java; here a
    word is a run of letters, digits and apostrophes.
    """

    documents: Mapping[Gram, int]
    samples: int

    def __call__(self, prediction: str, references: Sequence[str]) -> float:
        said, words = self._vectors(_words(prediction)), len(_words(prediction))
        scores = (self._similarity(said, words, _words(reference)) for reference in references)
        return fmean(scores) if references else 0.0

    def _similarity(self, said: Vectors, words: int, reference: Sequence[str]) -> float:
        penalty = math.exp(-((words - len(reference)) ** 2) / (2 * SIGMA**2))
        return penalty * fmean(_cosine(a, b) for a, b in zip(said, self._vectors(reference), strict=True))

    def _vectors(self, words: Sequence[str]) -> Vectors:
        return tuple({gram: n * self._idf(gram) for gram, n in Counter(_grams(words, size)).items()} for size in ORDERS)

    def _idf(self, gram: Gram) -> float:
        return math.log(self.samples / max(1, self.documents.get(gram, 0)))


def fit_cider(references: Sequence[Sequence[str]]) -> Cider:
    """CIDEr with the document frequencies of a whole test split."""
    documents: Counter[Gram] = Counter()
    for captions in references:
        documents.update({gram for text in captions for size in ORDERS for gram in _grams(_words(text), size)})
    return Cider(documents, len(references))


CIDER = CorpusScorer(fit_cider)


def bleu_4(prediction: str, references: Sequence[str]) -> float:
    """BLEU-4 of one sentence (sacrebleu, exponential smoothing). The matrix holds its mean over samples, which is not
    the BLEU of a whole corpus."""
    from sacrebleu import sentence_bleu

    return min(1.0, sentence_bleu(prediction, list(references)).score / 100) if references else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.casefold())


def _grams(words: Sequence[str], size: int) -> Iterator[Gram]:
    return (tuple(words[at : at + size]) for at in range(len(words) - size + 1))


def _cosine(said: Mapping[Gram, float], right: Mapping[Gram, float]) -> float:
    """With what is said more often than in the reference cut down to it."""
    product = sum(min(weight, right[gram]) * right[gram] for gram, weight in said.items() if gram in right)
    length = math.hypot(*said.values()) * math.hypot(*right.values())
    return product / length if length else 0.0
