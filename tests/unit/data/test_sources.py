"""Sources: their files, their rows in order, and their fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcia.data import formats
from lcia.data.formats import CHUNK_ROWS, chunks
from lcia.data.records import Defect
from lcia.data.sources import Reading, all_chunks, check, fingerprint, rows_of
from lcia.types import FileSource, Format, GeneratedSource, InputError, Sample, Stretch
from tests.unit.data.rows import (
    PIXELS,
    chat_row,
    only_sample,
    png,
    read_rows,
    tar_of,
    train_row,
)


def test_a_folder_and_a_pattern_name_their_files_in_order(folder: Path) -> None:
    for number in (2, 10, 1):
        (folder / f"part-{number:02}.jsonl").write_text(json.dumps(train_row(id=str(number))))
    for place in (folder, folder / "part-*"):
        reading = Reading.of(FileSource(str(place), "llava", "train", str(folder)), "whole", None, PIXELS)
        found = [row.id for chunk in all_chunks(reading) for _, row in check(reading, chunk)]
        assert found == ["1", "2", "10"]


def test_files_may_lie_on_any_file_system_of_fsspec() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/set/rows.json", json.dumps([train_row()]).encode())
    fs.pipe("/set/images/a.png", png())
    source = FileSource("memory://set/rows.json", "llava", "train", "memory://set")
    reading = Reading.of(source, "last_line", None, PIXELS)
    (chunk,) = all_chunks(reading)
    ((_, row),) = check(reading, chunk)
    assert isinstance(row, Sample)
    assert row.images == (png(),)


def test_the_limit_takes_the_first_rows_across_files(folder: Path) -> None:
    for number in range(3):
        rows = [train_row(id=f"{number}-{i}") for i in range(CHUNK_ROWS + 1)]
        (folder / f"{number}.json").write_text(json.dumps(rows))
    source = FileSource(str(folder), "llava", "train", str(folder))
    reading = Reading.of(source, "last_line", 2 * CHUNK_ROWS + 1, PIXELS)
    found = [row.id for chunk in all_chunks(reading) for _, row in check(reading, chunk)]
    assert len(found) == 2 * CHUNK_ROWS + 1
    assert found[-1] == f"1-{CHUNK_ROWS - 1}"


def test_generated_rows_do_not_depend_on_chunks() -> None:
    source = GeneratedSource("VQAv2", "test", 2 * CHUNK_ROWS, 3)
    reading = Reading.of(source, "last_line", CHUNK_ROWS + 5, PIXELS)
    numbers = [number for chunk in all_chunks(reading) for number, _ in check(reading, chunk)]
    assert numbers == list(range(1, CHUNK_ROWS + 6))


def stretch_of(source: FileSource | GeneratedSource, stretch: Stretch | None) -> list[tuple[int, str]]:
    """Record numbers and ids."""
    reading = Reading.of(source, "last_line", None, PIXELS, stretch)
    return [(number, row.id) for chunk in all_chunks(reading) for number, row in check(reading, chunk)]


@pytest.mark.parametrize("kind", ["llava", "parquet", "webdataset", "generated"])
def test_a_stretch_is_every_nth_row_wherever_chunks_and_files_begin(folder: Path, kind: str) -> None:
    """Oracle: all rows, cut by python's slices."""
    source: FileSource | GeneratedSource = GeneratedSource("VQAv2", "train", CHUNK_ROWS + 20, 3)
    for file in range(2 if kind != "generated" else 0):
        rows = [train_row(id=f"{file}-{i}") for i in range(CHUNK_ROWS + 2)]
        if kind == "llava":
            (folder / f"{file}.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
        elif kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{file}.parquet", row_group_size=100)
        else:
            members = [(f"{i:04}.json", json.dumps(row).encode()) for i, row in enumerate(rows)]
            tar_of(folder / f"{file}.tar", members)
        source = FileSource(str(folder), kind, "train", str(folder))  # type: ignore[arg-type]
    whole = stretch_of(source, None)
    assert len(whole) > CHUNK_ROWS
    assert [stretch_of(source, Stretch(number, 5)) for number in range(5)] == [whole[n::5] for n in range(5)]


def test_chunks_without_a_row_of_the_stretch_are_left_out(folder: Path) -> None:
    for number in range(6):
        (folder / f"{number}.json").write_text(json.dumps([train_row(id=str(number))]))
    source = FileSource(str(folder), "llava", "train", str(folder))
    assert stretch_of(source, Stretch(1, 4)) == [(1, "1"), (1, "5")]


def test_more_stretches_than_rows_are_refused(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row(id=str(n)) for n in range(3)]))
    source = FileSource(str(folder / "rows.json"), "llava", "train", str(folder))
    assert stretch_of(source, Stretch(2, 4)) == [(3, "2")]
    with pytest.raises(InputError, match=r"3 rows cannot be cut into 4 tasks: lower benchmark\.stretches"):
        stretch_of(source, Stretch(3, 4))


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "images/\ud800.png", "images", "/dev/zero", "../x.png"])
def test_a_source_with_an_impossible_image_name_has_a_fingerprint(folder: Path, name: str) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row(image=name), train_row(id="r2")]))
    assert len(fingerprint(FileSource(str(folder / "rows.json"), "llava", "train", str(folder)))) == 32


