"""Files of each format: cut into chunks, read record by record, refused as a whole where rows cannot be told apart."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcia.data import formats
from lcia.data.formats import CHUNK_ROWS, chunks
from lcia.data.records import Defect
from lcia.data.sources import Reading, all_chunks, check
from lcia.types import FileSource, InputError, Sample
from tests.unit.data.rows import (
    chat_row,
    only_sample,
    png,
    read,
    tar_of,
    tar_rows,
    train_row,
)


@pytest.mark.parametrize("shape", ["bytes", "struct", "list", "text"])
def test_parquet_rows_hold_their_images(folder: Path, shape: str) -> None:
    image: Any = {"bytes": png(), "struct": {"bytes": png(), "path": "x"}, "list": [png()], "text": png()}[shape]
    turns: Any = train_row()["conversations"]
    turns = json.dumps(turns) if shape == "text" else turns
    file = folder / "rows.parquet"
    rows = [{"id": i, "image": image, "conversations": turns, "extra": None} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=1)
    found = read(file, "parquet")
    assert [row.id for row in found] == ["0", "1", "2"]
    assert all(isinstance(row, Sample) and row.images == (png(),) for row in found)


def test_parquet_row_groups_are_cut_into_chunks_without_losing_a_row(folder: Path) -> None:
    rows = [train_row(id=str(i)) for i in range(2 * CHUNK_ROWS + 3)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=CHUNK_ROWS)
    cut = [(chunk.first, chunk.rows) for chunk in chunks(str(folder / "rows.parquet"), "parquet")]
    assert cut == [(1, CHUNK_ROWS), (1 + CHUNK_ROWS, CHUNK_ROWS), (1 + 2 * CHUNK_ROWS, 3)]


def test_a_conversation_that_is_not_json_spoils_its_row_of_a_table_only(folder: Path) -> None:
    texts = ["[{", json.dumps(train_row()["conversations"])]
    rows = [{"id": str(i), "image": png(), "conversations": text} for i, text in enumerate(texts)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    broken, whole = read(folder / "rows.parquet", "parquet")
    assert isinstance(broken, Defect)
    assert broken.reason == "invalid_json"
    assert isinstance(whole, Sample)


def test_webdataset_members_with_one_name_are_one_row(folder: Path) -> None:
    found = read(tar_of(folder / "rows.tar", tar_rows(CHUNK_ROWS + 3)), "webdataset")
    assert [row.id for row in found] == [f"{i:04}" for i in range(CHUNK_ROWS + 3)]
    assert all(isinstance(row, Sample) and row.images == (png(),) for row in found)


def test_a_webdataset_row_without_json_is_a_defect(folder: Path) -> None:
    found = read(tar_of(folder / "rows.tar", [("a.png", png()), *tar_rows(1)]), "webdataset")
    assert isinstance(found[0], Defect)
    assert found[0].reason == "invalid_json"
    assert isinstance(found[1], Sample)


@pytest.mark.parametrize(
    ("large", "reason"),
    [("0000.png", "image_too_large"), ("0000.json", "bad_field"), ("0000.txt", None), ("0000.mp4", None)],
)
def test_a_tar_member_is_judged_by_its_size_before_it_is_read(
    folder: Path, large: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(name, data) for name, data in tar_rows(2) if name != f"d/{large}"]
    path = tar_of(folder / "rows.tar", [(f"d/{large}", bytes(3 << 20)), *members])
    real = formats._member

    def member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
        assert not info.name.endswith(large), "the large member was read"
        return real(tar, info)

    monkeypatch.setattr(formats, "_member", member)
    monkeypatch.setattr(formats, "_MAX_JSON", 1 << 20)
    reading = Reading.of(FileSource(str(path), "webdataset"), "last_line", None, 100_000)
    (chunk,) = all_chunks(reading)
    (_, first), (_, second) = check(reading, chunk)
    assert (first.reason if isinstance(first, Defect) else None) == reason
    assert isinstance(second, Sample)


@pytest.mark.parametrize("cut", [512 * 6, 512 * 4 + 100, 512 * 5 + 10])
def test_a_tar_that_breaks_off_is_refused_as_a_whole(folder: Path, cut: int) -> None:
    path = tar_of(folder / "rows.tar", tar_rows(4))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"rows\.tar"):
        read(path, "webdataset")


def test_a_broken_line_is_named_by_its_line_number(folder: Path) -> None:
    file = folder / "rows.jsonl"
    good = json.dumps(chat_row(id="1")), json.dumps(chat_row(id="2"))
    file.write_bytes(f"{good[0]}\n\n{{broken\n".encode() + b'{"id": "\xff"}\n' + good[1].encode())
    found = read(file, "chat")
    assert [(row.record, row.reason) for row in found if isinstance(row, Defect)] == [
        (3, "invalid_json"),
        (4, "invalid_json"),
    ]
    assert [row.id for row in found if isinstance(row, Sample)] == ["1", "2"]


def test_bytes_that_are_no_utf8_spoil_only_their_element_of_an_array(folder: Path) -> None:
    file = folder / "rows.json"
    file.write_bytes(b'\xef\xbb\xbf [{"id": "\xff"} ,\n' + json.dumps(train_row()).encode() + b"]")
    first, second = read(file)
    assert isinstance(first, Defect)
    assert first.reason == "invalid_json"
    assert isinstance(second, Sample)


# Defects of files


@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1} {"b": 2}]', '[{"a": tru}]', "hello", '[{"a": "x]', "[1,"])
def test_a_broken_array_is_refused_as_a_whole(folder: Path, text: str) -> None:
    (folder / "rows.json").write_text(text)
    with pytest.raises(InputError, match=r"rows\.json"):
        read(folder / "rows.json")


@pytest.mark.parametrize("tail", ["[{}]", "{}", "x", ",", "]", " \n\n [1]", " " * 3000 + "[]"])
@pytest.mark.parametrize("array", ["[]", '[{"a": 1}]', " [1, 2]\n"])
def test_what_follows_an_array_is_refused_with_its_place(folder: Path, array: str, tail: str) -> None:
    (folder / "rows.json").write_text(array + tail)
    at = len(array + tail) - len((array + tail)[len(array) :].lstrip())
    with pytest.raises(InputError, match=rf"rows\.json.* near byte {at}: the array ends, but"):
        read(folder / "rows.json")


def test_an_array_between_lines_is_a_counted_defect(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(f"{json.dumps(train_row())}\n[{json.dumps(train_row(id='r2'))}]\n")
    first, second = read(folder / "rows.jsonl")
    assert isinstance(first, Sample)
    assert isinstance(second, Defect)
    assert (second.reason, second.record) == ("bad_field", 2)


def test_lines_after_an_array_are_refused(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(f"[{json.dumps(train_row())}]\n{json.dumps(train_row(id='r2'))}\n")
    with pytest.raises(InputError, match=r"the array ends, but \{ follows; a file holds one array"):
        read(folder / "rows.jsonl")


@pytest.mark.parametrize("blanks", [100, 3 << 20])
def test_an_array_may_begin_after_many_blanks(folder: Path, blanks: int) -> None:
    (folder / "rows.json").write_text(" " * blanks + json.dumps([train_row()]))
    only_sample(read(folder / "rows.json"))


def test_a_missing_file_is_refused_with_its_name(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read(folder / "none.json")


def test_a_broken_parquet_file_is_refused_with_its_name(folder: Path) -> None:
    (folder / "rows.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match=r"rows\.parquet"):
        read(folder / "rows.parquet", "parquet")


# Chunks


def test_chunks_are_references_of_even_size(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps([{"id": i} for i in range(2 * CHUNK_ROWS + 1)]))
    found = list(chunks(str(folder / "rows.json"), "llava"))
    assert [(chunk.first, chunk.rows) for chunk in found] == [
        (1, CHUNK_ROWS),
        (CHUNK_ROWS + 1, CHUNK_ROWS),
        (2 * CHUNK_ROWS + 1, 1),
    ]
