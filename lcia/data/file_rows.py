"""Rows in files: read, checked, drawn to one side of a share, and what tells one state of the files from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lcia.addresses import anchored
from lcia.data.captions import Captions, captions_of, read_captions
from lcia.data.filesystems import digest_of, matching
from lcia.data.formats import SUFFIXES, Chunk, Raw, chunks, records, texts
from lcia.data.images import ImageFolder, check_image, max_bytes
from lcia.data.records import (
    VERSION,
    Checked,
    Defect,
    Picture,
    RowError,
    answered,
    check_messages,
    check_storable,
    draft,
    first_question,
    instruction_of,
    record_id,
)
from lcia.types import FileSource, InstructionRule, Sample, Share


@dataclass(frozen=True, slots=True)
class FileRows:
    """The SourceRows of files; `source` has absolute paths."""

    source: FileSource

    @classmethod
    def of(cls, source: FileSource) -> FileRows:
        """Without an image root, images lie beside the rows."""
        path, captions = anchored(source.path), anchored(source.captions) if source.captions else ""
        root = anchored(source.image_root or path.rpartition("/")[0])
        return cls(replace(source, path=path, image_root=root, captions=captions))

    def chunks(self) -> Iterator[Chunk]:
        return (chunk for file in self._files() for chunk in chunks(file, self.source.format))

    def check(self, chunk: Chunk, instruction: InstructionRule, max_pixels: int) -> Iterator[Checked]:
        source = self.source
        captions = read_captions(source.captions) if source.captions else None
        row = _FileRow(source, instruction, max_pixels, ImageFolder(source.image_root, max_pixels), captions)
        for raw in records(chunk, source.format, max_bytes(max_pixels)):
            found = row.sample_or_defect(chunk.file, raw)
            if source.share is None or on_side(found, source.share):
                yield raw[0], found

    def identity(self) -> Iterator[str]:
        yield str(VERSION)
        for file in self._files():
            yield f"\0file\0{digest_of(file)}\0"
            yield from self._images(file)
        if self.source.captions:
            yield f"\0captions\0{digest_of(self.source.captions)}\0"

    def _files(self) -> list[str]:
        """In reading order."""
        return matching(self.source.path, SUFFIXES[self.source.format])

    def _images(self, file: str) -> Iterator[str]:
        """A line per image that stands in a file of its own."""
        folder = ImageFolder(self.source.image_root, max_pixels=1)
        for chunk in chunks(file, self.source.format):
            names = [name for record in texts(chunk, self.source.format) for name in image_names(record)]
            yield from (f"{name!r} {found}\n" for name, found in zip(names, folder.identities(names), strict=True))


def image_names(record: object) -> list[str]:
    """The names of a raw record's images that lie in files of their own."""
    try:
        images = draft(record).images
    except RowError:
        return []
    return [name for name in images if isinstance(name, str)]


def on_side(row: Sample | Defect, share: Share) -> bool:
    """Whether a row is on this side of a draw, wherever its chunk is read; a defect is never held out."""
    return share.held_out == (isinstance(row, Sample) and _drawn(row, share))


def _drawn(sample: Sample, share: Share) -> bool:
    """A digest of seed and pictures, read as a number in [0, 1), falls below the fraction."""
    digest = hashlib.blake2b(f"{share.seed}\0".encode(), digest_size=8)
    for part in sample.images or (sample.id.encode(),):
        digest.update(part)
    return int.from_bytes(digest.digest()) < share.fraction * 2**64


@dataclass(frozen=True)
class _FileRow:
    """Turns raw records of one source into samples."""

    source: FileSource
    instruction: InstructionRule
    max_pixels: int
    folder: ImageFolder
    captions: Captions | None

    def sample_or_defect(self, file: str, raw: Raw) -> Sample | Defect:
        number, fallback, record = raw
        given = None if self.source.numbered else _id_of(record)
        try:
            if isinstance(record, RowError):
                raise record
            return self.sample(record, fallback)
        except RowError as error:
            return Defect(file, number, given or fallback, error.reason, error.message)

    def sample(self, record: object, fallback: str) -> Sample:
        """Raises RowError; what costs least is checked first."""
        found = draft(record)
        messages, references = answered(found, self.source.split == "train", self.source.needs_answer)
        if self.captions is not None:
            references = captions_of(self.captions, found.images)
        check_messages(messages, len(found.images))
        check_storable(found.id or "", *references)
        images = tuple(self._image(picture, number) for number, picture in enumerate(found.images, 1))
        instruction = instruction_of(first_question(messages), self.instruction)
        name = fallback if self.source.numbered else found.id or fallback
        return Sample(name, instruction, messages, images, references)

    def _image(self, picture: Picture, number: int) -> bytes:
        name, data = (picture, self.folder.read(picture)) if isinstance(picture, str) else (f"#{number}", picture)
        check_image(data, name, self.max_pixels)
        return data


def _id_of(record: object) -> str | None:
    try:
        return record_id(record) if isinstance(record, dict) else None
    except RowError:
        return None