def test_links_inside_the_root_are_followed(folder: Path) -> None:
    (folder / "images" / "same.png").symlink_to("a.png")
    assert only_sample(read_rows(folder, [train_row(image="images/same.png")])).images == (png(),)


def test_a_smaller_pixel_limit_refuses_an_ordinary_image(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row()]))
    source = FileSource(str(folder / "rows.json"), "llava", "train", str(folder))
    reading = Reading.of(source, "last_line", None, 11)
    (chunk,) = all_chunks(reading)
    ((_, row),) = check(reading, chunk)
    assert isinstance(row, Defect)
    assert "4 x 3" in row.message


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="nowhere://"):
        fingerprint(FileSource("nowhere://x/rows.json", "llava"))


# Fingerprints


def test_the_fingerprint_follows_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row()]))
    source = FileSource(str(folder / "rows.json"), "llava", "train", str(folder))
    before = fingerprint(source)
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    folder.rename(moved)
    assert fingerprint(FileSource(str(moved / "rows.json"), "llava", "train", str(moved))) == before


@pytest.mark.parametrize("change", ["rows", "image", "missing", "image of equal size"])
def test_the_fingerprint_sees_changed_rows_and_images(folder: Path, change: str) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row()]))
    source = FileSource(str(folder / "rows.json"), "llava", "train", str(folder))
    before = fingerprint(source)
    if change == "rows":
        (folder / "rows.json").write_text(json.dumps([train_row(id="other")]))
    elif change == "image":
        (folder / "images" / "a.png").write_bytes(png(9, 9))
    elif change == "image of equal size":
        (folder / "images" / "a.png").write_bytes(bytes(reversed(png())))
    else:
        (folder / "images" / "a.png").unlink()
    assert fingerprint(source) != before


def test_the_fingerprint_sees_images_that_parquet_rows_name(folder: Path) -> None:
    rows = [train_row(conversations=json.dumps(train_row()["conversations"])), chat_row(images=["images/b.png"])]
    rows[1] |= {"conversations": None}
    pq.write_table(pa.Table.from_pylist([row | {"embedded": png()} for row in rows]), folder / "rows.parquet")
    source = FileSource(str(folder / "rows.parquet"), "parquet", "train", str(folder))
    before = fingerprint(source)
    assert fingerprint(source) == before
    (folder / "images" / "a.png").write_bytes(bytes(reversed(png())))
    assert fingerprint(source) != before


def test_the_fingerprint_sees_images_that_tar_rows_name(folder: Path) -> None:
    tar_of(folder / "rows.tar", [("1.json", json.dumps(train_row()).encode())])
    source = FileSource(str(folder / "rows.tar"), "webdataset", "train", str(folder))
    before = fingerprint(source)
    (folder / "images" / "a.png").write_bytes(bytes(reversed(png())))
    assert fingerprint(source) != before


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_the_fingerprint_reads_no_image_that_travels_with_the_rows(
    folder: Path, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "parquet":
        row = train_row(image={"bytes": png(), "path": None})
        pq.write_table(pa.Table.from_pylist([row]), folder / "rows")
    else:
        tar_of(folder / "rows", [("1.json", json.dumps(train_row()).encode()), ("1.png", png())])
    monkeypatch.setattr(formats, "_member", lambda _, member: pytest.fail(f"{member.name} was read"))
    found = [record for chunk in chunks(str(folder / "rows"), kind) for record in formats.texts(chunk, kind)]
    assert b"PNG" not in repr(found).encode()
    assert len(fingerprint(FileSource(str(folder / "rows"), kind, "train", str(folder)))) == 32


def test_a_new_way_of_reading_is_another_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row()]))
    source = FileSource(str(folder / "rows.json"), "llava", "train", str(folder))
    before = fingerprint(source)
    monkeypatch.setattr("lcia.data.file_rows.VERSION", 10**6)
    assert fingerprint(source) != before


def test_generated_sources_differ_in_seed_and_size() -> None:
    sources = [GeneratedSource("GQA", "train", rows, seed) for rows in (10, 20) for seed in (0, 1)]
    assert len({fingerprint(source) for source in sources}) == 4


def test_real_rows_that_nobody_here_made_are_all_good(shared_data: Path) -> None:
    root = shared_data / "easyvqa"
    for split, count in (("train", 1998), ("test", 300)):
        source = FileSource(str(root / "shape" / f"{split}.json"), "llava", split, str(root))  # type: ignore[arg-type]
        reading = Reading.of(source, "last_line", None, PIXELS)
        found = [row for chunk in all_chunks(reading) for _, row in check(reading, chunk)]
        assert len(found) == count
        assert {row.instruction for row in found if isinstance(row, Sample)} == {
            "Answer the question using a single word or phrase."
        }


def test_generated_rows_are_cut_into_chunks_of_which_the_last_is_shorter() -> None:
    source = GeneratedSource("GQA", "train", CHUNK_ROWS + 10, seed=0)
    cut = [(chunk.start, chunk.stop, chunk.first, chunk.rows) for chunk in rows_of(source).chunks()]
    assert cut == [(0, CHUNK_ROWS, 1, CHUNK_ROWS), (CHUNK_ROWS, CHUNK_ROWS + 10, CHUNK_ROWS + 1, 10)]
