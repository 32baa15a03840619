"""Samples as Parquet, laid out for reading single rows: the images first, byte for byte, then texts and footer.

A file has one row group. Its images are stored as they are, and the footer tells where each one lies: a reader asks for
the end of a file once, and then for exactly the images that it needs. Other programs read the file as any other
Parquet file. The same samples give the same bytes.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lcia.types import Message, Sample

Table: TypeAlias = Any  # pyarrow.Table, which carries no types

SCHEMA = pa.schema(
    [
        # First, so that all other columns lie side by side with the footer.
        pa.field("images", pa.list_(pa.binary()), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)
"""One sample; `images` are encoded files, `length` stands for its tokens where samples are grouped by length."""

TEXTS = [name for name in SCHEMA.names if name != "images"]
"""The columns at the end of a file."""

VERSION = {"lcia.shards": "2"}
"""In the footer: which layout this is. The first one had several row groups, and images between the other columns."""
RANGES = "lcia.images"
"""Key of the footer: row, first byte, bytes and CRC-32 of each image, as unsigned 32-bit integers in base64."""
ROW, START, SIZE, CRC = range(4)

_IMAGE_LENGTH = 2000
"""Characters that an image counts for in `length`: 576 tokens of three to four characters."""

_CODECS = dict.fromkeys(("id", "instruction", "messages.list.element.content", "references.list.element"), "zstd")
"""Text is compressed; images are already."""

_PROBE = 64
"""Bytes of an image that are searched for; where they are found, the rest is compared."""


def to_record(sample: Sample) -> dict[str, Any]:
    """A row of SCHEMA."""
    length = sum(len(m.content) for m in sample.messages) + _IMAGE_LENGTH * len(sample.images)
    return asdict(sample) | {"length": length}


def to_sample(record: Mapping[str, Any]) -> Sample:
    """The inverse of to_record."""
    messages = tuple(Message(m["role"], m["content"]) for m in record["messages"])
    return Sample(record["id"], record["instruction"], messages, tuple(record["images"]), tuple(record["references"]))


def encode(samples: Sequence[Sample]) -> tuple[bytes, int]:
    """A Parquet file of at least one sample, and the bytes of its end, which holds all but the images."""
    buffer = io.BytesIO()
    # Statistics would repeat small images in the footer; the schema of Arrow adds nothing to that of Parquet here.
    with pq.ParquetWriter(
        buffer, SCHEMA, compression=_CODECS, use_dictionary=["instruction"], write_statistics=False, store_schema=False
    ) as writer:
        writer.write_table(pa.Table.from_pylist([to_record(sample) for sample in samples], SCHEMA))
        ranges = _find_images(buffer.getvalue(), samples)
        writer.add_key_value_metadata({**VERSION, RANGES: base64.b64encode(ranges.tobytes()).decode()})
    data = buffer.getvalue()
    return data, len(data) - _texts_start(data)


def _find_images(data: bytes, samples: Sequence[Sample]) -> NDArray[np.uint32]:
    """[images, 4]: where each image lies in a file whose images column is plain and uncompressed."""
    found, at = [], 0
    for row, sample in enumerate(samples):
        for image in sample.images:
            # Parquet puts the length in front of a value. The first match is the image or equals it.
            probe = len(image).to_bytes(4, "little") + image[:_PROBE]
            at = data.index(probe, at)
            while data[at + 4 : at + 4 + len(image)] != image:
                at = data.index(probe, at + 1)
            found.append((row, at + 4, len(image), zlib.crc32(image)))
            at += 4 + len(image)
    return np.array(found, "<u4").reshape(-1, 4)


def _texts_start(data: bytes) -> int:
    images = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    return int(images.data_page_offset + images.total_compressed_size)


def decode(data: bytes) -> list[Sample]:
    """The samples of a whole file."""
    return [to_sample(record) for record in pq.read_table(io.BytesIO(data)).to_pylist()]


def decode_end(end: bytes, size: int) -> tuple[Table, NDArray[np.uint32]]:
    """The columns TEXTS of a file of `size` bytes, and [images, 4] where its images lie, from its last bytes."""
    # Memory that is zero until it is used stands for the images.
    whole = np.zeros(size, np.uint8)
    whole[size - len(end) :] = np.frombuffer(end, np.uint8)
    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(whole)))
    ranges = base64.b64decode(file.metadata.metadata[RANGES.encode()])
    return file.read(columns=TEXTS), np.frombuffer(ranges, "<u4").reshape(-1, 4)


def image_bytes(sample: Sample) -> int:
    """The bytes of a sample's images."""
    return sum(map(len, sample.images))


def text_bytes(sample: Sample) -> int:
    """About the bytes of a sample's texts."""
    return sum(len(m.content) for m in sample.messages)
