"""Content-addressed folders on any pyarrow file system: what is done is found by its key.

Files come first, a marker with sizes and checksums last; a folder without a marker that fits is absent. Finished
results are never deleted; only the partial checkpoints of a stage go when newer ones or its result are there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from lcia.staging import staging

MARKER = "complete.json"
RECORD = "stage.json"
KEPT_CHECKPOINTS = 2
MOVES = 10
"""How often a move is tried anew because others moved the same folder meanwhile."""

Entries = dict[str, dict[str, Any]]
"""Size and checksum of each file of a sealed folder."""


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
        entries = _entries((folder / MARKER).read_bytes())
    except OSError:
        entries = None
    if entries is None:
        return [f"{MARKER} is missing or unreadable"]
    return [name for name, entry in entries.items() if not _fits(folder / name, entry)]


def _entries(marker: bytes) -> Entries | None:
    """What a marker lists; None where it is none, whatever a disk has made of it."""
    try:
        entries: Entries = json.loads(marker)["files"]
        sound = all({"size", "blake2b"} <= entry.keys() for entry in entries.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return entries if sound else None


def _fits(path: Path, entry: Mapping[str, object]) -> bool:
    return path.is_file() and path.stat().st_size == entry["size"] and checksum(path) == entry["blake2b"]


def history(notes: Mapping[str, Any]) -> str:
    """What a stage's notes say of how it came through interruptions, for people; empty: there were none."""
    damaged, resumed = notes.get("damaged_checkpoints", []), notes.get("resumed_at", [])
    told = [f"damaged checkpoints passed over: {', '.join(damaged)}"] if damaged else []
    if resumed:
        told.append(f"continued after step {', '.join(map(str, resumed))}")
    elif damaged:
        told.append("no whole one was left, so the stage began anew")
    return "; ".join(told)


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
        self._swept = False

    def path(self, key: str) -> str:
        return f"{self.base}/{key[:2]}/{key}"

    def has(self, key: str) -> bool:
        """Whether a complete result is there (marker present, every file of the stated size)."""
        entries = self._marker(self.path(key))
        if entries is None:
            return False
        infos = self.fs.get_file_info([f"{self.path(key)}/{name}" for name in entries])
        return all(info.size == entry["size"] for info, entry in zip(infos, entries.values(), strict=True))

    def _marker(self, folder: str) -> Entries | None:
        try:
            with self.fs.open_input_stream(f"{folder}/{MARKER}") as stream:
                return _entries(stream.read())
        except FileNotFoundError:
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
        if not self._swept:
            self._swept = True
            self._clear_finished()
        with staging(Path(self.base) / ".tmp" if self.local else Path(tempfile.gettempdir())) as folder:
            yield folder

    def _clear_finished(self) -> None:
        """Removes checkpoints of published stages: whoever was to do it has been killed."""
        for info in self.fs.get_file_info(pafs.FileSelector(f"{self.base}/partial", allow_not_found=True)):
            if self.has(info.base_name):
                self.checkpoints(info.base_name).clear()

    def _put(self, folder: Path, target: str) -> None:
        """Makes `folder` the content of `target`: one rename on a local disk, the marker last elsewhere."""
        seal(folder)
        if self.local:
            _move(folder, Path(target))
            return
        for name in [*_files(folder), MARKER]:
            _upload(self.fs, folder / name, f"{target}/{name}")

    def _drop(self, folder: str) -> None:
        """Deletes `folder` so that no half of it is ever seen; others may delete it at the same time."""
        if self.local:
            with self._staging() as grave, contextlib.suppress(FileNotFoundError):
                os.rename(folder, grave / "dropped")
            return
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(f"{folder}/{MARKER}")
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_dir(folder)

    def fetch(self, key: str) -> Path:
        """A local folder with the verified result of `key`.

        Raises:
            StoreError: nothing complete is there, or a file differs from its checksum.
        """
        folder = Path(self.path(key)) if self.local else self._cached(key)
        if key not in self._verified:
            if broken := defects(folder):
                raise StoreError(f"{folder} is damaged ({', '.join(broken[:3])}): move it away and run again")
            self._verified.add(key)
        return folder

    def _cached(self, key: str) -> Path:
        folder = self._cache / key
        if not (folder.exists() and not defects(folder)):
            entries = self._marker(self.path(key))
            if entries is None:
                raise StoreError(f"{self.path(key)} holds no complete result")
            # Others on this machine may fetch the same: a file in the cache never changes under a reader.
            with staging(self._cache) as scratch:
                for name in [*entries, MARKER]:
                    _download(self.fs, f"{self.path(key)}/{name}", scratch / name)
                _move(scratch, folder)
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
        # Later ones are damaged, or another process's that is ahead: neither may push this one out.
        older = [name for name in self._names() if int(name) <= step]
        for old in older[:-KEPT_CHECKPOINTS]:
            self._store._drop(f"{self._folder}/{old}")

    def _names(self) -> list[str]:
        infos = self._store.fs.get_file_info(pafs.FileSelector(self._folder, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.base_name.isdigit())

    def load(self, into: Path, newest: int | None = None) -> tuple[Path | None, list[str]]:
        """The newest checkpoint (up to step `newest`) that is whole, copied below `into`, and the names of damaged
        ones passed over. What another process deletes meanwhile counts as never seen."""
        broken: list[str] = []
        for name in reversed(self._names()):
            if newest is not None and int(name) > newest:
                continue
            local = self._copy(name, into / name)
            if not defects(local):
                return local, broken
            if name not in self._names():
                return self.load(into, newest)
            broken.append(name)
        return None, broken

    def _copy(self, name: str, into: Path) -> Path:
        into.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            pafs.copy_files(
                f"{self._folder}/{name}",
                str(into),
                source_filesystem=self._store.fs,
                destination_filesystem=pafs.LocalFileSystem(),
            )
        return into

    def clear(self) -> None:
        """Removes them all: the stage's result is published."""
        if self._store.fs.get_file_info(self._folder).type != pafs.FileType.NotFound:
            self._store._drop(self._folder)


def _move(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`, which stays if it is whole: equal key, equal content; if damaged, it is put aside.

    Others may publish, put aside or clear the same folder between any two lines.
    """
    for _ in range(MOVES):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise StoreError(f"cannot publish {target}: {error.strerror}") from error
        if not defects(target):
            return
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, f"{target}.broken-{uuid.uuid4().hex[:8]}")
    raise StoreError(f"cannot publish {target}: other processes keep changing it")


def _download(fs: pafs.FileSystem, source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pafs.copy_files(source, str(target), source_filesystem=fs, destination_filesystem=pafs.LocalFileSystem())


def _upload(fs: pafs.FileSystem, source: Path, target: str) -> None:
    with source.open("rb") as reader, _sink(fs, target) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def _sink(fs: pafs.FileSystem, target: str) -> Any:
    """A stream to write `target`; where folders are real ones, another process may clear this one meanwhile."""
    for _ in range(MOVES):
        with contextlib.suppress(FileNotFoundError):
            fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
            return fs.open_output_stream(target)
    raise StoreError(f"cannot write {target}: other processes keep deleting its folder")
