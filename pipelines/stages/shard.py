"""ShardStage on Ray Data: tasks read, check and encode the chunks of a source and write the shards where they will lie.

No row passes through the driver: it gathers what each task tells of its shards (names, counts, digests of ids, bad
rows), and writes the index. A task that is run again writes the same files under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray

from lcia.data.formats import Chunk
from lcia.data.parquet import Table
from lcia.data.records import Defect
from lcia.data.shards import Piece, Shard, ShardCounts, collect, without_repeated, write_pieces
from lcia.data.sources import Reading, all_chunks
from lcia.data.unique import Owner
from lcia.store.files import Files, Shared
from lcia.types import InputError

TOLD = pa.schema([("number", pa.int64()), ("facts", pa.string()), ("ids", pa.binary()), ("records", pa.binary())])
"""One piece of chunk `number`: of each row 24 bytes, the rest as JSON; or, as `error`, why its file is unusable."""


def shard_on_ray(reading: Reading, shared: Shared) -> ShardCounts:
    """As lcia.data.shards.write_source, and with the same files as result, on the connected Ray.

    Raises:
        InputError: there are no rows, or a file as a whole cannot be read. Bad rows are only counted.
    """
    return collect(_stream(reading, shared.files), shared, _rewrite)


def _stream(reading: Reading, files: Files) -> Iterator[Piece]:
    """The pieces of a source in its order, as they become ready."""
    chunks = [{"number": n, **asdict(chunk)} for n, chunk in enumerate(all_chunks(reading))]
    if not chunks:
        return
    # A chunk to a block, so that each is a task of its own.
    dataset = ray.data.from_items(chunks, override_num_blocks=len(chunks))
    dataset.context.execution_options.preserve_order = True
    told = dataset.map_batches(
        _write, fn_kwargs={"reading": reading, "files": files}, batch_size=1, batch_format="pyarrow",
        zero_copy_batch=True,
    )  # fmt: skip
    last = 0
    for table in told.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table.to_pylist():
            assert row["number"] >= last, "Ray Data was told to preserve the order"
            last = row["number"]
            yield _piece(**row)


def _write(batch: Table, reading: Reading, files: Files) -> Iterator[Table]:
    """In a task: writes the pieces of one chunk."""
    for record in batch.to_pylist():
        number = record.pop("number")
        try:
            for piece in write_pieces(reading, number, Chunk(**record), files):
                facts = asdict(piece)
                ids, records = facts.pop("ids"), facts.pop("records")
                yield _row(number, facts, ids, records)
        except InputError as error:
            # Ray would wrap it; the driver shall see it as it is.
            yield _row(number, {"error": str(error)}, b"", b"")


def _row(number: int, facts: dict[str, Any], ids: bytes, records: bytes) -> Table:
    return pa.table({"number": [number], "facts": [json.dumps(facts)], "ids": [ids], "records": [records]}, TOLD)


def _piece(number: int, facts: str, ids: bytes, records: bytes) -> Piece:
    known = json.loads(facts)
    if "error" in known:
        raise InputError(known["error"])
    shard = Shard(**known["shard"]) if known["shard"] else None
    bad = tuple(Defect(**defect) for defect in known["bad"])
    return Piece(known["source"], shard, known["entry"], ids, records, bad)


def _rewrite(files: Files, piece: Piece, firsts: Mapping[int, Owner]) -> Callable[[], Piece]:
    """Has a task write a shard again without its repeated rows."""
    result = ray.remote(without_repeated).options(num_cpus=1).remote(files, piece, firsts)
    return lambda: ray.get(result)
