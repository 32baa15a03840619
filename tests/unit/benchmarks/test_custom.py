"""The custom benchmark: anyone's tasks, named in the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcia import benchmarks
from lcia.config.benchmarks import CustomConfig, CustomTask, ScorerName
from lcia.config.run import DataConfig
from lcia.data.rows import Rows
from lcia.data.shards import write_source
from lcia.data.sources import Reading
from lcia.types import Benchmark, FileSource

TASK = CustomTask(name="shape", train="shape/train.json", test="shape/test.json")


def build(root: str, *tasks: CustomTask) -> Benchmark:
    return benchmarks.build(CustomConfig(kind="custom", root=root, tasks=tasks))


def test_paths_are_below_the_root_and_absolute(tmp_path: Path) -> None:
    task = build(str(tmp_path), TASK)["shape"]
    assert task.train == FileSource(f"{tmp_path}/shape/train.json", "llava", "train", str(tmp_path))
    assert task.test == FileSource(f"{tmp_path}/shape/test.json", "llava", "test", str(tmp_path))
    assert task.validation is None


def test_an_absolute_path_or_url_stands_for_itself() -> None:
    task = TASK.model_copy(update={"train": "/other/t.json", "test": "s3://bucket/t.json", "image_root": "pictures"})
    spec = build("/data", task)["shape"]
    assert spec.train == FileSource("/other/t.json", "llava", "train", "/data/pictures")
    assert spec.test == FileSource("s3://bucket/t.json", "llava", "test", "/data/pictures")


def test_a_root_may_be_a_url() -> None:
    assert build("gs://bucket/set/", TASK)["shape"].train == FileSource(
        "gs://bucket/set/shape/train.json", "llava", "train", "gs://bucket/set/"
    )


def test_without_a_root_images_lie_beside_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build("", TASK)["shape"].train == FileSource(f"{tmp_path}/shape/train.json", "llava", "train", "")


def test_the_given_order_is_the_default() -> None:
    tasks = [TASK.model_copy(update={"name": name}) for name in ("b", "a")]
    assert build("/data", *tasks).orders == (("given", ("b", "a")),)


def test_a_stream_of_ones_own_has_its_order_reversed_by_name() -> None:
    benchmark = build("/data", TASK, TASK.model_copy(update={"name": "color"}))
    assert benchmark.order("reverse") == ("color", "shape")
    assert benchmark.order("given") == benchmark.order(None) == ("shape", "color")


@pytest.mark.parametrize(
    ("name", "prediction", "reference"),
    [
        ("exact", "Yes", "yes"),
        ("multiple_choice", "B. the cat", "B"),
        ("contains", "a tabby cat", "cat"),
        ("iou", "[0.1, 0.1, 0.5, 0.5]", "[0.1, 0.1, 0.5, 0.52]"),
        ("rouge_l", "a b", "a b"),
        ("soft_accuracy", "the cat", "the cat"),
    ],
)
def test_a_scorer_is_chosen_by_name(name: ScorerName, prediction: str, reference: str) -> None:
    spec = build("/data", TASK.model_copy(update={"scorer": name}))["shape"]
    assert spec.strict(prediction, [reference]) == 1.0
    assert spec.strict("nothing like it", [reference]) == 0.0


def test_a_stream_that_nobody_here_made_is_read_whole(shared_data: Path, tmp_path: Path) -> None:
    names = ("shape", "color", "presence", "absence")
    tasks = [CustomTask(name=n, train=f"{n}/train.json", test=f"{n}/test.json") for n in names]
    for spec in build(str(shared_data / "easyvqa"), *tasks).tasks:
        folder = tmp_path / spec.name
        folder.mkdir()
        given = json.loads((shared_data / "easyvqa" / spec.name / "test.json").read_text())
        pixels = DataConfig().max_image_pixels
        counts = write_source(Reading.of(spec.test, spec.instruction, spec.max_samples, pixels), folder)
        samples = Rows([folder]).take(range(counts.good))
        assert [sample.id for sample in samples] == [row["question_id"] for row in given]
        assert all(len(sample.images) == 1 for sample in samples)
