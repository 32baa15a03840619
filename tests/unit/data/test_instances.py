"""Task files of Super-NaturalInstructions: their words, how rows are dealt out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lcia.data.records import Defect
from lcia.data.sources import Reading, all_chunks, check, fingerprint, samples
from lcia.types import InputError, InstancesSource, Message, Sample, Source, Split, Stretch

TASK: dict[str, Any] = {
    "Contributors": ["someone"],
    "Definition": ["Answer the\nquestion.\n\nBe brief. "],
    "Positive Examples": [
        {"input": "2 + 2?", "output": "4", "explanation": "a sum"},
        {"input": "3 + 3?", "output": "6", "explanation": "a sum"},
    ],
    "Negative Examples": [{"input": "1?", "output": "no", "explanation": ""}],
    "Instances": [
        {"id": f"t-{n}", "input": f"{n} + {n}?", "output": [str(2 * n), f"it is {2 * n}"]} for n in range(10)
    ],
    "Instance License": ["Apache 2.0"],
}


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., str]:
    def write(**changed: Any) -> str:
        path = tmp_path / "task1_sums.json"
        path.write_text(json.dumps({**TASK, **changed}))
        return str(path)

    return write


def source(path: str, split: Split = "train", examples: int = 1, seed: int | None = None) -> InstancesSource:
    return InstancesSource(path, split, sizes=(2, 1, 5), seed=seed, examples=examples)


def reading(found: InstancesSource, stretch: Stretch | None = None) -> Reading:
    return Reading.of(found, "definition", None, 1, stretch)


def rows(found: InstancesSource) -> list[Sample]:
    return list(samples(reading(found)))


def test_a_question_is_definition_examples_and_input_in_the_words_of_tk_instruct(
    task_file: Callable[..., str],
) -> None:
    first = rows(source(task_file()))[0]
    assert first == Sample(
        "t-3",
        "Answer the question. Be brief.",
        (
            Message(
                "user",
                "Definition: Answer the question. Be brief.\n\nPositive Example 1 -\nInput: 2 + 2?\nOutput: 4\n\n"
                "Now complete the following example -\nInput: 3 + 3?\nOutput:",
            ),
            Message("assistant", "6"),
        ),
        (),
        ("6", "it is 6"),
    )


def test_a_test_row_ends_with_its_question_and_keeps_all_outputs_as_references(task_file: Callable[..., str]) -> None:
    first = rows(source(task_file(), "test", examples=0))[0]
    assert [message.role for message in first.messages] == ["user"]
    assert "Positive Example" not in first.messages[0].content
    assert first.references == ("0", "it is 0")


def ids(path: str, seed: int | None) -> dict[Split, list[str]]:
    splits: tuple[Split, ...] = ("test", "validation", "train")
    return {split: [row.id for row in rows(source(path, split, seed=seed))] for split in splits}


def test_without_a_seed_rows_are_dealt_out_in_the_file_s_order(task_file: Callable[..., str]) -> None:
    assert ids(task_file(), None) == {
        "test": ["t-0", "t-1"], "validation": ["t-2"], "train": [f"t-{n}" for n in range(3, 8)]
    }  # fmt: skip


def test_the_draw_follows_from_seed_and_ids_and_no_row_is_dealt_twice(task_file: Callable[..., str]) -> None:
    drawn = ids(task_file(), 0)
    assert drawn == ids(task_file(Instances=TASK["Instances"][::-1]), 0) != ids(task_file(), 1)
    dealt = [name for split in drawn.values() for name in split]
    assert len(set(dealt)) == len(dealt) == 8


def test_training_takes_what_is_left_of_a_short_file(task_file: Callable[..., str]) -> None:
    assert len(ids(task_file(Instances=TASK["Instances"][:5]), 0)["train"]) == 2


def test_a_split_that_gets_no_row_is_refused_with_the_keys_to_lower(task_file: Callable[..., str]) -> None:
    path = task_file(Instances=TASK["Instances"][:3])
    with pytest.raises(InputError, match=r"3 instances, of which none is left for train: lower benchmark\.test_size"):
        rows(source(path))


def test_stretches_share_the_rows_of_a_split_without_overlap(task_file: Callable[..., str]) -> None:
    found = source(task_file())
    cuts = [[row.id for row in samples(reading(found, Stretch(n, 2)))] for n in range(2)]
    whole = [row.id for row in rows(found)]
    assert cuts == [whole[::2], whole[1::2]]


def test_the_chunks_together_are_the_rows_and_name_places_in_the_file(task_file: Callable[..., str]) -> None:
    many = [{"id": f"t-{n}", "input": str(n), "output": ["x"]} for n in range(600)]
    found = reading(InstancesSource(task_file(Instances=many), "train", (1, 1, 590), None, 0))
    chunks = list(all_chunks(found))
    numbers = [number for chunk in chunks for number, _ in check(found, chunk)]
    assert len(chunks) == 3
    assert numbers == list(range(3, 593))


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        ({"id": "a", "input": " ", "output": ["x"]}, "empty_question"),
        ({"id": "a", "input": "x", "output": []}, "empty_answer"),
        ({"id": "a", "input": "x", "output": [" "]}, "empty_answer"),
        ({"id": "a", "input": "x"}, "bad_field"),
        ({"id": "a", "input": 3, "output": ["x"]}, "bad_field"),
        ({"id": "a", "input": "x", "output": [["x"]]}, "bad_field"),
        ({"id": "a", "input": "see <image>", "output": ["x"]}, "image_count"),
        ({"id": "a", "input": "half \ud800", "output": ["x"]}, "bad_text"),
        ("text", "bad_field"),
    ],
)
def test_an_instance_that_cannot_be_used_is_told_by_its_place(
    instance: object, reason: str, task_file: Callable[..., str]
) -> None:
    found = reading(InstancesSource(task_file(Instances=[instance]), "test", (1, 1, 1), None, 0))
    ((number, row),) = check(found, next(iter(all_chunks(found))))
    assert isinstance(row, Defect)
    assert (number, row.record, row.reason) == (1, 1, reason)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Instances": None}, "it has no list of Instances"),
        ({"Definition": []}, "its Definition or an example has no text"),
        ({"Definition": [" "]}, "its Definition or an example has no text"),
        ({"Positive Examples": [{"input": "x"}]}, "its Definition or an example has no text"),
    ],
)
def test_a_file_of_another_kind_is_refused(changed: dict[str, Any], said: str, task_file: Callable[..., str]) -> None:
    with pytest.raises(InputError, match=f"not a task file of Super-NaturalInstructions: {said}"):
        rows(source(task_file(**changed)))


def test_a_file_that_is_not_there_or_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"Instances": [')
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.json"):
        rows(source(str(tmp_path / "nowhere.json")))
    with pytest.raises(InputError, match="not a task file"):
        rows(source(str(tmp_path / "broken.json")))


def test_older_files_whose_texts_are_not_in_lists_are_read(task_file: Callable[..., str]) -> None:
    path = task_file(Definition="Add.", Instances=[{"input": "1 + 1?", "output": "2"}] * 3)
    assert [(row.id, row.instruction, row.references) for row in rows(source(path, "test"))] == [
        ("task1_sums-1", "Add.", ("2",)), ("task1_sums-2", "Add.", ("2",))
    ]  # fmt: skip


def test_what_identifies_the_rows_is_the_file_s_content_and_not_its_place(
    task_file: Callable[..., str], tmp_path: Path
) -> None:
    before = fingerprint(source(task_file()))
    (tmp_path / "moved").mkdir()
    moved = Path(task_file()).rename(tmp_path / "moved" / "task1_sums.json")
    assert fingerprint(source(str(moved))) == before
    assert source(str(moved)).identifying == source("task1_sums.json").identifying
    assert fingerprint(source(task_file(Definition=["Else."]))) != before


def test_a_source_comes_back_from_its_record_as_what_it_was(task_file: Callable[..., str]) -> None:
    adapter: TypeAdapter[Source] = TypeAdapter(Source)
    found = source(task_file(), seed=3)
    assert adapter.validate_python(json.loads(adapter.dump_json(found))) == found
