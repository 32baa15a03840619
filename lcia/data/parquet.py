"""Samples as Parquet: the stated Arrow schema and the way to it and back. The same samples give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from lcia.types import Message, Sample

Table: TypeAlias = Any  # pyarrow.Table, which carries no types

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        pa.field("images", pa.list_(pa.binary()), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ],
    metadata={"lcia.shards": "1"},
)
"""One sample; `images` are encoded files, `length` stands for its tokens where samples are grouped by length."""

GROUP_BYTES = 1 << 20
"""A row group is what has to be read for one sample, so it is small."""

_IMAGE_LENGTH = 2000
"""Characters that an image counts for in `length`: 576 tokens of three to four characters."""

_CODECS = dict.fromkeys(("id", "instruction", "messages.list.element.content", "references.list.element"), "zstd")
"""Text is compressed; images are already."""


def to_record(sample: Sample) -> dict[str, Any]:
    """A row of SCHEMA."""
    length = sum(len(m.content) for m in sample.messages) + _IMAGE_LENGTH * len(sample.images)
    return asdict(sample) | {"length": length}


def to_sample(record: Mapping[str, Any]) -> Sample:
    """The inverse of to_record."""
    messages = tuple(Message(m["role"], m["content"]) for m in record["messages"])
    return Sample(record["id"], record["instruction"], messages, tuple(record["images"]), tuple(record["references"]))


def encode(samples: Sequence[Sample]) -> tuple[bytes, tuple[int, ...]]:
    """A Parquet file and the number of rows of each of its row groups."""
    buffer, groups = io.BytesIO(), list(_groups(samples))
    with pq.ParquetWriter(buffer, SCHEMA, compression=_CODECS, use_dictionary=["instruction"]) as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pylist([to_record(sample) for sample in group], SCHEMA))
    return buffer.getvalue(), tuple(len(group) for group in groups)


def decode(data: bytes) -> list[Sample]:
    """The samples of such a file."""
    return [to_sample(record) for record in pq.read_table(io.BytesIO(data)).to_pylist()]


def size_of(sample: Sample) -> int:
    """About the bytes that a sample takes."""
    return sum(map(len, sample.images)) + sum(len(m.content) for m in sample.messages)


def _groups(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    size = 0
    for sample in samples:
        group.append(sample)
        size += size_of(sample)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
