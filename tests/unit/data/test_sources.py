"""Every row of every format becomes a sample or a defect with its reason."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lcia.config.run import DataConfig
from lcia.data import formats
from lcia.data.formats import CHUNK_ROWS, chunks
from lcia.data.records import Defect, check_storable, draft, instruction_of
from lcia.data.sources import Reading, all_chunks, check, fingerprint, rows_of
from lcia.types import FileSource, Format, GeneratedSource, InputError, InstructionRule, Message, Sample, Split

PIXELS = DataConfig().max_image_pixels

Row = dict[str, Any]


def png(width: int = 4, height: int = 3, colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def huge_png() -> bytes:
    """A header that promises 60,000 x 60,000 pixels, and hardly any data: what a decompression bomb looks like."""

    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    size = (60_000).to_bytes(4) * 2
    header = part(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")


def train_row(**changes: Any) -> Row:
    turns = [{"from": "human", "value": "<image>\nWhat is it?\nOne word."}, {"from": "gpt", "value": "a dot"}]
    return {"id": "r1", "image": "images/a.png", "conversations": turns} | changes


def question_row(**changes: Any) -> Row:
    return {"question_id": 7, "image": "images/a.png", "text": "What is it?\nOne word.", "answer": "a dot"} | changes


def chat_row(**changes: Any) -> Row:
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "a dot"}]
    return {"id": "c1", "messages": turns, "images": ["images/a.png"]} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    (tmp_path / "images" / "b.png").write_bytes(png(5, 5, "blue"))
    return tmp_path


def read(path: Path, kind: Format = "llava", split: Split = "train", **options: Any) -> list[Sample | Defect]:
    source = FileSource(str(path), kind, split, str(path.parent), **options)
    reading = Reading.of(source, "last_line", None, PIXELS)
    return [row for chunk in all_chunks(reading) for _, row in check(reading, chunk)]


def read_rows(folder: Path, rows: list[Any], split: Split = "train", **options: Any) -> list[Sample | Defect]:
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    return read(file, "llava", split, **options)


def only_sample(found: list[Sample | Defect]) -> Sample:
    assert len(found) == 1
    assert isinstance(found[0], Sample), found[0]
    return found[0]


def only_defect(found: list[Sample | Defect]) -> Defect:
    assert len(found) == 1
    assert isinstance(found[0], Defect), found[0]
    return found[0]


# Good rows


def test_a_training_row_of_coin_ends_with_its_answer(folder: Path) -> None:
    assert only_sample(read_rows(folder, [train_row()])) == Sample(
        "r1",
        "One word.",
        (Message("user", "<image>\nWhat is it?\nOne word."), Message("assistant", "a dot")),
        (png(),),
        ("a dot",),
    )


def test_a_test_row_of_coin_gets_its_image_token_and_ends_with_the_question(folder: Path) -> None:
    assert only_sample(read_rows(folder, [question_row()], "test")) == Sample(
        "7", "One word.", (Message("user", "<image>\nWhat is it?\nOne word."),), (png(),), ("a dot",)
    )


def test_each_schema_serves_either_split(folder: Path) -> None:
    trained = only_sample(read_rows(folder, [question_row()], "train"))
    tested = only_sample(read_rows(folder, [train_row()], "test"))
    assert trained.messages == (*tested.messages, Message("assistant", "a dot"))
    assert tested.references == trained.references == ("a dot",)


def test_a_row_may_have_text_only_and_several_turns(folder: Path) -> None:
    said = ["Hello?", "Yes.", "Sure?", "Quite."]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    sample = only_sample(read_rows(folder, [{"id": "t", "conversations": turns}]))
    assert [m.content for m in sample.messages] == said
    assert (sample.images, sample.references, sample.instruction) == ((), ("Quite.",), "Hello?")


def test_image_may_be_a_list(folder: Path) -> None:
    row = question_row(image=["images/a.png", "images/b.png"])
    sample = only_sample(read_rows(folder, [row], "test"))
    assert sample.images == (png(), png(5, 5, "blue"))
    assert sample.messages[0].content.startswith("<image>\n<image>\n")


def test_ten_human_answers_become_ten_references(folder: Path) -> None:
    row = question_row(answers=[{"answer": f"a{i}", "answer_confidence": "yes"} for i in range(10)])
    assert only_sample(read_rows(folder, [row], "test")).references == tuple(f"a{i}" for i in range(10))


def test_an_empty_one_among_ten_answers_is_no_defect_of_a_test_row(folder: Path) -> None:
    row = question_row(answers=["", "dot"])
    assert only_sample(read_rows(folder, [row], "test")).references == ("", "dot")
    assert only_defect(read_rows(folder, [row], "train")).reason == "empty_answer"


def test_a_box_is_the_answer_where_there_is_no_other(folder: Path) -> None:
    row = question_row(answer=None, answer_bbox="[0.1, 0.2, 0.3, 0.4]")
    assert only_sample(read_rows(folder, [row], "test")).references == ("[0.1, 0.2, 0.3, 0.4]",)


def test_an_answer_is_needed_unless_a_source_says_otherwise() -> None:
    assert FileSource("rows.json", "llava").needs_answer


def test_questions_without_answers_are_read_where_none_is_needed(folder: Path) -> None:
    row = {"question_id": 1, "text": "Why?"}
    assert only_sample(read_rows(folder, [row], "test", needs_answer=False)).references == ()


def test_a_row_without_id_is_named_after_file_and_number(folder: Path) -> None:
    row = train_row()
    del row["id"]
    assert only_sample(read_rows(folder, [row])).id == "rows-1"


@pytest.mark.parametrize(
    ("content", "images"),
    [
        ("<image>\nWhat?", ["images/a.png"]),
        ([{"type": "image"}, {"type": "text", "text": "What?"}], ["images/a.png"]),
        ([{"type": "image", "image": "images/a.png"}, {"type": "text", "text": "What?"}], []),
        ([{"type": "image_url", "image_url": {"url": "images/a.png"}}, {"type": "text", "text": "What?"}], None),
    ],
)
def test_chat_content_is_text_or_parts(folder: Path, content: Any, images: Any) -> None:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "a dot"}]
    file = folder / "rows.jsonl"
    file.write_text("\n" + json.dumps(chat_row(messages=turns, images=images)) + "\n")
    sample = only_sample(read(file, "chat"))
    assert sample.messages == (Message("user", "<image>\nWhat?"), Message("assistant", "a dot"))
    assert sample.images == (png(),)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("row", ["llava", "chat", "parts"])
def test_a_system_turn_in_front_is_kept_and_is_no_instruction(folder: Path, row: str, split: Split) -> None:
    asked, said = chat_row()["messages"]
    content: Any = [{"type": "text", "text": "You are terse."}] if row == "parts" else "You are terse."
    rows = {
        "llava": train_row(conversations=[SYSTEM, *turns("<image>\nWhat?")]),
        "chat": chat_row(messages=[{"role": "system", "content": content}, asked, said]),
    }
    (sample,) = read_rows(folder, [rows["llava" if row == "llava" else "chat"]], split)
    assert isinstance(sample, Sample)
    assert sample.messages[:2] == (Message("system", "You are terse."), Message("user", "<image>\nWhat?"))
    assert len(sample.messages) == (3 if split == "train" else 2)
    assert sample.instruction == "What?"
    assert sample.references == ("a dot",)


def test_an_empty_system_turn_is_none(folder: Path) -> None:
    (sample,) = read_rows(folder, [train_row(conversations=[SYSTEM | {"value": " "}, *turns()])])
    assert isinstance(sample, Sample)
    assert [message.role for message in sample.messages] == ["user", "assistant"]


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


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_rows(count: int) -> list[tuple[str, bytes]]:
    row = {"conversations": train_row()["conversations"]}
    return [m for i in range(count) for m in ((f"d/{i:04}.json", json.dumps(row).encode()), (f"d/{i:04}.png", png()))]


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


# Defects of rows

BROKEN: dict[str, tuple[str, Callable[[], Row]]] = {
    "missing image": ("missing_image", lambda: train_row(image="images/none.png")),
    "a folder for an image": ("missing_image", lambda: train_row(image="images")),
    "truncated image": ("truncated_image", lambda: train_row(image="images/cut.png")),
    "zero bytes": ("empty_image", lambda: train_row(image="images/empty.png")),
    "decompression bomb": ("image_too_large", lambda: train_row(image="images/bomb.png")),
    "no image at all": ("unreadable_image", lambda: train_row(image="images/text.png")),
    "a token too many": ("image_count", lambda: question_row(text="<image><image>What?")),
    "an image too many": ("image_count", lambda: train_row(image=["images/a.png", "images/b.png"])),
    "a token without image": ("image_count", lambda: train_row(image=None)),
    "a token in an answer": ("image_count", lambda: with_answer("<image>")),
    "empty answer": ("empty_answer", lambda: with_answer("  ")),
    "no answer": ("empty_answer", lambda: question_row(answer=None)),
    "empty turn before the last": ("empty_answer", lambda: train_row(conversations=empty_first_answer())),
    "empty question": ("empty_question", lambda: question_row(text=" \n")),
    "unknown role": ("unknown_role", lambda: with_role("tool")),
    "a system turn in place of an answer": ("odd_roles", lambda: with_role("system")),
    "a second system turn": ("odd_roles", lambda: train_row(conversations=[SYSTEM, SYSTEM, *turns()])),
    "a system turn at the end": ("odd_roles", lambda: train_row(conversations=[*turns(), SYSTEM])),
    "nothing but a system turn": ("odd_roles", lambda: train_row(conversations=[SYSTEM], image=None)),
    "an answer after the system": ("odd_roles", lambda: train_row(conversations=[SYSTEM, turns()[1]])),
    "an image in a system turn": (
        "image_count",
        lambda: train_row(conversations=[SYSTEM | {"value": "<image>"}, turns("What?")[0], turns()[1]]),
    ),
    "no role": ("unknown_role", lambda: with_role(None)),
    "two users in a row": ("odd_roles", lambda: with_role("human")),
    "starts with an answer": ("odd_roles", lambda: train_row(conversations=train_row()["conversations"][1:])),
    "no turns": ("bad_field", lambda: train_row(conversations=[])),
    "turns that are no list": ("bad_field", lambda: train_row(conversations="hello")),
    "number for a text": ("bad_field", lambda: question_row(text=3)),
    "truth for an answer": ("bad_field", lambda: question_row(answer=True)),
    "object for an id": ("bad_field", lambda: train_row(id={"a": 1})),
    "number for an image": ("bad_field", lambda: train_row(image=5)),
    "no known keys": ("bad_field", lambda: {"question": "?", "reply": "!"}),
    "half a surrogate pair": ("bad_text", lambda: question_row(text="What \ud83d?")),
    "climbs out": ("image_outside_root", lambda: train_row(image="images/../../secret.png")),
    "absolute": ("image_outside_root", lambda: train_row(image="/etc/hostname")),
    "address": ("image_outside_root", lambda: train_row(image="http://example.org/a.png")),
    "link that leads out": ("image_outside_root", lambda: train_row(image="images/link.png")),
    "a name longer than file systems allow": ("missing_image", lambda: train_row(image="a" * 300 + ".png")),
    "half a surrogate pair in a name": ("bad_text", lambda: train_row(image="images/\ud800.png")),
    "a wide image whose square is huge": ("image_too_large", lambda: train_row(image="images/wide.png")),
}


SYSTEM = {"from": "system", "value": "You are terse."}


def turns(question: str = "<image>\nWhat is it?\nOne word.") -> list[Row]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "a dot"}]


def with_answer(text: str) -> Row:
    return train_row(conversations=[train_row()["conversations"][0], {"from": "gpt", "value": text}])


def empty_first_answer() -> list[Row]:
    asked, said = train_row()["conversations"]
    return [asked, said | {"value": ""}, {"from": "human", "value": "Really?"}, said]


def with_role(role: str | None) -> Row:
    return train_row(conversations=[train_row()["conversations"][0], {"from": role, "value": "a dot"}])


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_a_defect_with_its_reason_and_spares_its_neighbours(folder: Path, case: str) -> None:
    images = folder / "images"
    (images / "cut.png").write_bytes(noise_png()[:-200])
    (images / "empty.png").write_bytes(b"")
    (images / "text.png").write_text("hello")
    (images / "bomb.png").write_bytes(huge_png())
    Image.new("1", (20_000, 2_500)).save(images / "wide.png")
    (folder.parent / "outside.png").write_bytes(png())
    (images / "link.png").symlink_to(folder.parent / "outside.png")
    reason, row = BROKEN[case]
    first, broken, last = read_rows(folder, [train_row(id="x"), row(), train_row(id="y")])
    assert isinstance(first, Sample)
    assert isinstance(last, Sample)
    assert isinstance(broken, Defect)
    assert (broken.reason, broken.record, broken.file) == (reason, 2, str(folder / "rows.json"))
    assert broken.message


def noise_png() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 90).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "images/\ud800.png", "images", "/dev/zero", "../x.png"])
def test_a_source_with_an_impossible_image_name_has_a_fingerprint(folder: Path, name: str) -> None:
    (folder / "rows.json").write_text(json.dumps([train_row(image=name), train_row(id="r2")]))
    assert len(fingerprint(FileSource(str(folder / "rows.json"), "llava", "train", str(folder)))) == 32


@pytest.mark.parametrize("key", ["id", "score"])
def test_a_number_of_very_many_digits_spoils_only_its_row(folder: Path, key: str) -> None:
    digits = "9" * 5000
    bad = json.dumps(train_row(id="r2") | {key: "HERE"}).replace('"HERE"', digits)
    (folder / "rows.json").write_text(f"[{json.dumps(train_row())}, {bad}, {json.dumps(train_row(id='r3'))}]")
    (folder / "rows.jsonl").write_text(f"{json.dumps(train_row())}\n{bad}\n{json.dumps(train_row(id='r3'))}")
    for file in ("rows.json", "rows.jsonl"):
        first, second, third = read(folder / file)
        assert isinstance(first, Sample)
        assert isinstance(second, Defect)
        assert (second.reason, second.record) == ("invalid_json", 2)
        assert isinstance(third, Sample)


def test_a_record_that_is_no_object_is_a_defect(folder: Path) -> None:
    assert only_defect(read_rows(folder, [[1, 2]])).reason == "bad_field"


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


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="nowhere://"):
        fingerprint(FileSource("nowhere://x/rows.json", "llava"))


# Chunks


def test_chunks_are_references_of_even_size(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps([{"id": i} for i in range(2 * CHUNK_ROWS + 1)]))
    found = list(chunks(str(folder / "rows.json"), "llava"))
    assert [(chunk.first, chunk.rows) for chunk in found] == [
        (1, CHUNK_ROWS),
        (CHUNK_ROWS + 1, CHUNK_ROWS),
        (2 * CHUNK_ROWS + 1, 1),
    ]


# Instructions


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("last_line", "<image>\nWhat is it?\nAnswer in a word.\n", "Answer in a word."),
        ("last_line", "<image>", ""),
        ("before_colon", "<image>\nGive the box of this region: a man: left", "Give the box of this region"),
        ("before_colon", "No such sign", "No such sign"),
        (
            "after_image",
            "<image>\nWhat is the object in the image?\nAnswer in a word.",
            "What is the object in the image?",
        ),
        ("after_image", "Look.\n<image>\nWhat is it?", "What is it?"),
        ("after_image", "What is it?\n<image>", "What is it?"),
        ("whole", " <image>\nWhat?\n\nOne word. ", "What?\nOne word."),
    ],
)
def test_an_instruction_is_cut_by_its_rule(rule: InstructionRule, text: str, expected: str) -> None:
    assert instruction_of(text, rule) == expected


def test_a_text_is_not_looked_at_character_by_character() -> None:
    class Whole(str):
        def __iter__(self) -> Any:
            pytest.fail("somebody looks at each character")

    check_storable(Whole("What is it?"))


def test_a_line_break_stands_between_an_image_and_text_only() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "image"},
        {"type": "text", "text": "c"},
    ]
    assert draft({"messages": [{"role": "user", "content": parts}]}).messages[0].content == "ab\n<image>\nc"


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
