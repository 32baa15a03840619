"""One raw record becomes a sample, or a defect with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcia.data.records import Defect, check_storable, draft, instruction_of
from lcia.types import FileSource, InstructionRule, Message, Sample, Split
from tests.unit.data.rows import (
    Row,
    chat_row,
    huge_png,
    noise_png,
    only_defect,
    only_sample,
    png,
    question_row,
    read,
    read_rows,
    train_row,
)

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
    "empty question of two": (
        "empty_question",
        lambda: train_row(conversations=[turns()[0] | {"value": " "}, turns()[1]]),
    ),
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
