"""Rows of shards by number: the bytes that are read for them, damage, and the shards of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from bench.counting import Counting
from lcia.data import rows as reading_rows
from lcia.data.parquet import encode, to_record
from lcia.data.rows import Rows
from lcia.data.shards import INDEX, Piece, collect
from lcia.data.shards import _write as write_shard
from lcia.store.files import Files, Shared
from lcia.store.trouble import StoreError
from lcia.types import Message, Sample

SHARDS, EACH, IMAGE = 4, 20, 30_000


def sample(number: int, images: int = 1) -> Sample:
    pictures = tuple(Random(f"{number} {n}").randbytes(IMAGE) for n in range(images))
    messages = (Message("user", f"<image> What is {number}?"), Message("assistant", f"It is {number}."))
    return Sample(f"id-{number}", "Answer in a word.", messages, pictures, (f"{number}",))


ALL = [sample(number, images=number % 3) for number in range(SHARDS * EACH)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of twenty rows, with none to two images each."""
    made = tmp_path_factory.mktemp("shards")
    shared = Shared.local(made)

    def pieces() -> list[Piece]:
        numbered = list(enumerate(ALL))
        cut = [numbered[start : start + EACH] for start in range(0, len(ALL), EACH)]
        return [write_shard(f"shard-{n:06d}-000.parquet", shared.files, "rows", rows, []) for n, rows in enumerate(cut)]

    collect(pieces(), shared, lambda *_: pytest.fail("no id is repeated"))
    return made


def counted(folder: Path) -> tuple[Rows, Counting]:
    counting = Counting(pafs.LocalFileSystem())
    rows = Rows([Files(pafs.PyFileSystem(counting), str(folder), "counted")])
    counting.bytes = counting.reads = counting.opened = 0
    return rows, counting


def test_any_rows_come_as_they_were_written_from_here_and_from_elsewhere(folder: Path) -> None:
    wanted = [79, 3, 41, 3, 0, 40, 42]
    for rows in (Rows([folder]), counted(folder)[0]):
        assert rows.take(wanted) == [ALL[number] for number in wanted]
        assert rows.take(range(len(rows))) == ALL


def test_few_bytes_are_read_that_are_not_used(folder: Path) -> None:
    rows, counting = counted(folder)
    order = list(range(len(ALL)))
    Random(0).shuffle(order)
    for start in range(0, len(order), 16):
        rows.take(order[start : start + 16])
    used = sum(len(image) for one in ALL for image in one.images)
    assert counting.bytes <= 1.02 * used


def test_images_side_by_side_are_read_at_once_and_a_file_is_opened_once(folder: Path) -> None:
    rows, counting = counted(folder)
    rows.take(range(1, EACH - 1))
    assert (counting.opened, counting.reads) == (1, 2)  # its end, then all images
    rows.take([5])
    assert (counting.opened, counting.reads) == (1, 3)
    rows.take([0, 3])  # rows without an image
    assert (counting.opened, counting.reads) == (1, 3)


def test_columns_are_read_without_the_images(folder: Path) -> None:
    rows, counting = counted(folder)
    assert rows.instructions() == {"Answer in a word.": len(ALL)}
    assert rows.lengths().tolist() == [to_record(one)["length"] for one in ALL]
    assert counting.bytes < 20_000


def test_what_is_kept_stays_below_its_limit_and_is_counted_as_it_comes_and_goes(folder: Path) -> None:
    one = Rows([folder])
    one.take([0])
    rows = Rows([folder], cache_bytes=2 * one._cached_bytes + 100)
    for number in (0, 20, 40, 60, 0, 20):
        assert rows.take([number]) == [ALL[number]]
        assert rows._cached_bytes == sum(kept.nbytes for kept in rows._cache.values()) <= rows._cache_bytes


@pytest.mark.parametrize("where", ["image", "end"])
def test_a_damaged_range_is_an_error_that_names_the_shard(folder: Path, tmp_path: Path, where: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "shard-000001-000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 if where == "image" else -100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard-000001-000.parquet in .* is damaged"):
        Rows([tmp_path]).take(range(EACH, 2 * EACH))
    assert Rows([tmp_path]).take([0]) == ALL[:1]


def test_shards_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Row groups of any size, images among the other columns, and an index that tells the rows of each group."""
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("instruction", pa.string(), nullable=False),
            pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            pa.field("images", pa.list_(pa.binary()), nullable=False),
            pa.field("references", pa.list_(pa.string()), nullable=False),
            pa.field("length", pa.int64(), nullable=False),
        ],
        metadata={"lcia.shards": "1"},
    )
    files, at = [], 0
    for number, groups in enumerate([(3, 1), (5,)]):
        name = f"shard-{number:05d}.parquet"
        with pq.ParquetWriter(tmp_path / name, schema) as writer:
            for size in groups:
                writer.write_table(pa.Table.from_pylist([to_record(one) for one in ALL[at : at + size]], schema))
                at += size
        files.append({"name": name, "groups": list(groups)})
    (tmp_path / INDEX).write_text(json.dumps({"counts": {"rows": 9, "bad": 0, "reasons": {}}, "files": files}))
    rows = Rows([tmp_path])
    assert rows.take([8, 0, 3, 2, 4]) == [ALL[number] for number in (8, 0, 3, 2, 4)]
    assert rows.instructions() == {"Answer in a word.": 9}
    assert rows.lengths().tolist() == [to_record(one)["length"] for one in ALL[:9]]
    assert rows.folder_of(4) == range(9)


def test_images_that_start_alike_or_are_empty_keep_their_places() -> None:
    start = bytes(100)
    images = [start + b"a", start + b"b", b"", start, start + b"a"]
    found = [Sample(str(n), "", (), (image,), ()) for n, image in enumerate(images)]
    data, end = encode(found)
    _, ranges = reading_rows.decode_end(data[-end:], len(data))
    assert [data[start : start + size] for _, start, size, _ in ranges.tolist()] == images
