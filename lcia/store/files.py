"""The files of one result where they lie: read whole or in ranges, and written by processes on any machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from lcia.store.seals import Entries
from lcia.store.transfer import read, write
from lcia.store.trouble import StoreError, patiently

UNFINISHED = ".unfinished"
"""Folder, inside one that is being filled, of files that are not written to their end."""


def damaged(folder: str, names: Sequence[str]) -> StoreError:
    """The error of a folder that does not belong to a store: it can only be named."""
    return StoreError(f"{', '.join(names)} in {folder} is damaged")


@dataclass(frozen=True, slots=True)
class Files:
    """A folder of a file system; `root` is the storage that messages name. It can be sent to other processes.

    `report` is told the names of damaged files and returns the error to raise.
    """

    fs: pafs.FileSystem
    folder: str
    root: str
    report: Callable[[Sequence[str]], StoreError] | None = None

    @classmethod
    def local(cls, folder: Path) -> Files:
        """The files of a local folder."""
        return cls(pafs.LocalFileSystem(), str(folder), str(folder))

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def open(self, name: str) -> Any:
        """A pyarrow file, for read_range. Raises FileNotFoundError."""
        return patiently(self.root, self.fs.open_input_file, self.path(name))

    def read_range(self, name: str, start: int, size: int, file: Any = None) -> bytes:
        """`size` bytes from byte `start`, of `file` where it is open; fewer where it ends. Raises FileNotFoundError."""
        return patiently(self.root, self._read_range, name, start, size, file)

    def _read_range(self, name: str, start: int, size: int, file: Any) -> bytes:
        if file is None:
            with self.fs.open_input_file(self.path(name)) as opened:
                return self._read_range(name, start, size, opened)
        data: bytes = file.read_at(size, start)
        return data

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        data = patiently(self.root, read, self.fs, self.path(name))
        if data is None:
            raise FileNotFoundError(self.path(name))
        return data

    def write(self, name: str, data: bytes) -> dict[str, Any]:
        """Puts a file into its place, whole or not at all; returns its entry in the marker. It may be repeated.

        Raises:
            FileNotFoundError: on a local disk, nobody fills this folder any more.
        """
        patiently(self.root, self._put, name, data)
        return {"size": len(data), "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest()}

    def _put(self, name: str, data: bytes) -> None:
        if not self.is_local:
            # An object store shows an object when it is whole.
            write(self.fs, self.path(name), data)
            return
        unfinished = Path(self.folder) / UNFINISHED
        # Not its parents: where the folder was published or given up meanwhile, nothing may be made again.
        unfinished.mkdir(exist_ok=True)
        scratch = unfinished / uuid.uuid4().hex
        scratch.write_bytes(data)
        os.replace(scratch, self.path(name))

    def finish(self) -> None:
        """Deletes what killed writers have not written to its end: nobody writes any more."""
        if self.is_local:
            shutil.rmtree(Path(self.folder) / UNFINISHED, ignore_errors=True)

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there."""
        patiently(self.root, self._delete, name)

    def _delete(self, name: str) -> None:
        if self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound:
            self.fs.delete_file(self.path(name))

    def damaged(self, *names: str) -> StoreError:
        """The error to raise where these files are not what was written; a store sets the result aside."""
        return damaged(self.folder, names) if self.report is None else self.report(names)


@dataclass(frozen=True, slots=True)
class Shared:
    """A result that processes on any machine write together.

    `files` is for them; `folder`, on this machine, for what is small. The one that gathers their work notes
    in `written` what they wrote, as Files.write returns it.
    """

    folder: Path
    files: Files
    written: Entries = field(default_factory=dict)

    @classmethod
    def local(cls, folder: Path) -> Shared:
        """A result in a local folder."""
        return cls(folder, Files.local(folder))
