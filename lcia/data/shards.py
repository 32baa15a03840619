"""Shards: the validated samples of a source as Parquet files, written in source order and read by row number.

A folder holds index.json (counts, files with the rows of their row groups), shard-NNNNN.parquet, and bad_rows.jsonl,
one line per row that cannot be used. The same source gives the same bytes, wherever its chunks were read.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lcia.data.formats import Chunk
from lcia.data.parquet import decode, encode, size_of, to_sample
from lcia.data.records import Defect
from lcia.data.sources import Reading, all_chunks, check
from lcia.types import InputError, Sample

INDEX = "index.json"
BAD_ROWS = "bad_rows.jsonl"

PIECE_BYTES = 8 << 20
"""A shard is closed when its samples reach this, and at the end of every chunk."""

CACHE_BYTES = 64 << 20
"""What Rows keeps of the row groups used last."""


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """What became of a source's rows: `rows` read, `bad` ones of them, and these by reason, most frequent first."""

    rows: int
    bad: int
    reasons: Mapping[str, int]

    @property
    def good(self) -> int:
        return self.rows - self.bad


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard on its way to its folder, with the bad rows found beside it; `ids`, `records` go with its rows."""

    file: str
    data: bytes
    groups: tuple[int, ...]
    ids: tuple[str, ...]
    records: tuple[int, ...]
    bad: tuple[Defect, ...]


# Writing


def write_source(reading: Reading, folder: Path) -> ShardCounts:
    """Reads a source in this process and fills the empty `folder`.

    Raises:
        InputError: there are no rows, or a file as a whole cannot be read. Bad rows are only counted.
    """
    return collect((piece for chunk in all_chunks(reading) for piece in pieces(reading, chunk)), folder)


def count_source(reading: Reading, report: Path | None = None) -> ShardCounts:
    """As write_source, but no rows are written; the bad ones are named in the file `report`, if given."""
    found = (piece for chunk in all_chunks(reading) for piece in pieces(reading, chunk))
    return _collect(found, _Writer(None, report))


def pieces(reading: Reading, chunk: Chunk) -> Iterator[Piece]:
    """Reads, checks and encodes one chunk; holds PIECE_BYTES and an image at most."""
    good: list[tuple[int, Sample]] = []
    bad: list[Defect] = []
    size = 0
    for number, row in check(reading, chunk):
        if isinstance(row, Defect):
            bad.append(row)
            continue
        good.append((number, row))
        size += size_of(row)
        if size >= PIECE_BYTES:
            yield _piece(chunk.file, good, bad)
            good, bad, size = [], [], 0
    if good or bad:
        yield _piece(chunk.file, good, bad)


def _piece(file: str, good: Sequence[tuple[int, Sample]], bad: Sequence[Defect]) -> Piece:
    data, groups = encode([sample for _, sample in good])
    ids = tuple(sample.id for _, sample in good)
    return Piece(file, data, groups, ids, tuple(number for number, _ in good), tuple(bad))


def collect(found: Iterable[Piece], folder: Path) -> ShardCounts:
    """Writes pieces, which come in source order, one at a time.

    Raises:
        InputError: there was no row at all.
    """
    return _collect(found, _Writer(folder, folder / BAD_ROWS))


def _collect(found: Iterable[Piece], writer: _Writer) -> ShardCounts:
    with contextlib.closing(_Ids()) as ids, writer:
        for piece in found:
            writer.add(ids.without_repeated(piece))
    return writer.finish()


class _Writer:
    """Puts pieces into a folder (None: nowhere) under running numbers, names bad rows in `report`, keeps counts."""

    def __init__(self, folder: Path | None, report: Path | None) -> None:
        self._folder, self._path = folder, report
        self._reasons: Counter[str] = Counter()
        self._files: list[dict[str, object]] = []
        self._good = 0
        self._report: TextIO | None = None

    def __enter__(self) -> _Writer:
        if self._path is not None:
            self._report = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._report is not None:
            self._report.close()

    def add(self, piece: Piece) -> None:
        for defect in piece.bad:
            self._reasons[defect.reason] += 1
            if self._report is not None:
                self._report.write(json.dumps(asdict(defect)) + "\n")
        if not piece.ids:
            return
        name = f"shard-{len(self._files):05d}.parquet"
        if self._folder is not None:
            (self._folder / name).write_bytes(piece.data)
        self._files.append({"name": name, "groups": list(piece.groups)})
        self._good += len(piece.ids)

    def finish(self) -> ShardCounts:
        bad = self._reasons.total()
        counts = ShardCounts(self._good + bad, bad, dict(self._reasons.most_common()))
        if not counts.rows:
            raise InputError("the source holds no rows at all, or none on its side of benchmark.validation_share")
        if self._folder is not None:
            index = {"counts": asdict(counts), "files": self._files}
            (self._folder / INDEX).write_text(json.dumps(index, indent=1))
        return counts


class _Ids:
    """The ids seen so far, in a private database on disk: memory does not grow with the rows."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, file TEXT, record INTEGER) WITHOUT ROWID")

    def close(self) -> None:
        self._db.close()

    def without_repeated(self, piece: Piece) -> Piece:
        """The piece with the rows whose id was used before among its bad ones."""
        self._db.execute("BEGIN")
        repeated = [d for d in map(self._defect, [piece.file] * len(piece.ids), piece.ids, piece.records) if d]
        self._db.execute("COMMIT")
        if not repeated:
            return piece
        gone = {defect.record for defect in repeated}
        kept = [i for i, record in enumerate(piece.records) if record not in gone]
        samples = decode(piece.data)
        data, groups = encode([samples[i] for i in kept])
        bad = tuple(sorted([*piece.bad, *repeated], key=lambda defect: defect.record))
        ids, records = tuple(piece.ids[i] for i in kept), tuple(piece.records[i] for i in kept)
        return Piece(piece.file, data, groups, ids, records, bad)

    def _defect(self, file: str, name: str, record: int) -> Defect | None:
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (name, file, record)).rowcount:
            return None
        first, at = self._db.execute("SELECT file, record FROM seen WHERE id = ?", (name,)).fetchone()
        return Defect(file, record, name, "duplicate_id", f"id {name!r} belongs to row {at} of {first} already")


