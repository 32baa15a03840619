"""A study in one process leaves what `lcia study` leaves, and does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.local_study import carry_out, main
from lcia.config.load import parse
from lcia.studies.config import StudyConfig
from lcia.training.train import TrainOptions

STUDY: dict[str, Any] = {
    "name": "small",
    "base": {
        "benchmark": {"kind": "minicoin", "tasks": ["OCR-VQA", "VQAv2"], "train_size": 8, "test_size": 2},
        "training": {"max_steps": 1, "batch_size": 4},
        "grouping": {"enabled": False},
    },
    "seeds": [0],
    "methods": {"sequential": {"strategy.kind": "sequential"}, "ewc": {"strategy.kind": "ewc"}},
}


def test_a_study_in_one_process_is_written_and_what_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = parse(StudyConfig, STUDY, "test")
    folder = carry_out(study, tmp_path, TrainOptions(), 2)
    said = capsys.readouterr().out
    assert said.count("train OCR-VQA · sequential 1/1") == 1
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["methods"]) == {"sequential", "ewc"}
    assert len(summary["runs"]) == 2
    assert (folder / "report.html").is_file()
    assert carry_out(study, tmp_path, TrainOptions(), 2) == folder
    assert capsys.readouterr().out == ""


DIVERGING = {"strategy.kind": "sequential", "training.learning_rate": 1e30}


def test_a_run_that_diverges_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = parse(StudyConfig, {**STUDY, "methods": {**STUDY["methods"], "wild": DIVERGING}}, "test")
    summary = json.loads((carry_out(study, tmp_path, TrainOptions(), 2) / "summary.json").read_text())
    assert set(summary["methods"]) == {"sequential", "ewc"}
    [failed] = summary["failed"]
    assert "wild" in failed
    assert "1 of 3 runs are left out; the first reason: " in capsys.readouterr().out


def test_the_command_then_ends_with_an_error_as_lcia_study_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"sequential": STUDY["methods"]["sequential"], "wild": DIVERGING}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**STUDY, "methods": methods}))
    monkeypatch.setattr("sys.argv", ["local_study", str(tmp_path / "study.yaml"), str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert (tmp_path / "small" / "report.html").is_file()


def test_where_every_run_diverges_the_reason_is_the_end(tmp_path: Path) -> None:
    study = parse(StudyConfig, {**STUDY, "methods": {"wild": DIVERGING}}, "test")
    with pytest.raises(FloatingPointError, match="finite"):
        carry_out(study, tmp_path, TrainOptions(), 2)
