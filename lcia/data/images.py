"""Encoded images: where they may lie, and whether they can be used. The bytes are kept as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow.fs as pafs
from PIL import Image

from lcia.addresses import is_url
from lcia.data.filesystems import explained, filesystem, look_up
from lcia.data.pixels import FORMATS, UNDECODABLE, opened, to_rgb
from lcia.data.records import RowError, check_storable
from lcia.digests import file_digests

SQUARE = 2
"""The square around an image may have so many times the pixels that an image may have."""

_BYTES_PER_PIXEL, _HEADERS = 8, 1 << 20
"""No encoding that we read needs more, so a larger file is refused before it is read."""

_GREY_16 = ("PNG", "PPM")
"""Formats in which Pillow's 32-bit mode I holds 16 bits."""


# Files


class ImageFolder:
    """Reads images by their names relative to a root, and none from elsewhere."""

    def __init__(self, root: str, max_pixels: int) -> None:
        self._place, (self._fs, self._root) = root, filesystem(root)
        self._local = isinstance(self._fs, pafs.LocalFileSystem)
        self._real = os.path.realpath(self._root) if self._local else self._root
        self._max_bytes = max_bytes(max_pixels)

    def path(self, name: str) -> str:
        """Where `name` lies.

        Raises:
            RowError: it is absolute, a URL, climbs out with "..", is a link that leads out, or cannot be a name.
        """
        check_storable(name)
        if points_outside(name):
            raise RowError("image_outside_root", f"image {name!r} must be a path below the image root")
        path = f"{self._root.rstrip('/')}/{name}"
        if self._local and not _inside(os.path.realpath(path), self._real):
            raise RowError("image_outside_root", f"image {name!r} is a link that leaves the image root")
        return path

    def read(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            RowError: it is missing, outside the root, or too large to be an image.
            InputError: the file system of the root cannot be reached.
        """
        path = self.path(name)
        with self._missing(name):
            (info,) = look_up(self._fs, [path])
        if info.type == pafs.FileType.NotFound:
            raise RowError("missing_image", f"image {name!r} does not exist")
        if info.type != pafs.FileType.File:
            raise RowError("missing_image", f"image {name!r} is not a file")
        if info.size is not None and info.size > self._max_bytes:
            raise RowError("image_too_large", f"image {name!r} is a file of {info.size} bytes")
        with self._missing(name), self._fs.open_input_stream(path) as stream:
            data: bytes = stream.read()
        return data

    @contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        """A local file that cannot be read or a remote one that does not exist is a bad row; the rest is InputError."""
        try:
            if self._local:
                yield
            else:
                with explained(f"{self._place}/{name}", FileNotFoundError):
                    yield
        except OSError as error:
            raise RowError("missing_image", f"image {name!r} cannot be read: {error}") from None

    def identities(self, names: Sequence[str]) -> list[str]:
        """Per name what changes with the file's contents; empty where there is no such file below the root.

        A local file's digest; elsewhere its size, with the time of the last change where the file system tells it.
        """
        paths = [self._path_or_none(name) for name in names]
        known = [path for path in paths if path is not None]
        found = iter(_digests(known) if self._local else self._sizes_and_times(known))
        return ["" if path is None else next(found) for path in paths]

    def _path_or_none(self, name: str) -> str | None:
        try:
            return self.path(name)
        except RowError:
            return None

    def _sizes_and_times(self, paths: Sequence[str]) -> Iterator[str]:
        with explained(self._place):
            infos = look_up(self._fs, paths)
        return (f"{info.size} {info.mtime_ns}" if info.is_file else "" for info in infos)


def max_bytes(max_pixels: int) -> int:
    """The largest file that can be an image of at most so many pixels."""
    return max_pixels * _BYTES_PER_PIXEL + _HEADERS


def points_outside(name: str) -> bool:
    """Whether a name, as text, points outside the root."""
    return is_url(name) or name.startswith("/") or ".." in PurePosixPath(name).parts or "\x00" in name or "\\" in name


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _digests(paths: Sequence[str]) -> Iterator[str]:
    """Of local files; empty for what is not a file that can be read."""
    readable = {path: None for path in paths if _is_readable(path)}
    digests = dict(zip(readable, file_digests(readable), strict=True))
    return (digests.get(path, "") for path in paths)


def _is_readable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.R_OK)
    except OSError:
        return False


# Checks


def check_image(data: bytes, name: str, max_pixels: int) -> None:
    """Raises RowError unless decode_rgb can read `data` and its size is allowed, which is looked at first."""
    if not data:
        raise RowError("empty_image", f"image {name!r} has no bytes")
    try:
        with opened(data) as image:
            _check_size(image.size, name, max_pixels)
            _check_depth(image, name)
            _decode(image, name)
            to_rgb(image)
    except Image.DecompressionBombError as error:
        raise RowError("image_too_large", f"image {name!r} is larger than Pillow reads: {error}") from None
    except UNDECODABLE as error:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise RowError("unreadable_image", f"image {name!r} cannot be read as {known}: {error}") from None


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    what = f"image {name!r} has {width} x {height} pixels"
    if width * height > max_pixels:
        raise RowError("image_too_large", f"{what}, data.max_image_pixels is {max_pixels}")
    side = max(size)
    if side * side > SQUARE * max_pixels:
        raise RowError(
            "image_too_large",
            f"{what}: a square of its longer side has more than {SQUARE} times data.max_image_pixels ({max_pixels})",
        )


def _check_depth(image: Image.Image, name: str) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format not in _GREY_16):
        raise RowError(
            "unreadable_image",
            f"image {name!r} has samples of 32 bits, for which nothing says what is white: save it with 8 or 16 bits",
        )


def _decode(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except UNDECODABLE as error:
        raise RowError("truncated_image", f"image {name!r} breaks off or is damaged: {error}") from None
