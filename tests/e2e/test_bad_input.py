"""Planted defects: each ends with exit code 2 and a message that names the mistake, before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.e2e.conftest import call

Row = dict[str, Any]


CONFIGURATIONS = {
    "an unknown key": (["trainng.max_steps=3"], "trainng: unknown key; did you mean 'training'?"),
    "an unknown nested key": (["training.learning_rat=1"], "did you mean 'learning_rate'?"),
    "a negative learning rate": (
        ["training.learning_rate=-1"],
        "training.learning_rate: Input should be greater than 0",
    ),
    "an unknown strategy": (["strategy.kind=magic"], "there is no kind 'magic'"),
    "bounds the wrong way round": (
        ["strategy.kind=paper", "strategy.beta_min=0.9", "strategy.beta_max=0.1"],
        "lies above",
    ),
    "a fixed rule with two constants": (
        ["strategy.kind=fixed", "strategy.beta=0.9", "strategy.retain=0.3"],
        "exactly one",
    ),
    "a task that is not there": (["order=[GQA, Cooking]"], "order names Cooking"),
    "a task named twice": (["order=[GQA, GQA]"], "order names a task twice"),
    "an override without a value": (["training.max_steps"], "is not an override"),
    "a name that leaves the runs folder": (["name=../out"], "String should match pattern"),
    "a batch that cannot be split": (["training.batch_size=15"], "cannot be split over launch.num_workers 2"),
    "a root that is not there": (["benchmark.kind=coin", "benchmark.root=/no/such/folder"], "/no/such/folder"),
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_a_bad_configuration_is_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides, message = CONFIGURATIONS[what]
    path = tmp_path / "run.yaml"
    path.write_text("benchmark: {kind: minicoin, tasks: [GQA], train_size: 4, test_size: 4}\n")
    settings = ["--set", f"storage={tmp_path}", "--set", "num_workers=2"]
    assert call("run", path, *overrides, *settings, "--dry-run") == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "/no/such/run.yaml") == 2
    assert "cannot read /no/such/run.yaml" in capsys.readouterr().err


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("a: [1, 2")
    assert call("run", tmp_path / "run.yaml") == 2
    assert "is not valid YAML" in capsys.readouterr().err


def _row(**changes: Any) -> Row:
    turns = [{"from": "human", "value": "<image>\nWhat is it?\nAnswer."}, {"from": "gpt", "value": "a square"}]
    return {"id": "1", "image": "good.png", "conversations": turns, **changes}


def _turns(question: str, answer: str, role: str = "human") -> list[dict[str, str]]:
    return [{"from": role, "value": question}, {"from": "gpt", "value": answer}]


ROWS: dict[str, tuple[Callable[[], list[Row]], str]] = {
    "an image that is missing": (lambda: [_row(image="gone.png")], "missing_image"),
    "an image cut off": (lambda: [_row(image="cut.png")], "truncated_image"),
    "an image of zero bytes": (lambda: [_row(image="empty.png")], "empty_image"),
    "a path that leaves the root": (lambda: [_row(image="../secret.png")], "image_outside_root"),
    "two image tokens for one image": (
        lambda: [_row(conversations=_turns("<image><image>\nWhat?", "a"))],
        "image_count",
    ),
    "an empty answer": (lambda: [_row(conversations=_turns("<image>\nWhat?", " "))], "empty_answer"),
    "an unknown role": (lambda: [_row(conversations=_turns("<image>\nWhat?", "a", "wizard"))], "unknown_role"),
    "an id used twice": (lambda: [_row(), _row()], "duplicate_id"),
}


@pytest.mark.parametrize("what", ROWS)
def test_a_bad_row_stops_the_run(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, reason = ROWS[what]
    config = _dataset(tmp_path, rows())
    assert call("run", config, "--set", f"storage={tmp_path / 'runs'}", "--dry-run") == 2
    told = capsys.readouterr().err
    assert reason in told
    assert "rows cannot be used" in told
    assert not list((tmp_path / "runs").glob("store/*/*/adapter_model.safetensors"))


def test_bad_rows_within_the_limit_are_counted_and_left_out(tmp_path: Path) -> None:
    config = _dataset(tmp_path, [_row(id=str(n)) for n in range(9)] + [_row(id="bad", image="gone.png")])
    allowed = ["data.max_bad_fraction=0.2", "grouping.enabled=false"]
    assert call("run", config, *allowed, "--set", f"storage={tmp_path / 'runs'}", "--dry-run") == 0
    [report] = [path for path in (tmp_path / "runs" / "store").glob("*/*/bad_rows.jsonl") if path.stat().st_size]
    assert json.loads(report.read_text())["id"] == "bad"


def _dataset(folder: Path, rows: list[Row]) -> Path:
    """A custom benchmark of one task with these training rows; returns its configuration."""
    images = folder / "images"
    images.mkdir()
    Image.new("RGB", (8, 8), "red").save(images / "good.png")
    Image.effect_noise((64, 64), 80).save(images / "cut.png")
    os.truncate(images / "cut.png", 1000)
    (images / "empty.png").touch()
    (folder / "secret.png").write_bytes((images / "good.png").read_bytes())
    (folder / "train.json").write_text(json.dumps(rows))
    test = {"question_id": "t", "image": "good.png", "text": "What is it?\nAnswer.", "answer": "a square"}
    (folder / "test.json").write_text(json.dumps([test]))
    task = {"name": "one", "train": "train.json", "test": "test.json", "image_root": "images"}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"benchmark": {"kind": "custom", "root": str(folder), "tasks": [task]}}))
    return path
