"""Encoded images: where they may lie, and whether they decode. The bytes are kept as they are."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import PurePosixPath

import pyarrow.fs as pafs
from PIL import Image

from lcia.files import filesystem
from lcia.records import RowError

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is decoded; the other formats of Pillow include some that start programs."""

_UNDECODABLE = (
    OSError, SyntaxError, ValueError, ArithmeticError, LookupError, EOFError, TypeError, struct.error, zlib.error
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""

_BYTES_PER_PIXEL, _HEADERS = 4, 1 << 20
"""No encoding of ours needs more, so a larger file is refused before it is read."""


class ImageFolder:
    """Reads images by their names relative to a root, and none from elsewhere."""

    def __init__(self, root: str, max_pixels: int) -> None:
        self._fs, self._root = filesystem(root)
        self._local = isinstance(self._fs, pafs.LocalFileSystem)
        self._real = os.path.realpath(self._root) if self._local else self._root
        self._max_bytes = max_pixels * _BYTES_PER_PIXEL + _HEADERS

    def path(self, name: str) -> str:
        """Where `name` lies.

        Raises:
            RowError: it is absolute, a URL, climbs out with "..", or is a link that leads out.
        """
        if leaves(name):
            raise RowError("image_outside_root", f"image {name!r} must be a path below the image root")
        path = f"{self._root.rstrip('/')}/{name}"
        if self._local and not _inside(os.path.realpath(path), self._real):
            raise RowError("image_outside_root", f"image {name!r} is a link that leaves the image root")
        return path

    def read(self, name: str) -> bytes:
        """The file's bytes; raises RowError where it is missing, outside the root, or too large to be an image."""
        path = self.path(name)
        info = self._fs.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise RowError("missing_image", f"image {name!r} is not there")
        if info.size is not None and info.size > self._max_bytes:
            raise RowError("image_too_large", f"image {name!r} is a file of {info.size} bytes")
        try:
            with self._fs.open_input_stream(path) as stream:
                data: bytes = stream.read()
        except OSError as error:
            raise RowError("missing_image", f"image {name!r} cannot be read: {error}") from None
        return data

    def sizes(self, names: list[str]) -> list[int | None]:
        """File sizes in bytes; None where there is no file."""
        infos = self._fs.get_file_info([f"{self._root.rstrip('/')}/{name}" for name in names])
        return [info.size for info in infos]


def leaves(name: str) -> bool:
    """Whether a name, by its letters alone, is no path below a root."""
    return "://" in name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\x00" in name or "\\" in name


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def check_image(data: bytes, name: str, max_pixels: int) -> None:
    """Raises RowError unless `data` decodes completely to at most `max_pixels`; the size is looked at first."""
    if not data:
        raise RowError("empty_image", f"image {name!r} has no bytes")
    try:
        with warnings.catch_warnings():
            # Our own limit is the one that counts; Pillow only warns.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image.size, name, max_pixels)
            _decode(image, name)
    except Image.DecompressionBombError:
        raise RowError("image_too_large", f"image {name!r} has far more than {max_pixels} pixels") from None
    except _UNDECODABLE as error:
        raise RowError("unreadable_image", f"image {name!r} is no {', '.join(FORMATS)}: {error}") from None


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise RowError(
            "image_too_large",
            f"image {name!r} has {size[0]} x {size[1]} pixels, data.max_image_pixels is {max_pixels}",
        )


def _decode(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except _UNDECODABLE as error:
        raise RowError("truncated_image", f"image {name!r} breaks off or is damaged: {error}") from None
