"""Any place that pyarrow or fsspec can read, as a pyarrow file system and a path in it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import cast

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from lcia.addresses import anchored, is_url
from lcia.digests import file_digest
from lcia.types import InputError


def filesystem(place: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URL, and the path in it.

    Raises:
        InputError: neither pyarrow nor fsspec knows the scheme, its driver is not installed, or it cannot be reached.
    """
    if not is_url(place):
        return pafs.LocalFileSystem(), anchored(place)
    with explained(place):
        try:
            fs, path = pafs.FileSystem.from_uri(place)
        except pa.ArrowInvalid:
            found, path = fsspec.core.url_to_fs(place)
            fs = pafs.PyFileSystem(pafs.FSSpecHandler(found))
    return fs, path


@contextmanager
def explained(place: str, *spared: type[Exception]) -> Iterator[None]:
    """Makes an InputError that names the place of whatever its file system raises, but for what is `spared`."""
    try:
        yield
    except Exception as error:
        # Each driver of fsspec raises classes of its own, which share no base.
        if isinstance(error, (InputError, *spared)):
            raise
        advice = "; check the address, the network and the credentials" if is_url(place) else ""
        raise InputError(f"cannot read {shown(place)}: {str(error) or type(error).__name__}{advice}") from error


def shown(place: str) -> str:
    """A place as messages name it: without the user and password that a URL may hold."""
    return re.sub(r"://[^/?]*@", "://", place)


def open_buffered(place: str) -> io.BufferedReader:
    """A seekable binary file with readline.

    Raises:
        InputError: it cannot be opened.
    """
    fs, path = filesystem(place)
    with explained(place):
        # A pyarrow file has what BufferedReader asks of a raw one, but no readline.
        return io.BufferedReader(cast(io.RawIOBase, fs.open_input_file(path)), 1 << 20)


def look_up(fs: pafs.FileSystem, paths: Sequence[str]) -> list[pafs.FileInfo]:
    """What a file system knows of these paths; raises what the driver does where a web server does not answer."""
    infos: list[pafs.FileInfo] = fs.get_file_info(list(paths))
    for info in infos:
        if info.type == pafs.FileType.NotFound and isinstance(fs, pafs.PyFileSystem):
            _demand_an_answer(fs.handler.fs, info.path)
    return infos


def _demand_an_answer(driver: fsspec.AbstractFileSystem, path: str) -> None:
    """fsspec calls a file on a web server not found whatever went wrong, and keeps what did as the cause."""
    if "http" not in driver.protocol:
        return
    try:
        driver.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in (404, 410):
            return
        raise cause from None


def digest_of(place: str) -> str:
    """BLAKE2b over a whole file, 32 hex digits; a local one is remembered, so it is read at the first start only."""
    fs, path = filesystem(place)
    with explained(place):
        if isinstance(fs, pafs.LocalFileSystem):
            return file_digest(Path(path))
        with open_buffered(place) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def matching(place: str, suffixes: Sequence[str]) -> list[str]:
    """The files that `place` names, sorted: itself, those of its folder with one of the suffixes, or of its pattern.

    Raises:
        InputError: there is none, it is not a file (a device, a pipe), or its file system cannot be reached.
    """
    fs, path = filesystem(place)
    scheme = place[: place.index("://") + 3] if is_url(place) else ""
    with explained(place):
        found = _matching(fs, path, suffixes)
    if not found:
        raise InputError(
            f"no data at {shown(place)}: give a file, a folder with {' or '.join(suffixes)} files, or a pattern"
        )
    return [_place(scheme, p) for p in sorted(found)]


def _matching(fs: pafs.FileSystem, path: str, suffixes: Sequence[str]) -> list[str]:
    folder, _, pattern = path.rpartition("/")
    match look_up(fs, [path])[0].type:
        case pafs.FileType.File:
            return [path]
        case pafs.FileType.Directory:
            return [p for p in _files(fs, path) if p.endswith(tuple(suffixes))]
        case pafs.FileType.NotFound if "*" in pattern:
            return [p for p in _files(fs, folder) if fnmatch(p.rpartition("/")[2], pattern)]
        case pafs.FileType.NotFound:
            return []
        case _:
            raise InputError(f"{path} is a device or a pipe, not a file: give a file, a folder or a pattern")


def _files(fs: pafs.FileSystem, folder: str) -> list[str]:
    infos = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return [info.path for info in infos if info.type == pafs.FileType.File]


def _place(scheme: str, path: str) -> str:
    return f"{scheme}{path.lstrip('/')}" if scheme not in ("", "file://", "memory://") else f"{scheme}{path}"
