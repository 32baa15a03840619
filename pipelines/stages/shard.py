"""ShardStage on Ray Data: chunks of a source are read, checked and encoded by tasks, and written here in order.

The driver holds references to chunks and one encoded piece; rows are read, decoded and judged in the tasks only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from lcia.data.formats import Chunk
from lcia.data.parquet import Table
from lcia.data.records import Defect
from lcia.data.shards import Piece, ShardCounts, collect, pieces
from lcia.data.sources import Reading, all_chunks
from lcia.types import InputError

BLOCK_BYTES = 16 << 20
"""Pieces that a task passes on at a time: several fit into a small object store."""

ENCODED = pa.schema([("number", pa.int64()), ("facts", pa.string()), ("data", pa.binary())])
"""One piece of chunk `number`: its shard, and as JSON what goes with it; or, as `error`, why its file is unusable."""


def shard_on_ray(reading: Reading, folder: Path) -> ShardCounts:
    """As lcia.data.shards.write_source, and with the same files as result, on the connected Ray.

    Raises:
        InputError: there are no rows, or a file as a whole cannot be read. Bad rows are only counted.
    """
    return collect(_stream(reading), folder)


def _stream(reading: Reading) -> Iterator[Piece]:
    """The pieces of a source in its order, as they become ready."""
    chunks = [{"number": n, **asdict(chunk)} for n, chunk in enumerate(all_chunks(reading))]
    if not chunks:
        return
    # A chunk to a block, so that each is a task of its own.
    dataset = ray.data.from_items(chunks, override_num_blocks=len(chunks))
    dataset.context.execution_options.preserve_order = True
    dataset.context.target_max_block_size = BLOCK_BYTES
    encoded = dataset.map_batches(
        _encode, fn_kwargs={"reading": reading}, batch_size=1, batch_format="pyarrow", zero_copy_batch=True
    )
    last = 0
    for table in encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in range(table.num_rows):
            number, piece = _decoded(table.slice(row, 1))
            assert number >= last, "Ray Data was told to preserve the order"
            last = number
            yield piece


def _encode(batch: Table, reading: Reading) -> Iterator[Table]:
    """In a task: the pieces of one chunk."""
    for record in batch.to_pylist():
        number = record.pop("number")
        try:
            for piece in pieces(reading, Chunk(**record)):
                facts = {key: value for key, value in asdict(piece).items() if key != "data"}
                yield _row(number, facts, piece.data)
        except InputError as error:
            # Ray would wrap it; the driver shall see it as it is.
            yield _row(number, {"error": str(error)}, b"")


def _row(number: int, facts: dict[str, Any], data: bytes) -> Table:
    return pa.table({"number": [number], "facts": [json.dumps(facts)], "data": [data]}, ENCODED)


def _decoded(table: Table) -> tuple[int, Piece]:
    (row,) = table.to_pylist()
    facts = json.loads(row["facts"])
    if "error" in facts:
        raise InputError(facts["error"])
    facts |= {key: tuple(facts[key]) for key in ("groups", "ids", "records")}
    facts["bad"] = tuple(Defect(**defect) for defect in facts["bad"])
    return row["number"], Piece(data=row["data"], **facts)
