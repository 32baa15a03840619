"""Features of instructions and the similarity that belongs to them; one file per kind."""

from __future__ import annotations

from typing import assert_never

from lcia.config.run import ClipConfig, EmbedderConfig, TextConfig, TfidfConfig
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


def reads_images(config: EmbedderConfig) -> bool:
    """Whether a feature depends on the sample's images; if not, each distinct instruction is embedded only once."""
    return isinstance(config, ClipConfig) and config.features != "text"
