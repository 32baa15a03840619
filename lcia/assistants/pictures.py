"""Encoded images to pixel values, the same in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lcia.data.pixels import decode_rgb


class Pictures:
    """LLaVA's preparation: pad to a square with the processor's mean colour, then the checkpoint's own processing.

    A CLIP processor that crops a square to its own size is replaced by the same steps in Pillow and numpy, which cost
    a fraction of the general code's time.
    """

    def __init__(self, processor: Any, pad_to_square: bool) -> None:
        self.processor, self.pad = processor, pad_to_square
        self.fill = tuple(int(value * 255) for value in processor.image_mean)
        self.mean = np.asarray(processor.image_mean, dtype=np.float32) * 255
        self.std = np.asarray(processor.image_std, dtype=np.float32) * 255
        self.side = _plain_side(processor) if pad_to_square else None

    def __call__(self, images: Sequence[bytes]) -> Tensor:
        """[images, 3, height, width], float32."""
        if self.side is not None:
            # One at a time, because a large image takes far more memory than the pixels that are left of it.
            return torch.from_numpy(np.stack([self._pixels(image, self.side) for image in images]))
        opened = [self._opened(image) for image in images]
        processed: Tensor = self.processor(images=opened, return_tensors="pt")["pixel_values"]
        return processed

    def _opened(self, image: bytes) -> Image.Image:
        rgb = decode_rgb(image)
        return pad_to_square(rgb, self.fill) if self.pad else rgb

    def _pixels(self, encoded: bytes, side: int) -> NDArray[np.float32]:
        image = self._opened(encoded)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling(self.processor.resample))
        values = (np.asarray(image, dtype=np.float32) - self.mean) / self.std
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def pad_to_square(image: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square of its longer side."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _plain_side(processor: Any) -> int | None:
    """The output's side where a square only has to be resized, rescaled by 1/255 and normalised; else None."""
    steps = ("do_resize", "do_rescale", "do_normalize")
    if not all(getattr(processor, step) for step in steps) or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        return None
    size, crop = dict(processor.size), dict(processor.crop_size or {})
    side = size.get("shortest_edge")
    return side if side and crop == {"height": side, "width": side} else None
