"""Shards: what goes in comes out, in the same order, with every bad row accounted for."""

from __future__ import annotations

import io
import json
import pickle
import zlib
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcia.config.run import DataConfig
from lcia.data import shards
from lcia.data.formats import CHUNK_ROWS
from lcia.data.parquet import CRC, ROW, SCHEMA, SIZE, START, TEXTS, decode, decode_end, encode, image_bytes, text_bytes
from lcia.data.rows import Rows
from lcia.data.shards import ShardCounts, complaint, count_rows, count_source, read_counts, refuse, write_source
from lcia.data.sources import Reading, all_chunks, samples
from lcia.data.unique import Owner
from lcia.store.files import Files
from lcia.types import FileSource, GeneratedSource, InputError, InstructionRule, Message, Sample, Source, Stretch
from tests.unit.data.rows import png


def reading(source: Source, instruction: InstructionRule = "last_line", limit: int | None = None) -> Reading:
    return Reading.of(source, instruction, limit, DataConfig().max_image_pixels)


TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "this"}]


def rows_file(folder: Path, ids: list[str], name: str = "rows.json") -> FileSource:
    turns = [{"from": "human", "value": "What?\nIn a word."}, {"from": "gpt", "value": "this"}]
    (folder / name).write_text(json.dumps([{"id": i, "conversations": turns} for i in ids]))
    return FileSource(str(folder / name), "llava")


def new(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def defects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / shards.BAD_ROWS).read_text().splitlines()]


def ids_in(rows: Rows) -> list[str]:
    return [sample.id for sample in rows.take(range(len(rows)))]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SAMPLES = st.builds(
    Sample,
    id=TEXT,
    instruction=TEXT,
    messages=st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TEXT), max_size=3).map(tuple),
    images=st.lists(st.binary(max_size=30), max_size=3).map(tuple),
    references=st.lists(TEXT, max_size=3).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=5))
def test_decoding_is_the_inverse_of_encoding(samples: list[Sample]) -> None:
    assert decode(encode(samples)[0]) == samples


@settings(max_examples=40, deadline=None)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=5))
def test_the_end_of_a_file_holds_the_texts_and_says_where_each_image_lies(samples: list[Sample]) -> None:
    data, end = encode(samples)
    rows, ranges = decode_end(data[-end:], len(data))
    assert rows.to_pylist() == [
        {name: record[name] for name in TEXTS} for record in pq.read_table(io.BytesIO(data)).to_pylist()
    ]
    images = [(row, image) for row, sample in enumerate(samples) for image in sample.images]
    assert [(line[ROW], data[line[START] :][: line[SIZE]]) for line in ranges.tolist()] == images
    assert [line[CRC] for line in ranges.tolist()] == [zlib.crc32(image) for _, image in images]


def test_the_end_of_a_file_is_a_small_part_of_it() -> None:
    asked = (Message("user", "<image> What is it?"),)
    data, end = encode([Sample(f"id-{i}", "Answer.", asked, (Random(i).randbytes(50_000),), ()) for i in range(80)])
    assert end < len(data) / 500


def test_no_column_of_a_shard_may_lack_a_value() -> None:
    assert not any(field.nullable for field in SCHEMA)


def test_shards_have_the_stated_schema(tmp_path: Path) -> None:
    write_source(reading(GeneratedSource("GQA", "train", 5, 0)), tmp_path)
    found = pq.read_schema(tmp_path / "shard-000000-000.parquet")
    assert found.equals(SCHEMA)
    assert found.metadata[b"lcia.shards"] == b"2"


def test_rows_are_found_by_number_in_the_order_asked_for(tmp_path: Path) -> None:
    count = 2 * CHUNK_ROWS + 7
    write_source(reading(GeneratedSource("VQAv2", "test", count, 0)), tmp_path)
    rows = Rows([tmp_path])
    wanted = [count - 1, 0, CHUNK_ROWS, CHUNK_ROWS - 1, 0]
    assert len(rows) == count
    assert [sample.id for sample in rows.take(wanted)] == [f"VQAv2-test-{i}" for i in wanted]
    assert ids_in(rows) == [f"VQAv2-test-{i}" for i in range(count)]


def test_several_folders_follow_one_another(tmp_path: Path) -> None:
    folders = [new(tmp_path, "a"), new(tmp_path, "b")]
    for folder, split in zip(folders, ("train", "test"), strict=True):
        write_source(reading(GeneratedSource("GQA", split, 4, 0)), folder)  # type: ignore[arg-type]
    assert [sample.id for sample in Rows(folders).take([4, 3])] == ["GQA-test-0", "GQA-train-3"]


@pytest.mark.parametrize("index", [-1, 4])
def test_a_row_number_outside_is_an_error(tmp_path: Path, index: int) -> None:
    write_source(reading(GeneratedSource("GQA", "train", 4, 0)), tmp_path)
    with pytest.raises(IndexError):
        Rows([tmp_path]).take([index])


