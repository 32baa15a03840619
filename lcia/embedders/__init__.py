"""Features of instructions and the similarity that belongs to them.

- `tfidf`: the texts themselves, compared by the authors' rule
- `text`: sentence embeddings
- `clip`: embeddings of texts and images
- `vectors`: what embedders of vectors share: batches, and the cosine
- `embed`: the features of a task and split, collected from its shards
"""

from __future__ import annotations

from typing import assert_never

from lcia.config.grouping import ClipConfig, EmbedderConfig, TextConfig, TfidfConfig
from lcia.grouping.codebook import Similarity
from lcia.protocols import Embedder


def build(config: EmbedderConfig) -> Embedder:
    """The embedder of a configuration, its model loaded (on the GPU where there is one)."""
    match config:
        case TfidfConfig():
            from lcia.embedders.tfidf import TfidfEmbedder

            return TfidfEmbedder(config)
        case TextConfig():
            from lcia.embedders.text import TextEmbedder

            return TextEmbedder(config)
        case ClipConfig():
            from lcia.embedders.clip import ClipEmbedder

            return ClipEmbedder(config)
        case _:
            assert_never(config)


def similarity_of(config: EmbedderConfig) -> Similarity:
    """How features of an embedder are compared; needs no model, for vectors are in the features."""
    match config:
        case TfidfConfig():
            from lcia.embedders.tfidf import TfidfEmbedder

            return TfidfEmbedder(config).mean_similarity
        case TextConfig() | ClipConfig():
            from lcia.embedders.vectors import mean_cosine

            return mean_cosine
        case _:
            assert_never(config)
