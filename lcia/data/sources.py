"""From a source to samples and defects: cut into chunks, and the chunks read and checked row by row.

What runs in this process and what runs in Ray's workers are the same functions over the same chunks. A kind of source
is a value in lcia.types and a `SourceRows` that reads it; only `rows_of` tells the kinds apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, assert_never

from lcia.data.file_rows import FileRows
from lcia.data.formats import Chunk
from lcia.data.instances import InstanceRows
from lcia.data.minicoin.rows import MiniCoinRows
from lcia.data.records import Checked
from lcia.types import (
    FileSource,
    GeneratedSource,
    InputError,
    InstancesSource,
    InstructionRule,
    Sample,
    Source,
    Stretch,
)


class SourceRows(Protocol):
    """Reads one kind of source; a value that can be sent to workers."""

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk, in order, found in this process."""

    def check(self, chunk: Chunk, instruction: InstructionRule, max_pixels: int) -> Iterator[Checked]:
        """The records of a chunk in order, each as a sample or as a defect; none is left out that is the source's."""

    def identity(self) -> Iterator[str]:
        """Texts that change with the rows."""


def rows_of(source: Source) -> SourceRows:
    """What reads a source, with local paths made absolute, since workers have other working folders."""
    match source:
        case GeneratedSource():
            return MiniCoinRows(source)
        case FileSource():
            return FileRows.of(source)
        case InstancesSource():
            return InstanceRows.of(source)
        case _:
            assert_never(source)


@dataclass(frozen=True, slots=True)
class Reading:
    """How one source is read: everything that decides which samples come out, in which order."""

    rows: SourceRows
    instruction: InstructionRule
    limit: int | None
    max_image_pixels: int
    stretch: Stretch | None = None

    @classmethod
    def of(
        cls,
        source: Source,
        instruction: InstructionRule,
        limit: int | None,
        max_image_pixels: int,
        stretch: Stretch | None = None,
    ) -> Reading:
        """Of the first `limit` rows, or of all; of these only the rows of the stretch, if there is one."""
        return cls(rows_of(source), instruction, limit, max_image_pixels, stretch)


def all_chunks(reading: Reading) -> Iterator[Chunk]:
    """Every chunk of a source up to the reading's limit that holds rows of its stretch, in order, found in this
    process.

    Raises:
        InputError: there are so few rows that the stretch has none.
    """
    found = limited(reading.rows.chunks(), reading.limit)
    return found if reading.stretch is None else cut(found, reading.stretch)


def limited(found: Iterable[Chunk], limit: int | None) -> Iterator[Chunk]:
    """The chunks of the first `limit` rows; the last one is shortened."""
    left = limit
    for chunk in found:
        if left is None:
            yield chunk
            continue
        if left <= 0:
            return
        yield replace(chunk, rows=min(chunk.rows, left))
        left -= chunk.rows


def cut(found: Iterable[Chunk], stretch: Stretch) -> Iterator[Chunk]:
    """The rows of a stretch, counted over all chunks, so that it does not matter where these begin.

    Raises:
        InputError: the stretch has no rows.
    """
    before = 0
    for chunk in found:
        skip = (stretch.number - before) % stretch.of
        if skip < chunk.rows:
            yield replace(chunk, skip=skip, step=stretch.of)
        before += chunk.rows
    if 0 < before <= stretch.number:
        raise InputError(f"{before} rows cannot be cut into {stretch.of} tasks: lower benchmark.stretches")


def check(reading: Reading, chunk: Chunk) -> Iterator[Checked]:
    """Every record that a chunk asks for as a sample or as a defect; none is left out but those of the source's other
    side."""
    return reading.rows.check(chunk, reading.instruction, reading.max_image_pixels)


def samples(reading: Reading) -> Iterator[Sample]:
    """The good rows of a source in order, read in this process as they are asked for."""
    for chunk in all_chunks(reading):
        yield from (row for _, row in check(reading, chunk) if isinstance(row, Sample))


def fingerprint(source: Source) -> str:
    """32 hex digits that change with the rows: of the contents of the files and of the images that they name.

    On local disks neither the path nor any time counts. Of images elsewhere, size and time of change stand for the
    contents, for reading them would take as long as the run's own reading.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in rows_of(source).identity():
        digest.update(part.encode())
    return digest.hexdigest()
