"""Folders and files on their way into, out of and within a storage place; others may use the same ones meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from lcia.secrets import redacted
from lcia.store.seals import MARKER, defects
from lcia.store.trouble import StoreError
from lcia.types import InputError

BROKEN = ".broken-"
"""Between the name of a folder and a few digits: it was damaged and is set aside."""
MOVES = 10
"""How often a move or a deletion is tried again because others changed the same folder meanwhile."""


def open_storage(root: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a storage place and the path there; a local folder is made.

    Raises:
        InputError: there cannot be a storage place there.
    """
    try:
        fs, base = pafs.FileSystem.from_uri(root)
        if isinstance(fs, pafs.LocalFileSystem):
            Path(base).mkdir(parents=True, exist_ok=True)
    except (ValueError, ImportError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise _unusable(root, error) from error
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise _unusable(root, error) from error
    return fs, base


def _unusable(root: str, error: Exception) -> InputError:
    return InputError(
        f"storage {redacted(root)} cannot be used ({redacted(str(error))}): name a folder that you may write, "
        "or a URL such as s3://bucket/prefix"
    )


def move(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`, which stays if it is whole: equal key, equal content; if damaged, it is set aside.

    Others may publish, set aside or clear the same folder between any two lines.
    """
    for _ in range(MOVES):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
        if not defects(target):
            return
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, f"{target}{BROKEN}{uuid.uuid4().hex[:8]}")
    raise StoreError(f"cannot publish {target}: other processes keep changing it")


def names_in(fs: pafs.FileSystem, folder: str) -> list[str]:
    """What lies in a folder; nothing where there is no folder."""
    selector = pafs.FileSelector(folder, allow_not_found=True)
    for _ in range(MOVES):
        # Another process may delete or make the folder between a look at it and its listing.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            infos = fs.get_file_info(selector)
            if infos or _is_missing(fs, folder) or not (infos := fs.get_file_info(selector)):
                return sorted(info.base_name for info in infos)
    raise StoreError(f"cannot list {folder}: other processes keep changing it")


def read(fs: pafs.FileSystem, path: str) -> bytes | None:
    """The bytes of a file; None where there is none."""
    try:
        with fs.open_input_stream(path) as stream:
            data: bytes = stream.read()
        return data
    except (FileNotFoundError, NotADirectoryError):
        return None if _is_missing(fs, path) else read(fs, path)


def download(fs: pafs.FileSystem, source: str, target: Path) -> None:
    """Copies a file or a folder to this machine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _copy(fs, source, target)
    except FileNotFoundError:
        if _is_missing(fs, source):
            raise
        _copy(fs, source, target)


def _copy(fs: pafs.FileSystem, source: str, target: Path) -> None:
    pafs.copy_files(source, str(target), source_filesystem=fs, destination_filesystem=pafs.LocalFileSystem())


def _is_missing(fs: pafs.FileSystem, path: str) -> bool:
    """Asks for the facts of a path: fsspec's file systems call a place that is away a missing one, but not here."""
    return bool(fs.get_file_info(path).type == pafs.FileType.NotFound)


def upload(fs: pafs.FileSystem, source: Path, target: str) -> None:
    """Copies a file of this machine into a storage place."""
    with source.open("rb") as reader, _sink(fs, target) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def write(fs: pafs.FileSystem, target: str, data: bytes) -> None:
    """Writes a file into a storage place."""
    with _sink(fs, target) as writer:
        writer.write(data)


def _sink(fs: pafs.FileSystem, target: str) -> Any:
    """A stream to write `target`; where folders are real ones, another process may clear this one meanwhile."""
    for _ in range(MOVES):
        with contextlib.suppress(FileNotFoundError):
            fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
            return fs.open_output_stream(target)
    raise StoreError(f"cannot write {target}: other processes keep deleting its folder")


def delete(fs: pafs.FileSystem, folder: str) -> None:
    """Deletes a folder into which others may be writing: what they add after that is theirs and stays."""
    for _ in range(MOVES):
        try:
            fs.delete_dir(folder)
            return
        except FileNotFoundError:
            # The folder is gone, or only a file of it that another process has deleted first.
            if fs.get_file_info(folder).type == pafs.FileType.NotFound:
                return
        except OSError as error:
            # EISDIR: it was missing when the file system looked whether it is a folder, and then was made.
            if error.errno not in (errno.ENOTEMPTY, errno.EISDIR):
                raise


def move_files(fs: pafs.FileSystem, folder: str, target: str) -> None:
    """Moves a folder file by file, the marker first: object stores cannot move a folder."""
    fs.create_dir(target, recursive=True)
    fs.move(f"{folder}/{MARKER}", f"{target}/{MARKER}")
    for info in fs.get_file_info(pafs.FileSelector(folder, recursive=True)):
        if info.is_file:
            name = info.path.removeprefix(f"{folder}/")
            fs.create_dir(f"{target}/{name}".rsplit("/", 1)[0], recursive=True)
            fs.move(info.path, f"{target}/{name}")
