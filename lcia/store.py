"""Content-addressed folders on any pyarrow file system: what is done is found by its key.

Files come first, a marker with sizes and checksums last; a folder without a marker that fits is absent. Finished
results are never deleted; only the partial checkpoints of a stage go when newer ones or its result are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.fs as pafs

MARKER = "complete.json"
RECORD = "stage.json"
KEPT_CHECKPOINTS = 2


class StoreError(RuntimeError):
    """A stored folder is not what its marker says."""


def checksum(path: Path) -> str:
    """32 hex digits of blake2b over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _files(folder: Path) -> list[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MARKER)


def seal(folder: Path) -> None:
    """Writes the marker: from here on the folder counts as complete."""
    entries = {n: {"size": (folder / n).stat().st_size, "blake2b": checksum(folder / n)} for n in _files(folder)}
    text = json.dumps({"files": entries}, indent=1, sort_keys=True)
    with (folder / MARKER).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def defects(folder: Path) -> list[str]:
    """What keeps a sealed local folder from being complete; empty: nothing."""
    try:
        entries = json.loads((folder / MARKER).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return [f"{MARKER} is missing or unreadable"]
    return [name for name, entry in entries.items() if not _fits(folder / name, entry)]


def _fits(path: Path, entry: Mapping[str, object]) -> bool:
    return path.is_file() and path.stat().st_size == entry["size"] and checksum(path) == entry["blake2b"]


class Store:
    """Stage results under one root: a local path, a mounted volume, or a URL such as s3://bucket/prefix."""

    def __init__(self, root: str, cache: Path | None = None) -> None:
        absolute = root if "://" in root else str(Path(root).absolute())
        self.root = absolute
        self.fs, self.base = pafs.FileSystem.from_uri(absolute)
        self.local = isinstance(self.fs, pafs.LocalFileSystem)
        self._cache = (
            cache or Path(tempfile.gettempdir()) / "lcia-cache" / hashlib.blake2b(absolute.encode()).hexdigest()[:16]
        )
        self._verified: set[str] = set()

    def path(self, key: str) -> str:
        return f"{self.base}/{key[:2]}/{key}"

    def has(self, key: str) -> bool:
        """Whether a complete result is there (marker present, every file of the stated size)."""
        entries = self._marker(self.path(key))
        if entries is None:
            return False
        infos = self.fs.get_file_info([f"{self.path(key)}/{name}" for name in entries])
        return all(info.size == entry["size"] for info, entry in zip(infos, entries.values(), strict=True))

    def _marker(self, folder: str) -> dict[str, dict[str, object]] | None:
        try:
            with self.fs.open_input_stream(f"{folder}/{MARKER}") as stream:
                files: dict[str, dict[str, object]] = json.loads(stream.read())["files"]
                return files
        except (FileNotFoundError, ValueError, KeyError):
            return None

    @contextlib.contextmanager
    def publish(self, key: str, record: Mapping[str, object]) -> Iterator[Path]:
        """An empty local folder to fill; on leaving without an error its content becomes the result of `key`."""
        with self._staging() as folder:
            yield folder
            (folder / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False))
            self._put(folder, self.path(key))

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        parent = Path(self.base) / ".tmp" if self.local else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f"lcia-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _put(self, folder: Path, target: str) -> None:
        """Makes `folder` the content of `target`: one rename on a local disk, the marker last elsewhere."""
        seal(folder)
        if not self.local:
            for name in [*_files(folder), MARKER]:
                _upload(self.fs, folder / name, f"{target}/{name}")
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        if Path(target).exists() and defects(Path(target)):
            os.rename(target, f"{target}.broken-{uuid.uuid4().hex[:8]}")
        try:
            os.rename(folder, target)
        except OSError as error:
            # Somebody else may have published the same key meanwhile: equal key, equal content.
            if not Path(target).exists():
                raise StoreError(f"cannot publish {target}: {error.strerror}") from error

    def fetch(self, key: str) -> Path:
        """A local folder with the verified result of `key`.

        Raises:
            StoreError: nothing complete is there, or a file differs from its checksum.
        """
        folder = Path(self.path(key)) if self.local else self._download(key)
        if key not in self._verified:
            if broken := defects(folder):
                raise StoreError(f"{folder} is damaged ({', '.join(broken[:3])}): move it away and run again")
            self._verified.add(key)
        return folder

    def _download(self, key: str) -> Path:
        folder = self._cache / key
        if not (folder.exists() and not defects(folder)):
            entries = self._marker(self.path(key))
            if entries is None:
                raise StoreError(f"{self.path(key)} holds no complete result")
            for name in [*entries, MARKER]:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                pafs.copy_files(
                    f"{self.path(key)}/{name}",
                    str(target),
                    source_filesystem=self.fs,
                    destination_filesystem=pafs.LocalFileSystem(),
                )
        return folder

    def checkpoints(self, key: str) -> Checkpoints:
        return Checkpoints(self, f"{self.base}/partial/{key}")


class Checkpoints:
    """Mid-stage checkpoints of one stage, newest last; each sealed like a result."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder

    @contextlib.contextmanager
    def save(self, step: int) -> Iterator[Path]:
        """A local folder to fill; it counts once the block is left without an error. Older ones then go."""
        with self._store._staging() as folder:
            yield folder
            self._store._put(folder, f"{self._folder}/{step:09d}")
        for old in self._names()[:-KEPT_CHECKPOINTS]:
            self._store.fs.delete_dir(f"{self._folder}/{old}")

    def _names(self) -> list[str]:
        infos = self._store.fs.get_file_info(pafs.FileSelector(self._folder, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.base_name.isdigit())

    def load(self, into: Path) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, copied below `into`, and the names of damaged ones passed over."""
        broken: list[str] = []
        for name in reversed(self._names()):
            local = into / name
            local.mkdir(parents=True)
            pafs.copy_files(
                f"{self._folder}/{name}",
                str(local),
                source_filesystem=self._store.fs,
                destination_filesystem=pafs.LocalFileSystem(),
            )
            if not defects(local):
                return local, broken
            broken.append(name)
        return None, broken

    def clear(self) -> None:
        """Removes them all: the stage's result is published."""
        if self._store.fs.get_file_info(self._folder).type != pafs.FileType.NotFound:
            self._store.fs.delete_dir(self._folder)


def _upload(fs: pafs.FileSystem, source: Path, target: str) -> None:
    fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
    with source.open("rb") as reader, fs.open_output_stream(target) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
