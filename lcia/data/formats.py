"""Files of one format cut into chunks (references, no rows), and a chunk's raw records read one by one.

A chunk can be read by any process on its own, so reading is parallel inside one file too. Nothing here holds more than
a buffer, a record and its images.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeAlias, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from lcia.data.filesystems import open_buffered
from lcia.data.json_spans import BOM, BUFFER, elements, first_sign, spans
from lcia.data.records import Reason, RowError
from lcia.types import Format, InputError

CHUNK_ROWS = 256
"""Records of a chunk; a Parquet row group is never cut, so its chunk may be larger."""

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "llava": (".json", ".jsonl"),
    "chat": (".jsonl", ".json"),
    "prompt": (".json", ".jsonl"),
    "parquet": (".parquet",),
    "webdataset": (".tar",),
}
_IMAGES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm")

_MAX_JSON = 64 << 20
"""A larger JSON member is not the text of one row."""

Raw: TypeAlias = tuple[int, str, object | RowError]
"""Line (JSON lines) or record number from 1, an id where the record has none, the record or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one file. `start`, `stop`: bytes (JSON, tar), row groups (Parquet) or rows (generated).

    Of its `rows` records the first `skip` are passed over, and from there on every `step`-th is read.
    """

    file: str
    start: int
    stop: int
    first: int
    rows: int
    skip: int = 0
    step: int = 1


def numbered_chunks(name: str, rows: int) -> Iterator[Chunk]:
    """The chunks of rows that are made from their numbers; `name` stands for the file."""
    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        yield Chunk(name, start, stop, start + 1, stop - start)


def chunks(file: str, kind: Format) -> Iterator[Chunk]:
    """The chunks of one file, in order; reads through it once without keeping anything.

    Raises:
        InputError: the file as a whole is not of this format.
    """
    match kind:
        case "llava" | "chat" | "prompt":
            return _json_chunks(file)
        case "parquet":
            return _parquet_chunks(file)
        case "webdataset":
            return _tar_chunks(file)
        case _:
            assert_never(kind)


def records(chunk: Chunk, kind: Format, max_image: int) -> Iterator[Raw]:
    """The records that the chunk asks for; images that travel with them as bytes.

    A tar row with an image of more than `max_image` bytes is a defect, and that image is not read.
    """
    return _records(chunk, kind, max_image)


def texts(chunk: Chunk, kind: Format) -> Iterator[object | RowError]:
    """As `records`, but images that travel with the rows are not read, and rows that bring their own are left out."""
    return (record for _, _, record in _records(chunk, kind, None))


def _records(chunk: Chunk, kind: Format, max_image: int | None) -> Iterator[Raw]:
    match kind:
        case "llava" | "chat":
            found = _json_records(chunk)
        case "prompt":
            found = ((number, name, _asked(record)) for number, name, record in _json_records(chunk))
        case "parquet":
            found = _parquet_records(chunk, with_images=max_image is not None)
        case "webdataset":
            found = _tar_records(chunk, max_image)
        case _:
            assert_never(kind)
    return islice(found, chunk.skip, chunk.rows, chunk.step)


def stem(file: str) -> str:
    """The file's name without folders and suffix: the start of made-up ids."""
    return file.rpartition("/")[2].partition(".")[0]


# JSON array or JSON lines


def _json_chunks(file: str) -> Iterator[Chunk]:
    with open_buffered(file) as stream:
        found = spans(stream, file)
        while block := list(islice(found, CHUNK_ROWS)):
            yield Chunk(file, block[0][0], block[-1][1], block[0][2], len(block))


def _json_records(chunk: Chunk) -> Iterator[Raw]:
    """The chunk's bytes are a file of their own: lines, or an array without its brackets."""
    with open_buffered(chunk.file) as stream:
        array = first_sign(stream) == b"["
        stream.seek(chunk.start)
        data = stream.read(chunk.stop - chunk.start)
    for number, piece in enumerate(elements(data)) if array else _lines(data):
        yield chunk.first + number, f"{stem(chunk.file)}-{chunk.first + number}", parse(piece)


def _asked(record: object | RowError) -> object | RowError:
    """A record of prompt and answer in the words of CoIN's test rows."""
    if not isinstance(record, dict) or "prompt" not in record:
        return record
    return {**{key: value for key, value in record.items() if key != "prompt"}, "text": record["prompt"]}


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((n, line) for n, line in enumerate(data.split(b"\n")) if line.removeprefix(BOM).strip())


def parse(data: bytes) -> object | RowError:
    """The JSON value, or why the data is not one."""
    try:
        value: object = json.loads(data.decode("utf-8-sig"))
        return value
    except (ValueError, RecursionError) as error:
        return RowError("invalid_json", f"not valid JSON: {error}")