def test_a_cache_too_small_for_one_group_still_serves_all_rows(tmp_path: Path) -> None:
    write_source(reading(GeneratedSource("GQA", "train", CHUNK_ROWS + 9, 0)), tmp_path)
    tight, roomy = Rows([tmp_path], cache_bytes=1), Rows([tmp_path])
    everything = list(range(CHUNK_ROWS + 9))
    assert tight.take(everything[::-1]) == roomy.take(everything)[::-1]


def test_rows_travel_to_other_processes(tmp_path: Path) -> None:
    write_source(reading(GeneratedSource("GQA", "train", 4, 0)), tmp_path)
    rows = Rows([tmp_path])
    assert pickle.loads(pickle.dumps(rows)).take([2]) == rows.take([2])  # noqa: S301 - our own object


def test_instructions_come_in_order_of_appearance_with_their_counts(tmp_path: Path) -> None:
    texts = ["b", "a", "b", "c", "b"]
    turns = [[{"from": "human", "value": t}, {"from": "gpt", "value": "x"}] for t in texts]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": i, "conversations": t} for i, t in enumerate(turns)]))
    folder = new(tmp_path, "out")
    write_source(reading(FileSource(str(tmp_path / "rows.json"), "llava"), "whole"), folder)
    assert list(Rows([folder]).instructions().items()) == [("b", 3), ("a", 1), ("c", 1)]


def test_lengths_count_characters_and_images(tmp_path: Path) -> None:
    folder = new(tmp_path, "out")
    write_source(reading(rows_file(tmp_path, ["x", "y"])), folder)
    assert Rows([folder]).lengths().tolist() == [len("What?\nIn a word.") + len("this")] * 2


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = new(tmp_path, "a"), new(tmp_path, "b")
    for folder in folders:
        write_source(reading(GeneratedSource("OCR-VQA", "train", 20, 1)), folder)
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert first == second


def test_a_repeated_id_is_a_defect_wherever_its_first_owner_stands(tmp_path: Path) -> None:
    ids = [str(i) for i in range(2 * CHUNK_ROWS)]
    ids[-1] = ids[3] = "1"
    folder = new(tmp_path, "out")
    counts = write_source(reading(rows_file(tmp_path, ids)), folder)
    assert counts == ShardCounts(len(ids), 2, {"duplicate_id": 2})
    assert [defect["record"] for defect in defects(folder)] == [4, len(ids)]
    assert ids_in(Rows([folder])) == [*ids[:3], *ids[4:-1]]


def test_a_repeated_id_in_another_file_names_the_first_one(tmp_path: Path) -> None:
    data = new(tmp_path, "data")
    rows_file(data, ["a", "b"], "1.json")
    rows_file(data, ["c", "a"], "2.json")
    folder = new(tmp_path, "out")
    write_source(reading(FileSource(str(data), "llava")), folder)
    (defect,) = defects(folder)
    assert (defect["file"], defect["record"], defect["id"]) == (str(data / "2.json"), 2, "a")
    assert f"row 1 of {data / '1.json'}" in defect["message"]


def test_bad_rows_are_reported_with_file_record_id_and_reason(tmp_path: Path) -> None:
    source = rows_file(tmp_path, ["a", "b"])
    rows = json.loads(Path(source.path).read_text())
    rows[1]["image"] = "none.png"
    rows[1]["conversations"][0]["value"] = "<image>\nWhat?"
    Path(source.path).write_text(json.dumps(rows))
    folder = new(tmp_path, "out")
    counts = write_source(reading(source), folder)
    (defect,) = defects(folder)
    assert {k: defect[k] for k in ("file", "record", "id", "reason")} == {
        "file": source.path,
        "record": 2,
        "id": "b",
        "reason": "missing_image",
    }
    assert (counts.rows, counts.bad, counts.good, count_rows(folder)) == (2, 1, 1, 1)


def test_counts_are_kept_with_the_shards_and_need_no_shards(tmp_path: Path) -> None:
    source, folder = rows_file(tmp_path, ["a", "a", "b"]), new(tmp_path, "out")
    counts = write_source(reading(source), folder)
    assert read_counts(folder) == counts == count_source(reading(source))


def test_the_first_rows_are_taken(tmp_path: Path) -> None:
    folder = new(tmp_path, "out")
    write_source(reading(rows_file(tmp_path, list("abcde")), limit=3), folder)
    assert ids_in(Rows([folder])) == ["a", "b", "c"]


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        write_source(reading(rows_file(tmp_path, [])), new(tmp_path, "out"))


@pytest.mark.parametrize(
    ("bad", "limit", "refused"), [(0, 0.0, False), (1, 0.0, True), (1, 0.1, False), (2, 0.1, True), (10, 1.0, True)]
)
def test_bad_rows_are_borne_up_to_the_stated_fraction(bad: int, limit: float, refused: bool) -> None:
    counts = ShardCounts(10, bad, {"missing_image": bad} if bad else {})
    assert (complaint("GQA/train", counts, "report", limit) is not None) == refused


