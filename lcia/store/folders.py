"""Content-addressed folders on any pyarrow file system: what is done is found by its key.

Files come first, a marker with sizes and checksums last; a folder without a marker that fits is absent. Finished
results are never deleted, and damaged ones are set aside and made again; only the partial checkpoints of a stage go
when newer ones or its result are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from lcia.addresses import anchored
from lcia.secrets import redacted
from lcia.store.background import Uploads
from lcia.store.files import Files, Shared
from lcia.store.lease import Guard, unguarded
from lcia.store.scratch import staging
from lcia.store.seals import MARKER, Entries, defects, entries_of, files_of, seal
from lcia.store.transfer import BROKEN, delete, download, move, move_files, names_in, open_storage, read, upload
from lcia.store.trouble import StoreError, named_when_full, patiently

LOG = logging.getLogger(__name__)

RECORD = "stage.json"
SHELF = 2
"""So many first letters of their keys results lie together by."""
KEPT_CHECKPOINTS = 2
DOWNLOADS = 2
"""How often a result is downloaded before the stored one, not the way here, counts as damaged."""


class AbsentError(StoreError):
    """There is no complete result."""


class DamagedError(StoreError):
    """A stored result was damaged; it has been set aside, so that the next run makes it again."""


class Store:
    """Stage results under one root: a local path, a mounted volume, or a URL such as s3://bucket/prefix.

    `copies`: what could be read in ranges from another machine is copied to this one first, whole. `guard` is asked
    before a checkpoint is written; results are the same from every attempt.
    """

    def __init__(self, root: str, cache: Path | None = None, copies: bool = False, guard: Guard = unguarded) -> None:
        absolute = anchored(root)
        self.root, self.guard = absolute, guard
        self.fs, self.base = patiently(absolute, open_storage, absolute)
        self.local = isinstance(self.fs, pafs.LocalFileSystem)
        self._cache = (
            cache or Path(tempfile.gettempdir()) / "lcia-cache" / hashlib.blake2b(absolute.encode()).hexdigest()[:16]
        )
        self._copies = copies
        self._verified: set[str] = set()
        self._sized: set[str] = set()
        """Results elsewhere whose files had their sizes."""
        self._swept = False

    def path(self, key: str) -> str:
        return f"{self.base}/{key[:SHELF]}/{key}"

    def has(self, key: str) -> bool:
        """Whether a complete result is there (marker present, every file of the stated size)."""
        entries = self._marker(self.path(key))
        return entries is not None and not self._missized(self.path(key), entries)

    def usable(self, key: str, in_ranges: bool = False) -> bool:
        """Whether a result is there and its checksums fit; a damaged one is set aside, said in the log, and absent.

        All bytes are read, once in the life of this object. Of a result on another machine that is read `in_ranges`
        the sizes are compared only: the reader of a range checks it.
        """
        folder = self.path(key)
        entries = self._marker(folder)
        if entries is None and not (self.local and Path(folder).exists()):
            return False
        try:
            if broken := [MARKER] if entries is None else self._missized(folder, entries):
                raise self._damaged(key, broken)
            if self.local or self._copies or not in_ranges:
                self.fetch(key)
        except DamagedError as error:
            LOG.warning("%s", error)
            return False
        except AbsentError:  # another process has just set it aside
            return False
        return True

    def _marker(self, folder: str) -> Entries | None:
        marker = patiently(self.root, read, self.fs, f"{folder}/{MARKER}")
        return None if marker is None else entries_of(marker)

    def _missized(self, folder: str, entries: Entries) -> list[str]:
        """The files of a marker that are missing or of another size."""
        infos = patiently(self.root, self.fs.get_file_info, [f"{folder}/{name}" for name in entries])
        pairs = zip(entries.items(), infos, strict=True)
        return [name for (name, entry), info in pairs if info.size != entry["size"]]

    @contextlib.contextmanager
    def publish(self, key: str, record: Mapping[str, object]) -> Iterator[Path]:
        """An empty local folder to fill; on leaving without an error its content becomes the result of `key`."""
        with self._staging() as folder:
            yield folder
            (folder / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False))
            # Equal key, equal content: what is whole is not written over while others may be reading it.
            if self.local or not self.has(key):
                self._put(folder, self.path(key))

    @contextlib.contextmanager
    def publish_shared(self, key: str, record: Mapping[str, object]) -> Iterator[Shared]:
        """As publish, for a result that many processes write; on another machine they write it where it will lie, where
        it counts for nothing before the marker."""
        with self._staging() as folder:
            files = Files.local(folder) if self.local else Files(self.fs, self.path(key), self.root)
            shared = Shared(folder, files)
            yield shared
            files.finish()
            (folder / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False))
            self._put(folder, self.path(key), shared.written)

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        if not self._swept:
            self._swept = True
            self._clear_finished()
        place = self.root if self.local else f"{tempfile.gettempdir()} or {self.root}"
        with (
            named_when_full(place),
            staging(Path(self.base) / ".tmp" if self.local else Path(tempfile.gettempdir())) as folder,
        ):
            yield folder

    def _clear_finished(self) -> None:
        """Removes the checkpoints of published stages whose own process was killed before it could."""
        for key in self._names(f"{self.base}/partial"):
            if self.has(key):
                self.checkpoints(key).clear()

    def _names(self, folder: str) -> list[str]:
        return patiently(self.root, names_in, self.fs, folder)

    def _put(self, folder: Path, target: str, written: Entries | None = None) -> None:
        """Makes `folder` the content of `target`: one rename on a local disk, the marker last elsewhere. Files that are
        `written` are in their place."""
        seal(folder, written)
        if self.local:
            patiently(self.root, move, folder, Path(target))
            return
        for name in [*files_of(folder), MARKER]:
            patiently(self.root, upload, self.fs, folder / name, f"{target}/{name}")

    def drop(self, folder: str) -> None:
        """Deletes a folder of the storage so that no half of it is ever seen; others may write or delete it at the same
        time."""
        if self.local:
            with self._staging() as grave, contextlib.suppress(FileNotFoundError):
                os.rename(folder, grave / "dropped")
            return
        with contextlib.suppress(FileNotFoundError):
            patiently(self.root, self.fs.delete_file, f"{folder}/{MARKER}")
        patiently(self.root, delete, self.fs, folder)

    def held(self) -> list[str]:
        """The keys of all results."""
        shelves = [name for name in self._names(self.base) if len(name) == SHELF]
        return [key for shelf in shelves for key in self._names(f"{self.base}/{shelf}") if self.has(key)]

    def glance(self, key: str, name: str) -> dict[str, Any]:
        """A small JSON file of a result, without verifying or bringing the others; empty where it is not there."""
        found: dict[str, Any] = json.loads(patiently(self.root, read, self.fs, f"{self.path(key)}/{name}") or b"{}")
        return found

    def fetch(self, key: str) -> Path:
        """A local folder with the verified result of `key`.

        Raises:
            DamagedError: a file differs from its checksum; the result has been set aside.
            AbsentError: nothing complete is there.
        """
        folder = Path(self.path(key)) if self.local else self._cache / key
        if key not in self._verified or not folder.exists():
            if self.local:
                self._verify(key, folder)
            else:
                self._bring(key, folder)
            self._verified.add(key)
        return folder

    def files(self, key: str) -> Files:
        """The result of `key`, to be read in ranges: where it lies, or as fetch brings it.

        Raises:
            DamagedError: a file differs from its checksum, or elsewhere from its size; the result has been set aside.
            AbsentError: nothing complete is there.
        """
        if self.local or self._copies:
            folder = str(self.fetch(key))
            return Files(pafs.LocalFileSystem(), folder, self.root, partial(self._damaged, key) if self.local else None)
        folder = self.path(key)
        if key not in self._sized:
            entries = self._marker(folder)
            if entries is None:
                raise self._absent(key)
            if broken := self._missized(folder, entries):
                raise self._damaged(key, broken)
            self._sized.add(key)
        return Files(self.fs, folder, self.root, partial(self._damaged, key))

    def _verify(self, key: str, folder: Path) -> None:
        if not folder.exists():
            raise self._absent(key)
        if broken := patiently(self.root, defects, folder):
            raise self._damaged(key, broken)

    def _bring(self, key: str, folder: Path) -> None:
        """Sees to it that `folder`, in this machine's cache, is a whole copy."""
        broken = [MARKER]
        if folder.exists() and not defects(folder):
            return
        for _ in range(DOWNLOADS):
            # Others on this machine may fetch the same: a file in the cache never changes under a reader.
            with named_when_full(str(self._cache)), staging(self._cache) as scratch:
                broken = self._download(key, scratch)
                if not broken:
                    move(scratch, folder)
                    return
        raise self._damaged(key, broken)

    def _download(self, key: str, into: Path) -> list[str]:
        """Copies the result of `key`; returns the names of files that are missing or differ from their checksum."""
        entries = self._marker(self.path(key))
        if entries is None:
            raise self._absent(key)
        for name in [*entries, MARKER]:
            with contextlib.suppress(FileNotFoundError):
                patiently(self.root, download, self.fs, f"{self.path(key)}/{name}", into / name)
        return defects(into)

    def _absent(self, key: str) -> AbsentError:
        aside = self.set_aside(key)
        hint = f"; {aside[-1]} was damaged and set aside: run the same command again to make it again" if aside else ""
        return AbsentError(f"{redacted(self.path(key))} holds no complete result{hint}")

    def _damaged(self, key: str, broken: Sequence[str]) -> DamagedError:
        """Sets the result of `key` aside; others may do so at the same time."""
        folder = self.path(key)
        aside = f"{folder}{BROKEN}{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                os.rename(folder, aside)
            else:
                patiently(self.root, move_files, self.fs, folder, aside)
        self._verified.discard(key)
        self._sized.discard(key)
        names = ", ".join(broken[:3])
        return DamagedError(
            f"{redacted(folder)} is damaged ({names}): set aside as {Path(aside).name}, the same command makes it again"
        )

    def set_aside(self, key: str) -> list[str]:
        """Names of folders with damaged results of `key`."""
        return [name for name in self._names(f"{self.base}/{key[:SHELF]}") if name.startswith(f"{key}{BROKEN}")]

    def checkpoints(self, key: str) -> Checkpoints:
        return Checkpoints(self, f"{self.base}/partial/{key}")


