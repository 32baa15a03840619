"""From a source to samples and defects: sources cut into chunks, chunks read and checked row by row.

What runs in this process and what runs in Ray's workers are the same functions over the same chunks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TypeAlias, assert_never

from lcia.addresses import anchored
from lcia.config.run import DataConfig
from lcia.data.filesystems import digest_of, matching
from lcia.data.formats import CHUNK_ROWS, SUFFIXES, Chunk, Raw, chunks, records, texts
from lcia.data.images import ImageFolder, check_image, max_bytes
from lcia.data.minicoin import rows as minicoin
from lcia.data.records import (
    VERSION,
    Picture,
    Reason,
    RowError,
    answered,
    check_messages,
    check_storable,
    draft,
    first_question,
    instruction_of,
    record_id,
)
from lcia.types import FileSource, GeneratedSource, InstructionRule, Sample, Share, Source


@dataclass(frozen=True, slots=True)
class Defect:
    """A row that cannot be used. `record`: its line (JSON lines) or number in the file, from 1."""

    file: str
    record: int
    id: str
    reason: Reason
    message: str


Checked: TypeAlias = tuple[int, Sample | Defect]
"""Record number and what became of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How one source is read: everything that decides which samples come out, in which order."""

    source: Source
    instruction: InstructionRule
    limit: int | None
    max_image_pixels: int

    @classmethod
    def of(cls, source: Source, instruction: InstructionRule, limit: int | None, data: DataConfig) -> Reading:
        """With local paths made absolute, since workers have other working folders."""
        return cls(located(source), instruction, limit, data.max_image_pixels)


def located(source: Source) -> Source:
    """The source with absolute paths; without an image root, images lie beside the rows."""
    if isinstance(source, GeneratedSource):
        return source
    path = anchored(source.path)
    return replace(source, path=path, image_root=anchored(source.image_root or path.rpartition("/")[0]))


# Chunks


def files(source: Source) -> list[str]:
    """The files of a source in reading order; a generated source has none."""
    return matching(source.path, SUFFIXES[source.format]) if isinstance(source, FileSource) else []


def generated_chunks(source: GeneratedSource) -> Iterator[Chunk]:
    for start in range(0, source.rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, source.rows)
        yield Chunk(f"generated:{source.task}/{source.split}", start, stop, start + 1, stop - start)


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


def all_chunks(reading: Reading) -> Iterator[Chunk]:
    """Every chunk of a source, in order, found in this process."""
    source = reading.source
    if isinstance(source, GeneratedSource):
        return limited(generated_chunks(source), reading.limit)
    found = (chunk for file in files(source) for chunk in chunks(file, source.format))
    return limited(found, reading.limit)


# Rows


def check(reading: Reading, chunk: Chunk) -> Iterator[Checked]:
    """Every record of a chunk as a sample or as a defect; none is left out but those of the source's other side."""
    match reading.source:
        case GeneratedSource() as source:
            drawn = islice(minicoin.generate(source, chunk.start, chunk.stop), chunk.rows)
            for number, sample in enumerate(drawn, chunk.first):
                check_pictures(sample, reading.max_image_pixels)
                yield number, sample
        case FileSource() as source:
            row = _FileRow(reading, source, ImageFolder(source.image_root, reading.max_image_pixels))
            for raw in records(chunk, source.format, max_bytes(reading.max_image_pixels)):
                found = row.sample_or_defect(chunk.file, raw)
                if source.share is None or on_side(found, source.share):
                    yield raw[0], found
        case _:
            assert_never(reading.source)


def samples(reading: Reading) -> Iterator[Sample]:
    """The good rows of a source in order, read in this process as they are asked for."""
    for chunk in all_chunks(reading):
        yield from (row for _, row in check(reading, chunk) if isinstance(row, Sample))


def on_side(row: Sample | Defect, share: Share) -> bool:
    """Whether a row is on this side of a draw, wherever its chunk is read; a defect is never held out."""
    return share.held_out == (isinstance(row, Sample) and _drawn(row, share))


def _drawn(sample: Sample, share: Share) -> bool:
    """A digest of seed and pictures, read as a number in [0, 1), falls below the fraction."""
    digest = hashlib.blake2b(f"{share.seed}\0".encode(), digest_size=8)
    for part in sample.images or (sample.id.encode(),):
        digest.update(part)
    return int.from_bytes(digest.digest()) < share.fraction * 2**64


def check_pictures(sample: Sample, max_pixels: int) -> None:
    """Raises RowError unless every image decodes and stands somewhere in the user's turns."""
    check_messages(sample.messages, len(sample.images))
    for number, data in enumerate(sample.images):
        check_image(data, f"{sample.id}#{number}", max_pixels)


@dataclass(frozen=True)
class _FileRow:
    """Turns raw records of one source into samples."""

    reading: Reading
    source: FileSource
    folder: ImageFolder

    def sample_or_defect(self, file: str, raw: Raw) -> Sample | Defect:
        number, fallback, record = raw
        try:
            if isinstance(record, RowError):
                raise record
            return self.sample(record, fallback)
        except RowError as error:
            return Defect(file, number, _id_of(record) or fallback, error.reason, error.message)

    def sample(self, record: object, fallback: str) -> Sample:
        """Raises RowError; what costs least is checked first."""
        found = draft(record)
        messages, references = answered(found, self.source.split == "train", self.source.needs_answer)
        check_messages(messages, len(found.images))
        check_storable(found.id or "", *references)
        images = tuple(self._image(picture, number) for number, picture in enumerate(found.images, 1))
        instruction = instruction_of(first_question(messages), self.reading.instruction)
        return Sample(found.id or fallback, instruction, messages, images, references)

    def _image(self, picture: Picture, number: int) -> bytes:
        name, data = (picture, self.folder.read(picture)) if isinstance(picture, str) else (f"#{number}", picture)
        check_image(data, name, self.reading.max_image_pixels)
        return data


def _id_of(record: object) -> str | None:
    try:
        return record_id(record) if isinstance(record, dict) else None
    except RowError:
        return None


# Identity


def fingerprint(source: Source) -> str:
    """32 hex digits that change with the rows: of the contents of the files and of the images that they name.

    On local disks neither the path nor any time counts. Of images elsewhere, size and time of change stand for the
    contents, for reading them would take as long as the run's own reading.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(located(source)):
        digest.update(part.encode())
    return digest.hexdigest()


def _parts(source: Source) -> Iterator[str]:
    if isinstance(source, GeneratedSource):
        yield json.dumps([asdict(source), minicoin.VERSION], sort_keys=True)
        return
    yield str(VERSION)
    for file in files(source):
        yield f"\0file\0{digest_of(file)}\0"
        yield from _images(file, source)


def _images(file: str, source: FileSource) -> Iterator[str]:
    """A line per image that stands in a file of its own."""
    folder = ImageFolder(source.image_root, max_pixels=1)
    for chunk in chunks(file, source.format):
        names = [name for record in texts(chunk, source.format) for name in _names(record)]
        yield from (f"{name!r} {found}\n" for name, found in zip(names, folder.identities(names), strict=True))


def _names(record: object) -> list[str]:
    """The image names of a record."""
    try:
        images = draft(record).images
    except RowError:
        return []
    return [name for name in images if isinstance(name, str)]