def test_a_refusal_lists_every_source_with_its_reasons_by_count() -> None:
    counts = ShardCounts(100, 5, {"missing_image": 4, "duplicate_id": 1})
    with pytest.raises(InputError, match=r"missing_image 4, duplicate_id 1.*x/bad_rows.jsonl(.|\n)*GQA/test"):
        refuse([complaint(f"GQA/{split}", counts, "x/bad_rows.jsonl", 0.0) for split in ("train", "test")], 0.0)


@pytest.mark.parametrize("limit", ["PIECE_BYTES", "PIECE_TEXT_BYTES"])
def test_a_chunk_is_written_in_pieces_of_their_bytes_and_no_row_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    rows = [{"id": f"r{n}", "image": "a.png", "conversations": TURNS} for n in range(5)]
    (tmp_path / "a.png").write_bytes(png(4, 4))
    (tmp_path / "rows.json").write_text(json.dumps([*rows[:4], {**rows[4], "conversations": []}]))
    five, folder = reading(FileSource(str(tmp_path / "rows.json"), "llava")), new(tmp_path, "out")
    [sample, *_] = samples(five)
    size = {"PIECE_BYTES": image_bytes, "PIECE_TEXT_BYTES": text_bytes}[limit](sample)
    monkeypatch.setattr(f"lcia.data.shards.{limit}", 2 * size)
    [chunk] = all_chunks(five)
    cut = list(shards.write_pieces(five, 7, chunk, Files.local(folder)))
    assert [(p.shard and p.shard.name, p.source, len(p.bad)) for p in cut] == [
        ("shard-000007-000.parquet", chunk.file, 0), ("shard-000007-001.parquet", chunk.file, 0),
        (None, chunk.file, 1),
    ]  # fmt: skip
    assert [s.id for p in cut[:2] for s in decode((folder / p.shard.name).read_bytes())] == ["r0", "r1", "r2", "r3"]  # type: ignore[union-attr]
    assert [owner.record for p in cut for _, owner in p.rows()] == [1, 2, 3, 4]


def test_what_is_told_of_a_row_has_one_size_however_large_the_row_is(tmp_path: Path) -> None:
    source, folder = rows_file(tmp_path, ["a", "b" * 1000]), new(tmp_path, "out")
    [chunk] = all_chunks(reading(source))
    [piece] = shards.write_pieces(reading(source), 0, chunk, Files.local(folder))
    assert (len(piece.ids), len(piece.records)) == (2 * 16, 2 * 8)


def test_a_piece_may_be_written_again(tmp_path: Path) -> None:
    source, folder = rows_file(tmp_path, ["a", "b"]), new(tmp_path, "out")
    [chunk] = all_chunks(reading(source))
    first, again = (list(shards.write_pieces(reading(source), 0, chunk, Files.local(folder))) for _ in range(2))
    assert first == again
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["shard-000000-000.parquet"]


def test_a_piece_without_its_repeated_rows_may_be_written_again(tmp_path: Path) -> None:
    source, folder = rows_file(tmp_path, ["a", "b", "a"]), new(tmp_path, "out")
    [chunk] = all_chunks(reading(source))
    [piece] = shards.write_pieces(reading(source), 0, chunk, Files.local(folder))
    firsts = {2: Owner(chunk.file, 1)}
    first, again = (shards.without_repeated(Files.local(folder), piece, firsts) for _ in range(2))
    assert first == again
    assert (first.shard.rows, [bad.id for bad in first.bad]) == (2, ["a"])  # type: ignore[union-attr]


def test_a_shard_of_repeated_rows_alone_goes(tmp_path: Path) -> None:
    data, folder = new(tmp_path, "data"), new(tmp_path, "out")
    rows_file(data, ["a", "b"], "1.json")
    rows_file(data, ["b", "a"], "2.json")
    counts = write_source(reading(FileSource(str(data), "llava")), folder)
    assert counts == ShardCounts(4, 2, {"duplicate_id": 2})
    assert sorted(p.name for p in folder.iterdir()) == ["bad_rows.jsonl", "index.json", "shard-000000-000.parquet"]


# Stretches


def test_bad_rows_are_counted_in_the_stretch_that_they_are_in(tmp_path: Path) -> None:
    source = rows_file(tmp_path, [str(n) for n in range(10)])
    raw = json.loads((tmp_path / "rows.json").read_text())
    raw[3]["conversations"] = []
    (tmp_path / "rows.json").write_text(json.dumps(raw))
    pixels = DataConfig().max_image_pixels
    found = [count_source(Reading.of(source, "last_line", None, pixels, Stretch(n, 4))) for n in range(4)]
    assert [(counts.rows, counts.bad) for counts in found] == [(3, 0), (3, 0), (2, 0), (2, 1)]
