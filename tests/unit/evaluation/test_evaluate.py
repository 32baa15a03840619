"""Answering a stage: which adapter answers which row, in what batches, and what is kept loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcia.config.assistants import TinyConfig
from lcia.data.minicoin.rows import generate
from lcia.data.shards import write_source
from lcia.data.sources import Reading
from lcia.evaluation.answers import SCHEMA, read_answers, read_result
from lcia.evaluation.evaluate import Predictor, _record, evaluate_stage
from lcia.stage import EvaluateStage, ShardStage
from lcia.store.folders import Store
from lcia.types import GeneratedSource, Sample

ROWS = 7
SOURCE = GeneratedSource("GQA", "test", ROWS, 0)


class Recorder:
    """Stands for an assistant and its adapters: answers with the adapter's name, remembers its calls."""

    def __init__(self) -> None:
        self.active: str | None = None
        self.loaded: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.batches: list[int] = []
        self.training = True
        self.module, self.adapters = SimpleNamespace(eval=self._eval), self

    def _eval(self) -> None:
        self.training = False

    def use(self, name: str | None) -> None:
        assert name is None or name in self.loaded
        self.calls.append(("use", str(name)))
        self.active = name

    def load(self, name: str, folder: Path) -> None:
        assert folder.name == name
        self.calls.append(("load", name))
        self.loaded.append(name)
        self.active = name

    def merge(self, name: str) -> None:
        self.use(name)
        self.calls.append(("merge", name))

    def drop(self, name: str) -> None:
        self.calls.append(("drop", name))
        self.loaded.remove(name)

    def answer(self, samples: list[Sample], max_new_tokens: int) -> list[str]:
        assert not self.training
        self.batches.append(len(samples))
        return [f"{self.active} {sample.id} {max_new_tokens}" for sample in samples]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Holds shards of GQA's rows, and adapters a to d that nobody trained."""
    store = Store(str(tmp_path / "store"))
    for name in "abcd":
        with store.publish(name, {}):
            pass
    shards = _shards()
    with store.publish(shards.key, shards.record) as folder:
        write_source(Reading.of(shards.source, shards.instruction, None, shards.max_image_pixels), folder)
    return store


def _shards() -> ShardStage:
    return ShardStage(task="GQA", split="test", source=SOURCE, fingerprint="", instruction="last_line",
                      max_image_pixels=10**6)  # fmt: skip


def _stage(default: str | None, routes: tuple[tuple[str, str | None], ...] = (), tokens: int = 9) -> EvaluateStage:
    model = {"base": "", "assistant": TinyConfig()}
    return EvaluateStage(
        task="GQA", shards=_shards().key, default=default, routes=routes, max_new_tokens=tokens, **model
    )


def _predictor(store: Store, **values: Any) -> tuple[Predictor, Recorder]:
    assistant = Recorder()
    return Predictor(assistant, store, **{"batch_size": 4, **values}), assistant  # type: ignore[arg-type]


def test_a_record_holds_what_was_asked_what_was_said_and_by_whom(store: Store) -> None:
    predictor, _ = _predictor(store)
    records = predictor(_stage("a"), 0, ROWS)
    for row, (record, sample) in enumerate(zip(records, generate(SOURCE, 0, ROWS), strict=True)):
        question = next(m.content for m in sample.messages if m.role == "user")
        assert record == {
            "row": row, "id": sample.id, "instruction": record["instruction"], "question": question,
            "prediction": f"a {sample.id} 9", "references": list(sample.references), "adapter": "a",
                "images": record["images"],
        }  # fmt: skip
        assert record["instruction"] in question


def test_a_range_of_rows_is_answered_in_batches_of_the_size_given(store: Store) -> None:
    predictor, assistant = _predictor(store, batch_size=2)
    records = predictor(_stage("a"), 1, 6)
    assert [record["row"] for record in records] == [1, 2, 3, 4, 5]
    assert assistant.batches == [2, 2, 1]


def test_rows_are_answered_by_the_adapter_of_their_instruction_and_come_in_their_order(store: Store) -> None:
    predictor, assistant = _predictor(store)
    instruction = predictor(_stage(None), 0, 1)[0]["instruction"]
    assistant.batches.clear()
    records = predictor(_stage("b", ((instruction, "a"),)), 0, ROWS)
    assert [record["row"] for record in records] == list(range(ROWS))
    for record in records:
        expected = "a" if record["instruction"] == instruction else "b"
        assert record["adapter"] == expected
        assert record["prediction"].startswith(f"{expected} ")