# Judging


def complaint(label: str, counts: ShardCounts, report: str, max_bad_fraction: float) -> str | None:
    """What is wrong with a source: the reasons by count and the file that names the rows; None if it is good enough."""
    if counts.good and counts.bad <= max_bad_fraction * counts.rows:
        return None
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts.reasons.items())
    return f"{label}: {counts.bad} of {counts.rows} rows cannot be used ({reasons}); see {report}"


def refuse(complaints: Iterable[str | None], max_bad_fraction: float) -> None:
    """Raises InputError with all complaints, if there is one."""
    lines = [line for line in complaints if line is not None]
    if lines:
        rule = f"data.max_bad_fraction allows {max_bad_fraction:.2%}: fix the rows, or raise it to train without them"
        raise InputError("\n".join([*lines, rule]))


# Reading


def read_counts(folder: Path) -> ShardCounts:
    """What was counted when the folder was written."""
    return ShardCounts(**json.loads((folder / INDEX).read_text())["counts"])


def count_rows(folder: Path) -> int:
    """The samples in a folder."""
    return read_counts(folder).good


class Rows:
    """The samples of shard folders, one after another, by row number; keeps the row groups used last."""

    def __init__(self, folders: Sequence[Path], cache_bytes: int = CACHE_BYTES) -> None:
        self._folders, self._cache_bytes = tuple(folders), cache_bytes
        entries = [(folder / f["name"], f["groups"]) for folder in self._folders for f in _index(folder)]
        self._files = [path for path, _ in entries]
        self._ends = np.cumsum([count_rows(folder) for folder in self._folders], dtype=np.int64)
        self._groups = [(path, number) for path, groups in entries for number in range(len(groups))]
        self._stops = np.cumsum([rows for _, groups in entries for rows in groups], dtype=np.int64)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Rows], tuple[tuple[Path, ...], int]]:
        return Rows, (self._folders, self._cache_bytes)

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def take(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at these row numbers, in this order; equal numbers are allowed."""
        found: dict[int, Sample] = {}
        # In row order each row group is read once, however they are asked for.
        for index in sorted(set(indices)):
            if not 0 <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            found[index] = self._sample(index)
        return [found[index] for index in indices]

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

    def lengths(self) -> NDArray[np.int64]:
        """[rows]; stands for the tokens of a sample where samples of like length are put together."""
        return np.fromiter((n for column in self._column("length") for n in column.to_pylist()), np.int64, len(self))

    def _column(self, name: str) -> Iterator[pa.ChunkedArray]:
        return (pq.read_table(path, columns=[name]).column(name) for path in self._files)

    def _sample(self, index: int) -> Sample:
        group = int(np.searchsorted(self._stops, index, side="right"))
        start = int(self._stops[group - 1]) if group else 0
        return to_sample(self._group(group).slice(index - start, 1).to_pylist()[0])

    def _group(self, number: int) -> pa.Table:
        with self._lock:
            if number not in self._cache:
                path, group = self._groups[number]
                self._cache[number] = pq.ParquetFile(path).read_row_group(group)
            self._cache.move_to_end(number)
            while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            return self._cache[number]


def _index(folder: Path) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads((folder / INDEX).read_text())["files"]
    return files
