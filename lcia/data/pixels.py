"""From an encoded image to the pixels that it stands for: one way for training, evaluation, embedding and display."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import ExifTags, Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is decoded, by the names that Pillow registers; an MPO is opened by the decoder of JPEG. Pillow's other formats
include some that start programs."""

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page. Diagrams are often black lines on nothing."""

UNDECODABLE = (OSError, SyntaxError, ValueError, ArithmeticError, EOFError, TypeError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts an image upright, by its EXIF orientation."""


def decode_rgb(data: bytes) -> Image.Image:
    """The image as training, evaluation, embedding, `lcia data show` and the report see it; see to_rgb."""
    with opened(data) as image:
        image.load()
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as a person sees it, in 8-bit RGB: upright by its EXIF orientation, on a white background, 16-bit
    grey scaled to 8, the first frame of several. Carries no metadata."""
    turn = _TURNS.get(_orientation(image) or 1)
    flat = _flattened(_grey_8(image))
    upright = flat if turn is None else flat.transpose(turn)
    upright.info.clear()
    return upright


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        # Our own limit is the one that counts; Pillow only warns. It warns of damaged EXIF blocks too.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=_registered()) as image:
            yield image


@cache
def _registered() -> tuple[str, ...]:
    """FORMATS; Pillow's own KeyError for one that it lacks would look like one of a damaged file."""
    Image.init()
    missing = set(FORMATS) - Image.OPEN.keys()
    assert not missing, f"this Pillow cannot read {sorted(missing)}"
    return FORMATS


def _orientation(image: Image.Image) -> int | None:
    """1 to 8; None without one, or where the EXIF block is damaged, as viewers do."""
    try:
        found: int | None = image.getexif().get(ExifTags.Base.Orientation)
    except UNDECODABLE:
        return None
    return found


def _grey_8(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as 8; Pillow's own conversion would clip all above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    grey = np.rint(np.arange(1 << 16) / 257).astype(np.uint8)[values]
    if isinstance(key := image.info.get("transparency"), int):
        grey[values == key] = BACKGROUND[0]
    return Image.fromarray(grey)


def _flattened(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, BACKGROUND)
    canvas.paste(layer, mask=layer)
    return canvas