class Checkpoints:
    """Mid-stage checkpoints of one stage, newest last; each sealed like a result."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder

    @contextlib.contextmanager
    def save(self, step: int, uploads: Uploads | None = None) -> Iterator[Path]:
        """A local folder to fill; it counts once the block is left without an error. Older ones then go.

        With `uploads`, one for another machine counts once it is uploaded, which the caller does not wait for.

        Raises:
            StoreError: the upload before this one has failed.
            SupersededError: another attempt writes them now.
        """
        self._store.guard()
        with contextlib.ExitStack() as scope:
            folder = scope.enter_context(self._store._staging())
            yield folder
            if uploads is None or self._store.local:
                self._keep(folder, step)
            else:
                uploads.begin(partial(self._upload, scope.pop_all(), folder, step))

    def _upload(self, scope: contextlib.ExitStack, folder: Path, step: int) -> None:
        with scope:
            self._keep(folder, step)

    def _keep(self, folder: Path, step: int) -> None:
        self._store._put(folder, f"{self._folder}/{step:09d}")
        # Later ones are damaged, or another process's that is ahead: neither may push this one out.
        older = [name for name in self._names() if int(name) <= step]
        for old in older[:-KEPT_CHECKPOINTS]:
            self._store.drop(f"{self._folder}/{old}")

    def _names(self) -> list[str]:
        return [name for name in self._store._names(self._folder) if name.isdigit()]

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
            patiently(self._store.root, download, self._store.fs, f"{self._folder}/{name}", into)
        return into

    def clear(self) -> None:
        """Removes them all: the stage's result is published."""
        info = patiently(self._store.root, self._store.fs.get_file_info, self._folder)
        if info.type != pafs.FileType.NotFound:
            self._store.drop(self._folder)
