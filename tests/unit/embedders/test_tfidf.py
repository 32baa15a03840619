"""TF-IDF against scikit-learn: fitted on each pair as the authors do, and fitted once."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from lcia.config.grouping import TfidfConfig
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.protocols import Features

pytestmark = pytest.mark.numeric

VQA = "Answer the question using a single word or phrase."
SCIENCE = "Answer with the option's letter from the given choices directly."
OBJECT = "What is the object in the image?"
GROUNDING = "Please provide the bounding box coordinate of the region this sentence describes"
UNANSWERABLE = f"When the provided information is insufficient, respond with 'Unanswerable'. {VQA}"
WORDS = (
    "what",
    "the",
    "is",
    "dog",
    "dog",
    "Cat",
    "red",
    "naïve",
    "café",
    "中文",
    "x",
    "letter's",
    "ШАР",
    "don't",
    "42",
)

PAIRWISE = TfidfEmbedder(TfidfConfig())
CORPUS = TfidfEmbedder(TfidfConfig(fit="corpus"))


def features(*texts: str) -> Features:
    return Features(texts, np.ones(len(texts), np.int64))


def fit_on_the_pair(a: str, b: str) -> float:
    rows = TfidfVectorizer(stop_words="english").fit_transform([a, b])
    return float(cosine_similarity(rows[0:1], rows[1:2])[0, 0])


def fit_on_each_pair(a: Features, b: Features) -> NDArray[np.float64]:
    return np.array([[fit_on_the_pair(x, y) for y in b.texts] for x in a.texts])


def sentences(count: int, seed: int) -> Features:
    draw = random.Random(seed)
    return features(*(" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) + " thing" for _ in range(count)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(SCIENCE, VQA, 0.092), (VQA, OBJECT, 0.0), (GROUNDING, VQA, 0.0), (UNANSWERABLE, VQA, 0.615), (VQA, VQA, 1.0)],
)
def test_the_published_pairs_have_their_similarity(a: str, b: str, expected: float) -> None:
    assert PAIRWISE.similarity(features(a), features(b))[0, 0] == pytest.approx(expected, abs=5e-4)


def test_grounding_is_unlike_every_other_line() -> None:
    others = features(SCIENCE, VQA, OBJECT, UNANSWERABLE)
    assert not PAIRWISE.similarity(features(GROUNDING), others).any()


def test_the_table_equals_a_fit_on_each_pair() -> None:
    a, b = sentences(12, seed=1), sentences(9, seed=2)
    np.testing.assert_allclose(PAIRWISE.similarity(a, b), fit_on_each_pair(a, b), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.sampled_from(WORDS) | st.text(max_size=6), min_size=1, max_size=8),
    st.lists(st.sampled_from(WORDS) | st.text(max_size=6), min_size=1, max_size=8),
)
def test_any_pair_of_strings_equals_its_fit(left: list[str], right: list[str]) -> None:
    a, b = " ".join(left), " ".join(right)
    try:
        expected = fit_on_the_pair(a, b)
    except ValueError:  # scikit-learn finds no term in either text
        expected = float(a.casefold() == b.casefold())
    assert PAIRWISE.similarity(features(a), features(b))[0, 0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("embedder", [PAIRWISE, CORPUS])
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("what is it", "who are you", 0.0),
        ("what is it", "What IS it", 1.0),
        ("what is it", "a dog", 0.0),
        ("", "", 1.0),
        ("", "dog", 0.0),
    ],
)
def test_texts_of_stop_words_are_alike_only_if_equal(embedder: TfidfEmbedder, a: str, b: str, expected: float) -> None:
    assert embedder.similarity(features(a), features(b))[0, 0] == expected


def test_an_empty_text_is_found_among_others() -> None:
    table = PAIRWISE.similarity(features("dog", "is it", "red dog"), features("is it", "dog", "Is it"))
    expected = np.array([[0, 1, 0], [1, 0, 1], [0, fit_on_the_pair("red dog", "dog"), 0]])
    np.testing.assert_allclose(table, expected, atol=1e-12)


def test_one_fit_on_both_sides_equals_scikit_learn() -> None:
    a, b = sentences(7, seed=3), sentences(5, seed=4)
    rows = TfidfVectorizer(stop_words="english").fit_transform([*a.texts, *b.texts])
    np.testing.assert_allclose(CORPUS.similarity(a, b), cosine_similarity(rows[:7], rows[7:]), atol=1e-12)


@pytest.mark.parametrize("fit", ["pairwise", "corpus"])
def test_chunks_do_not_change_the_result(fit: str) -> None:
    a, b = sentences(23, seed=5), sentences(11, seed=6)
    config = TfidfConfig.model_validate({"fit": fit})
    whole, pieces = TfidfEmbedder(config), TfidfEmbedder(config, chunk=4)
    np.testing.assert_array_equal(whole.similarity(a, b), pieces.similarity(a, b))


@pytest.mark.parametrize("embedder", [PAIRWISE, CORPUS])
def test_the_mean_similarity_is_the_mean_of_the_table(embedder: TfidfEmbedder) -> None:
    a, b = sentences(6, seed=7), sentences(8, seed=8)
    table = embedder.similarity(a, b)
    np.testing.assert_allclose(embedder.mean_similarity(a, b), table.mean(axis=1), atol=1e-15)
