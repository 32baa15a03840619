"""CLIP embeddings by open_clip: of the instruction, of the sample's images, or of both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

from lcia.config.grouping import ClipConfig
from lcia.data.pixels import decode_rgb
from lcia.embedders.vectors import in_batches, once
from lcia.grouping.features import unit
from lcia.types import InputError, Sample

SCHEMAS = ("hf-hub:", "local-dir:")
"""Model names of open_clip that bring their weights with them."""


class ClipEmbedder:
    """Embedder by a CLIP model.

    `text`: the instruction's unit vector. `image`: the mean of the unit vectors of the sample's images, unit again;
    zero for a sample without an image, which is similar to nothing. `both`: these two side by side, unit again, so that
    the cosine of two samples with images is the mean of the cosines of their texts and of their images.
    """

    def __init__(self, config: ClipConfig) -> None:
        self.features = config.features
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self.prepare, self.tokenizer = _load(config)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.dimension = int(open_clip.get_model_config(config.model)["embed_dim"])

    def embed(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """[samples, dim], unit rows."""
        if self.features == "text":
            return self._texts(samples)
        if self.features == "image":
            return self._images(samples)
        return unit(np.concatenate([self._texts(samples), self._images(samples)], axis=1))

    def _texts(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        return once([sample.instruction for sample in samples], self._encode_texts)

    def _images(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        owners = [row for row, sample in enumerate(samples) for _ in sample.images]
        sums = np.zeros((len(samples), self.dimension))
        if owners:
            vectors = in_batches([image for sample in samples for image in sample.images], self._encode_images)
            np.add.at(sums, owners, vectors)
        return unit(sums)

    @torch.inference_mode()
    def _encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = self.tokenizer(list(texts)).to(self.device)
        return unit(self.model.encode_text(tokens).cpu().numpy())

    @torch.inference_mode()
    def _encode_images(self, encoded: Sequence[bytes]) -> NDArray[np.float32]:
        pixels = torch.stack([self._pixels(image) for image in encoded])
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        return unit(self.model.encode_image(pixels).cpu().numpy())

    def _pixels(self, encoded: bytes) -> torch.Tensor:
        """[channels, height, width] as the checkpoint's own preprocessing makes it."""
        pixels: torch.Tensor = self.prepare(decode_rgb(encoded))
        return pixels


def _load(config: ClipConfig) -> tuple[Any, Any, Any]:
    """The model, its preprocessing of images and its tokenizer; never with random weights."""
    if not config.pretrained and not config.model.startswith(SCHEMAS):
        raise InputError(
            f"grouping.embedder: {config.model} needs `pretrained`, a tag of open_clip or the path of a weights file; "
            f"only names that begin with {' or '.join(SCHEMAS)} bring their weights along"
        )
    try:
        with _without_remote_code():
            model, prepare = open_clip.create_model_from_pretrained(config.model, pretrained=config.pretrained or None)
            return model, prepare, open_clip.get_tokenizer(config.model)
    except (RuntimeError, FileNotFoundError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"grouping.embedder: {config.model} brings code of its own, which is never run for kind clip: choose "
                "a checkpoint that needs none"
            ) from error
        raise InputError(
            f"grouping.embedder: open_clip cannot load {config.model} {config.pretrained}: {error}"
        ) from error


@contextlib.contextmanager
def _without_remote_code() -> Iterator[None]:
    """Makes transformers, which open_clip calls for some text towers, refuse code that lies beside the weights.

    open_clip hands no trust_remote_code on; left to itself, transformers asks on the terminal for up to 15 seconds.
    Nothing to wait for means no.
    """
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds
