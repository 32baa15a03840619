"""Shards: the validated samples of a source as Parquet files, written by any number of processes.

A folder holds index.json (counts; the files in source order), a Parquet file for every piece of a chunk, named by their
numbers, and bad_rows.jsonl, one line per row that cannot be used. The process that reads a chunk writes its files and
passes on what is told of them; one process gathers that. The same source gives the same bytes, wherever its chunks were
read.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np

from lcia.data.formats import Chunk
from lcia.data.parquet import decode, encode, image_bytes, text_bytes
from lcia.data.records import Defect
from lcia.data.sources import Reading, all_chunks, check
from lcia.data.unique import DIGEST_BYTES, Ids, Owner, digest_of_id, duplicate
from lcia.store.files import Files, Shared
from lcia.types import InputError, Sample

INDEX = "index.json"
BAD_ROWS = "bad_rows.jsonl"

PIECE_BYTES = 8 << 20
"""A shard is closed when its images reach this, and at the end of every chunk."""
PIECE_TEXT_BYTES = 1 << 20
"""It is closed when its texts reach this, too: they are read for any of its rows."""
REWRITES = 64
"""Pieces that wait while those with repeated ids are written again."""


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
class Shard:
    """A file as the index names it: its rows, its bytes, and the bytes and CRC-32 of its end, where the texts are."""

    name: str
    rows: int
    size: int
    end: int
    crc: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is told of rows that lie in their shard (None: all were bad), with the bad ones found beside them.

    `source` is the file that they come from, `entry` the shard's in the marker; of each row `ids` has the digest,
    DIGEST_BYTES bytes, and `records` the number in `source` as a 64-bit integer.
    """

    source: str
    shard: Shard | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)
    ids: bytes = b""
    records: bytes = b""
    bad: tuple[Defect, ...] = ()

    def rows(self) -> Iterator[tuple[bytes, Owner]]:
        """The digest of each row's id, and where the row comes from."""
        for place, record in enumerate(np.frombuffer(self.records, "<i8").tolist()):
            yield self.ids[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES], Owner(self.source, record)


Rewrite: TypeAlias = Callable[[Files, Piece, Mapping[int, Owner]], Callable[[], Piece]]
"""Begins without_repeated, wherever it likes, and returns what waits for the result."""


# Writing


def write_source(reading: Reading, folder: Path) -> ShardCounts:
    """Reads a source in this process and fills the empty `folder`.

    Raises:
        InputError: there are no rows, or a file as a whole cannot be read. Bad rows are only counted.
    """
    shared = Shared.local(folder)
    found = (p for n, chunk in enumerate(all_chunks(reading)) for p in write_pieces(reading, n, chunk, shared.files))
    return collect(found, shared, lambda *work: lambda: without_repeated(*work))


def write_pieces(reading: Reading, number: int, chunk: Chunk, files: Files) -> Iterator[Piece]:
    """Reads, checks, encodes and writes chunk `number`; holds PIECE_BYTES and a row at most. It may be repeated."""
    for place, (good, bad) in enumerate(_pieces(check(reading, chunk))):
        yield _write(f"shard-{number:06d}-{place:03d}.parquet", files, chunk.file, good, bad)


def _pieces(rows: Iterable[tuple[int, Sample | Defect]]) -> Iterator[tuple[list[tuple[int, Sample]], list[Defect]]]:
    """Good rows with their numbers, and bad ones, cut where there are enough bytes."""
    good: list[tuple[int, Sample]] = []
    bad: list[Defect] = []
    images = texts = 0
    for number, row in rows:
        if isinstance(row, Defect):
            bad.append(row)
            continue
        good.append((number, row))
        images, texts = images + image_bytes(row), texts + text_bytes(row)
        if images >= PIECE_BYTES or texts >= PIECE_TEXT_BYTES:
            yield good, bad
            good, bad, images, texts = [], [], 0, 0
    if good or bad:
        yield good, bad


def _write(name: str, files: Files, source: str, good: Sequence[tuple[int, Sample]], bad: Iterable[Defect]) -> Piece:
    if not good:
        return Piece(source, bad=tuple(bad))
    data, end = encode([sample for _, sample in good])
    shard = Shard(name, len(good), len(data), end, zlib.crc32(data[-end:]))
    ids = b"".join(digest_of_id(sample.id) for _, sample in good)
    records = np.array([number for number, _ in good], "<i8").tobytes()
    return Piece(source, shard, files.write(name, data), ids, records, tuple(bad))


def without_repeated(files: Files, piece: Piece, firsts: Mapping[int, Owner]) -> Piece:
    """Writes a shard again without the rows at these places, which are among the bad ones then: their ids belong to
    `firsts`. The new shard has a name of its own, so this may be repeated; the old one stays."""
    assert piece.shard is not None
    samples = decode(files.read(piece.shard.name))
    rows = [(owner.record, sample) for (_, owner), sample in zip(piece.rows(), samples, strict=True)]
    repeated = [duplicate(Owner(piece.source, rows[at][0]), rows[at][1].id, first) for at, first in firsts.items()]
    kept = [row for at, row in enumerate(rows) if at not in firsts]
    bad = sorted([*piece.bad, *repeated], key=lambda defect: defect.record)
    return _write(piece.shard.name.replace(".parquet", "u.parquet"), files, piece.source, kept, bad)


def collect(found: Iterable[Piece], shared: Shared, rewrite: Rewrite) -> ShardCounts:
    """Finds repeated ids in pieces, which come in source order, has their shards written again, and writes the index.

    Raises:
        InputError: there was no row at all.
    """
    waiting: deque[tuple[Piece, Callable[[], Piece]]] = deque()
    shards: list[Shard] = []
    with contextlib.closing(Ids()) as ids, _Tally(shared.folder / BAD_ROWS) as tally:

        def settle(number: int) -> None:
            while len(waiting) > number:
                before, result = waiting.popleft()
                piece = result()
                if before.shard is not None and before is not piece:
                    shared.files.delete(before.shard.name)
                tally.add(piece.bad)
                if piece.shard is not None:
                    shards.append(piece.shard)
                    shared.written[piece.shard.name] = dict(piece.entry)

        for piece in found:
            firsts = ids.add(piece.rows())
            waiting.append((piece, rewrite(shared.files, piece, firsts) if firsts else partial(_same, piece)))
            settle(REWRITES)
        settle(0)
    shared.files.finish()
    counts = tally.counts(sum(shard.rows for shard in shards))
    index = {"counts": asdict(counts), "files": [asdict(shard) for shard in shards]}
    (shared.folder / INDEX).write_text(json.dumps(index, indent=1))
    return counts


def _same(piece: Piece) -> Piece:
    return piece


def count_source(
    reading: Reading, report: Path | None = None, see: Callable[[Sample], object] | None = None
) -> ShardCounts:
    """As write_source, but no rows are written; the bad ones are named in the file `report`, if given. `see` is called
    with every good row."""
    good = 0
    with contextlib.closing(Ids()) as ids, _Tally(report) as tally:
        for chunk in all_chunks(reading):
            for number, row in check(reading, chunk):
                if isinstance(row, Defect):
                    tally.add([row])
                    continue
                here = Owner(chunk.file, number)
                first = ids.add([(digest_of_id(row.id), here)])
                tally.add([duplicate(here, row.id, owner) for owner in first.values()])
                if not first:
                    good += 1
                    if see is not None:
                        see(row)
    return tally.counts(good)


class _Tally:
    """Counts bad rows by reason, and names them in the file `path` (None: nowhere)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._reasons: Counter[str] = Counter()
        self._report: TextIO | None = None

    def __enter__(self) -> _Tally:
        if self._path is not None:
            self._report = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._report is not None:
            self._report.close()

    def add(self, bad: Iterable[Defect]) -> None:
        for defect in bad:
            self._reasons[defect.reason] += 1
            if self._report is not None:
                self._report.write(json.dumps(asdict(defect)) + "\n")

    def counts(self, good: int) -> ShardCounts:
        """With so many good rows beside them; raises InputError where there are no rows at all."""
        bad = self._reasons.total()
        if not good + bad:
            raise InputError("the source holds no rows at all, or none on its side of benchmark.validation_share")
        return ShardCounts(good + bad, bad, dict(self._reasons.most_common()))


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


# Looking


def read_index(files: Files) -> dict[str, Any]:
    """`counts`, and `files` in source order: each a Shard, or in folders of earlier versions a name with the rows of
    each row group as `groups`."""
    found: dict[str, Any] = json.loads(files.read(INDEX))
    return found


def read_counts(folder: Path | Files) -> ShardCounts:
    """What was counted when the folder was written."""
    return ShardCounts(**read_index(Files.local(folder) if isinstance(folder, Path) else folder)["counts"])


def count_rows(folder: Path | Files) -> int:
    """The samples in a folder."""
    return read_counts(folder).good
