"""Rows of shards by number: of each file the end with its texts is read once, then exactly the images asked for."""

from __future__ import annotations

import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lcia.data.parquet import CRC, ROW, SIZE, START, Table, decode_end, to_sample
from lcia.data.shards import Shard, read_index
from lcia.store.files import Files
from lcia.types import Sample

CACHE_BYTES = 64 << 20
"""What Rows keeps of what it read last: texts, and of earlier versions' shards whole row groups."""
GAP_BYTES = 4096
"""Images that lie so close are read together."""
READERS = 8
"""Ranges that are read at a time from another machine."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Loaded:
    """What is kept of a shard: a table of its rows, and [images, 4] where their images lie; None: in the table."""

    rows: Table
    ranges: NDArray[np.uint32] | None
    file: Any
    """Open on another machine, where opening takes as long as reading; None: opened for each reading."""

    @cached_property
    def nbytes(self) -> int:
        return int(self.rows.nbytes) + (0 if self.ranges is None else self.ranges.nbytes)


@dataclass(frozen=True)
class Unit:
    """What is loaded at once: a shard, or one row group (`group`) of an earlier version's."""

    files: Files
    name: str
    shard: Shard | None
    group: int = 0

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, without the images."""
        if self.shard is not None:
            return self.load().rows.column(name)
        with self.files.open(self.name) as file:
            return pq.ParquetFile(file).read_row_group(self.group, columns=[name]).column(name)

    def load(self) -> Loaded:
        """Reads the texts; raises StoreError where they are not what was written."""
        if self.shard is None:
            with self.files.open(self.name) as file:
                return Loaded(pq.ParquetFile(file).read_row_group(self.group), None, None)
        file, shard = None if self.files.is_local else self.files.open(self.name), self.shard
        end = self.files.read_range(self.name, shard.size - shard.end, shard.end, file)
        if zlib.crc32(end) != shard.crc:
            raise self.files.damaged(self.name)
        rows, ranges = decode_end(end, shard.size)
        return Loaded(rows, ranges, file)

    def read_images(self, loaded: Loaded, ranges: NDArray[np.uint32]) -> list[tuple[int, bytes]]:
        """Images that lie close together, each with its row; raises StoreError where one is not what was written."""
        lines = ranges.tolist()
        start, stop = lines[0][START], lines[-1][START] + lines[-1][SIZE]
        data = self.files.read_range(self.name, start, stop - start, loaded.file)
        found = []
        for line in lines:
            image = data[line[START] - start : line[START] - start + line[SIZE]]
            if zlib.crc32(image) != line[CRC]:
                raise self.files.damaged(self.name)
            found.append((line[ROW], image))
        return found


class Rows:
    """The samples of shard folders, one after another, by row number; keeps the texts of the shards used last."""

    def __init__(self, folders: Sequence[Path | Files], cache_bytes: int = CACHE_BYTES) -> None:
        self._folders = tuple(Files.local(folder) if isinstance(folder, Path) else folder for folder in folders)
        self._cache_bytes = cache_bytes
        units, rows, ends = [], [], []
        for files in self._folders:
            for unit, count in _units(files):
                units.append(unit)
                rows.append(count)
            ends.append(sum(rows))
        self._units, self._stops = units, np.cumsum(rows, dtype=np.int64)
        self._ends = np.array(ends, dtype=np.int64)
        self._cache: OrderedDict[int, Loaded] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()
        local = all(files.is_local for files in self._folders)
        self._readers = None if local else ThreadPoolExecutor(READERS)

    def __reduce__(self) -> tuple[type[Rows], tuple[tuple[Files, ...], int]]:
        return Rows, (self._folders, self._cache_bytes)

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def take(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at these row numbers, in this order; equal numbers are allowed.

        Raises:
            IndexError: there is no such row.
            StoreError: a shard is not what was written, or the storage does not answer.
        """
        wanted = sorted(set(indices))
        for index in (i for i in wanted if not 0 <= i < len(self)):
            raise IndexError(f"row {index} of {len(self)}")
        places = [self._place(index) for index in wanted]
        loaded = dict(self._each(lambda unit: (unit, self._loaded(unit)), dict.fromkeys(unit for unit, _ in places)))
        images = self._images(places, loaded)
        found = {
            index: _sample(loaded[unit], row, images.get((unit, row), []))
            for index, (unit, row) in zip(wanted, places, strict=True)
        }
        return [found[index] for index in indices]

    @property
    def folders(self) -> tuple[range, ...]:
        """The row numbers of each folder."""
        stops = self._ends.tolist()
        return tuple(range(start, stop) for start, stop in zip([0, *stops], stops, strict=False))

    def folder_of(self, index: int) -> range:
        """The row numbers of the folder that a row lies in."""
        folder = int(np.searchsorted(self._ends, index, side="right"))
        return range(int(self._ends[folder - 1]) if folder else 0, int(self._ends[folder]))

    def instructions(self) -> dict[str, int]:
        """Distinct instructions in order of first appearance, with the number of their samples."""
        counts: Counter[str] = Counter()
        for column in self._column("instruction"):
            counts.update(column.to_pylist())
        return dict(counts)

    def references(self, most: int) -> Iterator[list[str]]:
        """Of each of the first `most` samples, in order."""
        return islice((given for column in self._column("references") for given in column.to_pylist()), most)

    def lengths(self) -> NDArray[np.int64]:
        """[rows]; stands for the tokens of a sample where samples of like length are put together."""
        return np.fromiter((n for column in self._column("length") for n in column.to_pylist()), np.int64, len(self))

    def _column(self, name: str) -> Iterable[pa.ChunkedArray]:
        return self._each(lambda unit: self._units[unit].column(name), range(len(self._units)))

    def _place(self, index: int) -> tuple[int, int]:
        """The unit of a row, and its number there."""
        unit = int(np.searchsorted(self._stops, index, side="right"))
        return unit, index - (int(self._stops[unit - 1]) if unit else 0)

    def _each(self, do: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """do(item) in order; several at a time where another machine has to answer."""
        return map(do, items) if self._readers is None else self._readers.map(do, items)

    def _loaded(self, number: int) -> Loaded:
        with self._lock:
            if (found := self._cache.get(number)) is not None:
                self._cache.move_to_end(number)
                return found
        found = self._units[number].load()
        with self._lock:
            if number not in self._cache:
                self._cache[number] = found
                self._cached_bytes += found.nbytes
            while len(self._cache) > 1 and self._cached_bytes > self._cache_bytes:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return found

    def _images(
        self, places: Sequence[tuple[int, int]], loaded: dict[int, Loaded]
    ) -> dict[tuple[int, int], list[bytes]]:
        """The images of these rows, by unit and row."""
        spans = []
        for unit, group in groupby(places, key=lambda place: place[0]):
            ranges = loaded[unit].ranges
            if ranges is not None:
                spans += [(unit, span) for span in _spans(ranges, [row for _, row in group])]
        found: dict[tuple[int, int], list[bytes]] = {}
        read = self._each(
            lambda s: [(s[0], *image) for image in self._units[s[0]].read_images(loaded[s[0]], s[1])], spans
        )
        for unit, row, image in (each for images in read for each in images):
            found.setdefault((unit, row), []).append(image)
        return found


def _units(files: Files) -> Iterator[tuple[Unit, int]]:
    """What a folder is loaded in, each with its rows."""
    for entry in read_index(files)["files"]:
        if "groups" in entry:
            yield from ((Unit(files, entry["name"], None, n), rows) for n, rows in enumerate(entry["groups"]))
        else:
            yield Unit(files, entry["name"], Shard(**entry)), entry["rows"]


def _spans(ranges: NDArray[np.uint32], rows: Sequence[int]) -> list[NDArray[np.uint32]]:
    """The ranges of the images of these rows, those that lie close together in one array; [images, 4] each."""
    firsts, stops = (np.searchsorted(ranges[:, ROW], rows, side).tolist() for side in ("left", "right"))
    wanted = ranges[[at for first, stop in zip(firsts, stops, strict=True) for at in range(first, stop)]]
    if not len(wanted):
        return []
    ends = wanted[:-1, START].astype(np.int64) + wanted[:-1, SIZE]
    return np.split(wanted, np.flatnonzero(wanted[1:, START] - ends > GAP_BYTES) + 1)


def _sample(loaded: Loaded, row: int, images: Sequence[bytes]) -> Sample:
    record = loaded.rows.slice(row, 1).to_pylist()[0]
    return to_sample(record if loaded.ranges is None else {**record, "images": images})
