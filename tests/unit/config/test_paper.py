"""The configurations of the paper's experiments: one for each row, equal but for what the row's name says."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from lcia.assistants.outline import Outline, outline
from lcia.config.assistants import AssistantConfig, LoraConfig
from lcia.config.load import load
from lcia.config.run import RunConfig
from lcia.models.memory import Placement, per_worker
from pipelines import cli
from pipelines.launch import LaunchConfig
from pipelines.terminal.dry_run import memory_of, stages_of

PAPER = Path(__file__).resolve().parents[3] / "configs" / "paper"
ORDERS = {
    "origin": ["ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA"],
    "reverse": ["OCR-VQA", "VQAv2", "Grounding", "VizWiz", "GQA", "ImageNet", "TextVQA", "ScienceQA"],
    "alphabet": ["GQA", "Grounding", "ImageNet", "OCR-VQA", "ScienceQA", "TextVQA", "VizWiz", "VQAv2"],
}
PER_GPU = dict(zip(ORDERS["origin"], [16, 16, 20, 8, 16, 8, 10, 12], strict=True))
THRESHOLDS = {"origin": 0.9, "diverse": 0.3, "10type": 0.3}
ROWS = [f"llava-{size}-{order}-{kind}" for size, order, kind in product(("7b", "13b"), ORDERS, THRESHOLDS)]
OTHERS = ["qwen2.5-vl-7b-origin-origin", "t5-small-instrdialog-order1"]
LORA = {"7b": 319_815_680, "13b": 500_695_040}


@cache
def counted(assistant: AssistantConfig, lora: LoraConfig) -> Outline:
    return outline(assistant, lora)


def config(name: str) -> RunConfig:
    return load(RunConfig, PAPER / f"{name}.yaml")


def test_there_is_a_file_for_every_row_and_no_other() -> None:
    assert sorted(path.stem for path in PAPER.iterdir()) == sorted([*ROWS, *OTHERS])


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_its_name_says(name: str) -> None:
    _, size, order, kind = name.split("-")
    row, first = config(name), config(ROWS[0])
    assert [stage["tasks"][0] for stage in stages_of(row)] == ORDERS[order]
    assert row.name == f"paper-{name}"
    assert f"-{size}-" in row.assistant.model
    assert row.benchmark.instructions == kind
    assert row.grouping.threshold == ("origin" if THRESHOLDS[kind] == 0.9 else "diverse")
    # Everything else is the same in all rows.
    varied = {"name", "order", "benchmark", "grouping", "assistant"}
    assert row.model_dump(exclude=varied) == first.model_dump(exclude=varied)
    assert row.assistant.model_copy(update={"model": first.assistant.model}) == first.assistant
    assert row.grouping.model_copy(update={"threshold": "origin"}) == first.grouping
    assert row.benchmark.model_copy(update={"instructions": "origin"}) == first.benchmark


def test_the_hyper_parameters_are_the_published_ones() -> None:
    row = config(ROWS[0])
    lora, training = row.lora, row.training
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (128, 256, 0.05)
    assert (training.learning_rate, training.projector_learning_rate, training.weight_decay) == (2e-4, 2e-5, 0)
    assert (training.lr_scheduler_type, training.warmup_ratio, training.num_train_epochs) == ("cosine", 0.03, 1)
    assert (training.bf16, training.group_by_length, training.max_steps) == (True, True, None)
    assert (row.assistant.max_length, row.assistant.pad_image_to_square, row.assistant.train_projector) == (
        2048, True, True
    )  # fmt: skip
    sizes = {stage["tasks"][0]: stage["batch_size"] for stage in stages_of(row)}
    assert sizes == {task: 8 * each for task, each in PER_GPU.items()}


def test_steps_are_told_where_the_published_rows_are_known() -> None:
    steps = {stage["tasks"][0]: stage["steps"] for stage in stages_of(config(ROWS[0]))}
    assert steps == {"ScienceQA": 100, "TextVQA": 271, "ImageNet": 812, "GQA": 1128,
                     "VizWiz": None, "Grounding": None, "VQAv2": None, "OCR-VQA": None}  # fmt: skip


@pytest.mark.parametrize("name", [*ROWS, *OTHERS])
def test_a_row_runs_dry(name: str) -> None:
    row, where = config(name), LaunchConfig(num_workers=8, per_device_train_batch_size=20)
    model = counted(row.assistant, row.lora)
    memory = memory_of(row, where, model)
    assert all(each["gb"]["total"] > model.parameters * 2 / 1e9 / 8 for each in memory)
    assert stages_of(row)
    if name in ROWS:
        assert model.lora == LORA[name.split("-")[1]]
        assert model.lora_tensors == 14 * model.layers


def test_a_13b_fits_eight_gpus_of_80_gb_when_it_is_sharded() -> None:
    row = config("llava-13b-origin-origin")
    model = counted(row.assistant, row.lora)
    fits = {kind: per_worker(model, row, Placement(kind, 8, 8, 2048, True))["total"] for kind in ("ddp", "fsdp2")}
    assert fits["fsdp2"] < 40e9 < fits["ddp"] < 80e9  # type: ignore[operator]


# The command ------------------------------------------------------------------------------------------------------


def said(*words: object) -> int:
    return cli.guarded(lambda: cli.app([str(word) for word in words], standalone_mode=False))


def test_the_command_tells_stages_model_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    path = PAPER / "llava-7b-origin-origin.yaml"
    assert said("plan", path, "--dry-run", "--set", "num_workers=8", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"]["lora"], found["model"]["lora_tensors"]) == (LORA["7b"], 448)
    assert [(m["parallelism"], m["gradient_checkpointing"]) for m in found["memory"]] == [
        ("ddp", True), ("ddp", False), ("fsdp2", True), ("fsdp2", False)
    ]  # fmt: skip
    assert said("plan", path, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "319,815,680" in shown
    assert "1,128" in shown


def test_what_is_known_of_other_streams_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    configs = PAPER.parent
    assert said("plan", configs / "minicoin.yaml", "benchmark.stretches=3", "--dry-run", "--json") == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    rows = load(RunConfig, configs / "minicoin.yaml").benchmark.train_size
    assert sum(stage["rows"] for stage in stages if stage["tasks"][0].startswith("GQA.")) == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", PAPER.parent / "studies" / "orders.yaml", "--dry-run"], "is of one run"),
        (["plan", PAPER / "llava-7b-origin-origin.yaml", "--shape", "llava-1.5-7b"], "give --dry-run too"),
        (["plan", PAPER / "llava-7b-origin-origin.yaml", "--dry-run", "--set", "num_workers=5"], "cannot be split"),
        (["plan", PAPER / "llava-7b-origin-origin.yaml", "--dry-run", "assistant.model=mine"], "give --shape"),
    ],
)
def test_what_cannot_be_told_is_said(words: list[object], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(*words) == 2
    assert message in capsys.readouterr().err