# Parquet


@contextmanager
def _parquet(file: str) -> Iterator[pq.ParquetFile]:
    with open_buffered(file) as stream:
        try:
            # A buffer instead of pre-loading: a row group of images may be larger than memory allows.
            yield pq.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file} is not a whole Parquet file: {error}") from None


def _parquet_chunks(file: str) -> Iterator[Chunk]:
    with _parquet(file) as table:
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
    start, first, rows = 0, 1, 0
    for number, size in enumerate(sizes, 1):
        rows += size
        if rows >= CHUNK_ROWS or number == len(sizes):
            yield Chunk(file, start, number, first, rows)
            start, first, rows = number, first + rows, 0


def _parquet_records(chunk: Chunk, with_images: bool) -> Iterator[Raw]:
    with _parquet(chunk.file) as table:
        columns = [column.path for column in _columns(table) if with_images or not _holds_bytes(column)]
        groups, number = list(range(chunk.start, chunk.stop)), chunk.first
        for batch in table.iter_batches(batch_size=16, row_groups=groups, columns=columns):
            for row in batch.to_pylist():
                yield number, f"{stem(chunk.file)}-{number}", _decoded(row)
                number += 1


def _columns(table: pq.ParquetFile) -> Iterator[pq.ColumnSchema]:
    return (table.schema.column(number) for number in range(len(table.schema)))


def _holds_bytes(column: pq.ColumnSchema) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "STRING")


def _decoded(row: dict[str, Any]) -> object | RowError:
    """Tables often keep the conversation as JSON text."""
    for key in ("conversations", "messages"):
        if isinstance(row.get(key), str):
            value = parse(row[key].encode())
            if isinstance(value, RowError):
                return value
            row[key] = value
    return row


# WebDataset: consecutive members that share a name up to its first dot are one row


def _tar_chunks(file: str) -> Iterator[Chunk]:
    first = 1
    with _tar(file, 0) as tar:
        rows = _tar_rows(tar, file)
        while block := [(key, members[0].offset) for key, members in islice(rows, CHUNK_ROWS)]:
            yield Chunk(file, block[0][1], block[-1][1], first, len(block))
            first += len(block)


def _tar_records(chunk: Chunk, max_image: int | None) -> Iterator[Raw]:
    with _tar(chunk.file, chunk.start) as tar:
        for number, (key, members) in enumerate(_tar_rows(tar, chunk.file), chunk.first):
            used = {suffix: member for member in members if _is_used(suffix := member.name[len(key) + 1 :].lower())}
            if max_image is not None or used.keys() <= {"json"}:
                found = _too_large(used, max_image or 0) or _tar_record(tar, key, used)
                yield number, key.rpartition("/")[2], found


def _is_used(suffix: str) -> bool:
    return suffix == "json" or suffix.rpartition(".")[2] in _IMAGES


def _too_large(members: Mapping[str, tarfile.TarInfo], max_image: int) -> RowError | None:
    """Judged by the headers, before a member is read."""
    for suffix, member in members.items():
        most = _MAX_JSON if suffix == "json" else max_image
        if member.size > most:
            reason: Reason = "bad_field" if suffix == "json" else "image_too_large"
            return RowError(reason, f"member {member.name} has {member.size} bytes, {most} are allowed")
    return None


def _tar_record(tar: tarfile.TarFile, key: str, members: Mapping[str, tarfile.TarInfo]) -> object | RowError:
    """The row's JSON member; image members, in their order, take the place of the images it names."""
    if "json" not in members:
        return RowError("invalid_json", f"there is no member {key}.json")
    record = parse(_member(tar, members["json"]))
    images = [_member(tar, member) for suffix, member in members.items() if suffix != "json"]
    if images and isinstance(record, dict):
        return {**record, "image": None, "images": images}
    return record


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "only regular files come here"
    return stream.read()


def _tar_rows(tar: tarfile.TarFile, file: str) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    for key, members in groupby(_members(tar, file), key=_row_of):
        yield key, list(members)


def _row_of(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _members(tar: tarfile.TarFile, file: str) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        # tarfile remembers every member it saw (undocumented attribute); a large archive has many.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isreg():
            yield member
    _demand_end(tar, file)


def _demand_end(tar: tarfile.TarFile, file: str) -> None:
    """tarfile takes a file that was cut between two members, or in a header, for a whole one."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"{file} breaks off at byte {tar.offset}: fetch it again")


@contextmanager
def _tar(file: str, start: int) -> Iterator[tarfile.TarFile]:
    with open_buffered(file) as stream:
        stream.seek(start)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                yield tar
        except tarfile.TarError as error:
            raise InputError(f"{file} is not a whole, uncompressed tar file: {error}") from None
