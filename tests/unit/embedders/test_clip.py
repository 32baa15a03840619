"""CLIP features against open_clip called by hand, one text and one image at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lcia.config.grouping import ClipConfig
from lcia.embedders import similarity_of
from lcia.embedders.clip import ClipEmbedder
from lcia.protocols import Features
from lcia.types import InputError, Sample

pytestmark = pytest.mark.numeric


def png(colour: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    image = Image.new("RGB", size, colour)
    image.paste("white", (0, 0, size[0] // 2, size[1] // 3))
    image.convert(mode).save(stream, "PNG")
    return stream.getvalue()


def sample(text: str, *images: bytes) -> Sample:
    return Sample("", text, (), images, ())


SAMPLES = (
    sample("What is this?", png("red")),
    sample("Is there a cat?", png("blue"), png("green", (64, 64), "L")),
    sample("What is this?", png("green", (33, 90))),
    sample("No picture here."),
)


def embedder(folder: Path, features: str) -> ClipEmbedder:
    config = {"kind": "clip", "model": f"local-dir:{folder}", "features": features}
    return ClipEmbedder(ClipConfig.model_validate(config))


def unit(row: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = row / np.linalg.norm(row)
    return scaled


class ByHand:
    """open_clip's documented use: create_model_and_transforms, encode_text, encode_image."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def text(self, text: str) -> NDArray[np.float64]:
        return unit(self.model.encode_text(self.tokenizer([text]))[0].double().numpy())

    @torch.no_grad()
    def images(self, images: Sequence[bytes]) -> NDArray[np.float64]:
        opened = [self.prepare(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
        rows = [unit(self.model.encode_image(pixels[None])[0].double().numpy()) for pixels in opened]
        return unit(np.mean(rows, axis=0))


def test_text_features_are_those_of_open_clip(tiny_clip: Path) -> None:
    vectors = embedder(tiny_clip, "text").embed(SAMPLES)
    expected = np.stack([ByHand(tiny_clip).text(row.instruction) for row in SAMPLES])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_image_features_are_the_mean_over_a_sample_and_zero_without_image(tiny_clip: Path) -> None:
    vectors = embedder(tiny_clip, "image").embed(SAMPLES)
    expected = np.stack([ByHand(tiny_clip).images(row.images) for row in SAMPLES[:3]])
    np.testing.assert_allclose(vectors[:3], expected, atol=1e-5)
    assert not vectors[3].any()


def test_a_batch_without_any_image_is_all_zero(tiny_clip: Path) -> None:
    vectors = embedder(tiny_clip, "image").embed(SAMPLES[3:])
    assert vectors.shape == (1, 12)
    assert not vectors.any()


def test_both_sides_weigh_the_same(tiny_clip: Path) -> None:
    vectors = embedder(tiny_clip, "both").embed(SAMPLES)
    hand = ByHand(tiny_clip)
    texts = np.stack([hand.text(row.instruction) for row in SAMPLES[:3]])
    images = np.stack([hand.images(row.images) for row in SAMPLES[:3]])
    np.testing.assert_allclose(vectors[:3] @ vectors[:3].T, (texts @ texts.T + images @ images.T) / 2, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_similarity_is_the_mean_cosine() -> None:
    rows = np.array([[1, 0], [0.6, 0.8], [0, -1]], np.float32)
    a, b = (Features(tuple("xyz"[: len(v)]), np.ones(len(v), np.int64), v) for v in (rows, rows[1:]))
    similarity = similarity_of(ClipConfig(kind="clip"))
    np.testing.assert_allclose(similarity(a, b), np.array([0.3, 0.1, 0.1]), atol=1e-7)


def test_a_model_by_name_takes_its_weights_from_a_path(tiny_clip: Path, tmp_path: Path) -> None:
    named = json.loads((tiny_clip / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-for-this-test.json").write_text(json.dumps(named))
    open_clip.add_model_config(tmp_path)
    weights = str(tiny_clip / "open_clip_model.safetensors")
    clip = ClipEmbedder(ClipConfig(kind="clip", model="tiny-for-this-test", pretrained=weights, features="both"))
    np.testing.assert_array_equal(clip.embed(SAMPLES), embedder(tiny_clip, "both").embed(SAMPLES))


@pytest.mark.parametrize("pretrained", ["", "no-such-tag"])
def test_random_weights_are_never_used(pretrained: str) -> None:
    with pytest.raises(InputError, match="grouping"):
        ClipEmbedder(ClipConfig(kind="clip", pretrained=pretrained))


def test_a_folder_without_weights_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((tiny_clip / "open_clip_config.json").read_bytes())
    with pytest.raises(InputError, match="cannot load"):
        embedder(tmp_path, "text")
