"""Tasks cut into short ones that alternate: their names, their orders, their rows."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lcia import benchmarks
from lcia.config.benchmarks import BenchmarkConfig
from lcia.config.run import DataConfig, RunConfig
from lcia.data.sources import Reading, samples
from lcia.types import Benchmark, InputError, Stretch, TaskSpec

CONFIGS: dict[str, dict[str, Any]] = {
    "minicoin": {"kind": "minicoin", "tasks": ["VQAv2", "Grounding", "OCR-VQA"]},
    "coin": {"kind": "coin", "root": "/coin", "tasks": ["VQAv2", "Grounding", "OCR-VQA"], "max_samples": 10},
    "custom": {
        "kind": "custom",
        "tasks": [{"name": n, "train": f"{n}.json", "test": f"{n}.json"} for n in ("VQAv2", "Grounding", "OCR-VQA")],
    },
}  # fmt: skip


def build(kind: str, **changes: Any) -> Benchmark:
    config: BenchmarkConfig = TypeAdapter(BenchmarkConfig).validate_python({**CONFIGS[kind], **changes})
    return benchmarks.build(config)


def rows(task: TaskSpec, split: str = "train") -> list[str]:
    source = getattr(task, split)
    pixels = DataConfig().max_image_pixels
    return [row.id for row in samples(Reading.of(source, task.instruction, task.max_samples, pixels, task.stretch))]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_stretches_of_all_tasks_alternate(kind: str) -> None:
    assert build(kind, stretches=2).order(None) == (
        "VQAv2.1", "Grounding.1", "OCR-VQA.1", "VQAv2.2", "Grounding.2", "OCR-VQA.2"
    )  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_stretch_is_its_task_but_for_its_rows(kind: str) -> None:
    task = build(kind)["Grounding"]
    assert build(kind, stretches=3)["Grounding.2"] == task.only(Stretch(1, 3))
    assert task.only(Stretch(1, 3)).sources == task.sources


def test_a_benchmark_that_is_not_cut_is_what_it_was() -> None:
    assert build("minicoin", stretches=1) == build("minicoin")
    assert build("minicoin").order(None) == ("VQAv2", "Grounding", "OCR-VQA")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("given", ("VQAv2", "Grounding", "OCR-VQA")),
        ("reverse", ("OCR-VQA", "VQAv2", "Grounding")),
        ("origin", ("Grounding", "VQAv2", "OCR-VQA")),
        ("alphabet", ("Grounding", "OCR-VQA", "VQAv2")),
        (("OCR-VQA", "VQAv2"), ("OCR-VQA", "VQAv2")),
    ],
)
def test_an_order_of_tasks_holds_in_every_round(wanted: str | tuple[str, ...], expected: tuple[str, ...]) -> None:
    benchmark = build("minicoin", stretches=3)
    assert benchmark.order_of_tasks(wanted) == expected
    assert benchmark.order(wanted) == tuple(f"{task}.{number}" for number in (1, 2, 3) for task in expected)


@pytest.mark.parametrize("name", ["Grounding", "Grounding.0", "Grounding.3"])
def test_only_stretches_are_tasks_of_the_stream(name: str) -> None:
    with pytest.raises(InputError, match=r"it has VQAv2\.1, Grounding\.1, OCR-VQA\.1, VQAv2\.2"):
        build("minicoin", stretches=2)[name]


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_stretches_share_out_the_rows_of_a_split_in_turn(split: str) -> None:
    sizes = {"train_size": 11, "test_size": 11, "validation_size": 11}
    whole = rows(build("minicoin", **sizes)["VQAv2"], split)
    parts = [rows(build("minicoin", **sizes, stretches=3)[f"VQAv2.{n}"], split) for n in (1, 2, 3)]
    assert parts == [whole[0::3], whole[1::3], whole[2::3]]
    assert sorted(chain(*parts)) == sorted(whole)


def test_max_samples_counts_before_the_cut(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "this"}]
    (tmp_path / "VQAv2.json").write_text(json.dumps([{"id": str(n), "conversations": turns} for n in range(9)]))
    tasks = [{"name": "VQAv2", "train": "VQAv2.json", "test": "VQAv2.json", "max_samples": 5}]
    benchmark = build("custom", root=str(tmp_path), tasks=tasks, stretches=2)
    assert [rows(benchmark[name]) for name in ("VQAv2.1", "VQAv2.2")] == [["0", "2", "4"], ["1", "3"]]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_speaks_of_stretches_only_where_there_are_some(kind: str) -> None:
    for stretches in (1, 4):
        config = RunConfig.model_validate({"benchmark": {**CONFIGS[kind], "stretches": stretches}})
        assert config.model_dump(mode="json")["benchmark"].get("stretches", 1) == stretches
        assert ("stretches" in config.model_dump(mode="json")["benchmark"]) == (stretches > 1)
        assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_less_than_one_stretch_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        RunConfig.model_validate({"benchmark": {**CONFIGS["minicoin"], "stretches": 0}})