def test_without_an_adapter_the_bare_base_answers(store: Store) -> None:
    predictor, assistant = _predictor(store)
    predictor(_stage("a"), 0, 1)
    [record] = predictor(_stage(None), 0, 1)
    assert record["adapter"] is None
    assert record["prediction"].startswith("None ")
    assert assistant.calls == [("load", "a"), ("use", "None")]


def test_the_adapters_used_last_stay_loaded_and_the_oldest_goes(store: Store) -> None:
    predictor, assistant = _predictor(store, max_adapters=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        predictor(_stage(name), 0, 1)
    assert assistant.calls == [
        ("load", "a"), ("load", "b"), ("use", "a"), ("drop", "b"), ("load", "c"), ("use", "a"), ("drop", "c"),
        ("load", "b"),
    ]  # fmt: skip


def test_an_adapter_with_a_whole_batch_is_merged_once_until_another_is_needed(store: Store) -> None:
    predictor, assistant = _predictor(store, merge=True)
    plain, _ = _predictor(store)
    for stage, start, stop in [(_stage("a"), 0, 2), (_stage("a"), 0, 4), (_stage("a"), 4, 5), (_stage(None), 0, 4)]:
        assert predictor(stage, start, stop) == plain(stage, start, stop)
    assert assistant.calls == [("load", "a"), ("use", "a"), ("use", "a"), ("merge", "a"), ("use", "None")]
    predictor(_stage("a"), 0, 2)
    assert assistant.calls[-1] == ("use", "a")


def test_the_rows_of_no_more_shards_are_held_open_than_adapters(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        "lcia.evaluation.evaluate.Rows", lambda folders: opened.append(name := folders[0].folder[-1]) or name
    )
    predictor, _ = _predictor(store, max_adapters=2)
    assert [predictor._open(key) for key in "abacbc"] == list("abacbc")
    # a goes when c comes: the one that was opened first.
    assert opened == ["a", "b", "c"]
    assert predictor._open("a") == "a"
    assert opened == ["a", "b", "c", "a"]


def test_a_stage_is_answered_in_hundreds_told_and_published_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    asked: list[tuple[int, int]] = []
    stage = _stage("a")
    monkeypatch.setattr("lcia.evaluation.evaluate.Rows", lambda folders: range(250))

    def answered(stage: EvaluateStage, start: int, stop: int) -> list[dict[str, Any]]:
        asked.append((start, stop))
        row = {"id": "", "instruction": "", "question": "", "prediction": "", "references": [], "adapter": None}
        return [{"row": number, **row} for number in range(start, stop)]

    for _ in range(2):
        evaluate_stage(stage, answered, store, lambda done, rows: seen.append((done, rows)))  # type: ignore[arg-type]
    assert asked == [(0, 100), (100, 200), (200, 250)]
    assert seen == [(100, 250), (200, 250), (250, 250)]
    assert [record["row"] for record in read_answers(store.fetch(stage.key))] == list(range(250))
    result = read_result(store.fetch(stage.key))
    assert result["samples"] == 250
    assert 0 <= result["seconds"] < 60


def test_answers_from_before_seconds_were_measured_are_counted(store: Store) -> None:
    stage, (predictor, _) = _stage("a"), _predictor(store)
    evaluate_stage(stage, predictor, store, lambda done, rows: None)
    folder = store.fetch(stage.key)
    (folder / "result.json").unlink()
    assert read_result(folder) == {"samples": ROWS, "seconds": None}


def test_samples_about_one_picture_are_known_by_it() -> None:
    [one, *others] = generate(SOURCE, 0, 3)
    same = replace(one, id="another question", messages=others[0].messages)
    noted = [_record("a", 0, sample, "")["images"] for sample in (one, same, *others, replace(one, images=()))]
    assert noted[0] == noted[1]
    assert len({*noted[1:4]}) == 3
    assert noted[-1] is None
    # Two pictures are not one whose file is both together.
    first, second = one.images[0], others[0].images[0]
    told = [
        _record("a", 0, replace(one, images=images), "")["images"] for images in ((first, second), (first + second,))
    ]
    assert told[0] != told[1]


def test_only_the_adapter_and_the_pictures_of_an_answer_may_be_missing() -> None:
    assert [field.name for field in SCHEMA if field.nullable] == ["adapter", "images"]
