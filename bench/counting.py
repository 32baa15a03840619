"""A pyarrow file system that counts what is read through it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs


class Counting(pafs.FileSystemHandler):  # type: ignore[misc]
    """Passes everything on to `under`; `bytes` and `reads` count what its files gave, `opened` how many were opened.

    Use it as `pyarrow.fs.PyFileSystem(Counting(under))`.
    """

    def __init__(self, under: pafs.FileSystem) -> None:
        self.under = under
        self.bytes = self.reads = self.opened = 0

    def get_type_name(self) -> str:
        return f"counting {self.under.type_name}"

    def normalize_path(self, path: str) -> str:
        return str(self.under.normalize_path(path))

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        return list(self.under.get_file_info(list(paths)))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return list(self.under.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self.under.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.under.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.under.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("nobody deletes everything")

    def delete_file(self, path: str) -> None:
        self.under.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self.under.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self.under.copy_file(src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        self.opened += 1
        return pa.PythonFile(_CountingFile(self, self.under.open_input_file(path)), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self.under.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self.under.open_append_stream(path, metadata=metadata)


class _CountingFile(io.RawIOBase):
    def __init__(self, counts: Counting, file: pa.NativeFile) -> None:
        super().__init__()
        self._counts, self._file = counts, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(None if size is None or size < 0 else size)
        self._counts.bytes += len(data)
        self._counts.reads += 1
        return data
