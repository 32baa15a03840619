"""What belongs to each kind of embedder, without its model."""

from __future__ import annotations

import pytest

from lcia.config.grouping import ClipConfig, EmbedderConfig, FeatureKind, TextConfig, TfidfConfig
from lcia.embedders import similarity_of
from lcia.embedders.vectors import mean_cosine


def test_the_similarity_of_vectors_is_the_mean_cosine_and_that_of_tfidf_its_own() -> None:
    assert similarity_of(TextConfig(kind="text", model="any")) is mean_cosine
    assert similarity_of(ClipConfig(kind="clip")) is mean_cosine
    assert similarity_of(TfidfConfig()).__name__ == "mean_similarity"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (TfidfConfig(), "texts"),
        (TextConfig(kind="text", model="any"), "text_vectors"),
        (ClipConfig(kind="clip"), "text_vectors"),
        (ClipConfig(kind="clip", features="image"), "image_vectors"),
        (ClipConfig(kind="clip", features="both"), "image_vectors"),
    ],
)
def test_an_embedder_that_looks_at_images_has_vectors_of_samples_and_others_of_texts(
    config: EmbedderConfig, kind: FeatureKind
) -> None:
    assert config.feature_kind == kind
    assert "feature_kind" not in config.model_dump()
