"""Any place that pyarrow or fsspec can read, as a pyarrow file system and a path in it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import cast

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from lcia.types import InputError


def filesystem(place: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URL, and the path in it.

    Raises:
        InputError: neither pyarrow nor fsspec knows the scheme, or its driver is not installed.
    """
    if "://" not in place:
        return pafs.LocalFileSystem(), os.path.abspath(place)
    try:
        fs, path = pafs.FileSystem.from_uri(place)
    except pa.ArrowInvalid:
        fs, path = _through_fsspec(place)
    return fs, path


def _through_fsspec(place: str) -> tuple[pafs.FileSystem, str]:
    try:
        fs, path = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise InputError(f"cannot open {place}: {error}") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def anchored(place: str) -> str:
    """A local path made absolute, because workers have other working folders; a URL as it is."""
    return place if "://" in place else os.path.abspath(place)


def below(root: str, name: str) -> str:
    """`name` seen from `root`, unless it is absolute or a URL itself."""
    if "://" in name or os.path.isabs(name) or not root:
        return anchored(name)
    return anchored(f"{root.rstrip('/')}/{name}") if name else anchored(root)


def open_buffered(place: str) -> io.BufferedReader:
    """A seekable binary file with readline.

    Raises:
        InputError: it cannot be opened.
    """
    fs, path = filesystem(place)
    try:
        # A pyarrow file has what BufferedReader asks of a raw one, but no readline.
        return io.BufferedReader(cast(io.RawIOBase, fs.open_input_file(path)), 1 << 20)
    except OSError as error:
        raise InputError(f"cannot read {place}: {error}") from None


def matching(place: str, suffixes: Sequence[str]) -> list[str]:
    """The files that `place` names, sorted: itself, those of its folder with one of the suffixes, or of its pattern.

    Raises:
        InputError: there is none.
    """
    fs, path = filesystem(place)
    scheme = place[: place.index("://") + 3] if "://" in place else ""
    folder, _, pattern = path.rpartition("/")
    found = [path] if fs.get_file_info(path).type == pafs.FileType.File else []
    if not found and "*" in pattern:
        found = [p for p in _files(fs, folder) if fnmatch(p.rpartition("/")[2], pattern)]
    elif not found:
        found = [p for p in _files(fs, path) if p.endswith(tuple(suffixes))]
    if not found:
        raise InputError(f"no data at {place}: give a file, a folder with {' or '.join(suffixes)} files, or a pattern")
    return [_place(scheme, p) for p in sorted(found)]


def _files(fs: pafs.FileSystem, folder: str) -> list[str]:
    infos = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return [info.path for info in infos if info.type == pafs.FileType.File]


def _place(scheme: str, path: str) -> str:
    return f"{scheme}{path.lstrip('/')}" if scheme not in ("", "file://", "memory://") else f"{scheme}{path}"
