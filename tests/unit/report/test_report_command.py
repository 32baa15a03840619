"""`lcia report` on what is not a finished run: it names the file or folder and says what to give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcia.metrics.matrix import AccuracyMatrix, to_json
from pipelines import cli
from tests.unit.report.test_study_tables import before, tables, to_record

RUN = {"matrix": to_json(AccuracyMatrix(("a[/b]",), np.array([[50.0]]))), "warnings": ["mine"]}
SUMMARY = {"title": "x", "wall_seconds": 1.0, "stages": {"asked": 4, "distinct": 3, "trained": 2}, "warnings": []}


def call(*arguments: object) -> int:
    return cli.guarded(lambda: cli.app([str(a) for a in arguments], standalone_mode=False))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call("report", *arguments) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_configuration_file_is_not_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: list[str]
) -> None:
    (tmp_path / "study.yaml").write_text("name: s")
    told = refusal(capsys, tmp_path / "study.yaml", *as_json)
    assert f"{tmp_path / 'study.yaml'} is a file; give the folder that `lcia run`" in told


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"there is no folder {tmp_path / 'gone'}; give the folder" in refusal(capsys, tmp_path / "gone")


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"there is no finished run in {tmp_path}: it has no summary.json" in refusal(capsys, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"runs": []}', '{"title": "x"}', "\x00", "\udcff"])
def test_a_broken_summary_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "summary.json").write_bytes(text.encode(errors="surrogateescape"))
    told = refusal(capsys, tmp_path)
    assert str(tmp_path / "summary.json") in told
    assert "run the same command again" in told


def test_names_are_printed_as_they_are_and_warnings_go_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {**SUMMARY, "warnings": ["beware of [red]"], "runs": {"x[/y]": RUN}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert call("report", tmp_path) == 0
    shown = capsys.readouterr()
    assert "x[/y]" in shown.out
    assert shown.err == "warning: beware of [red]\n"


def test_a_studys_folder_gives_its_tables_again_and_a_runs_folder_that_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # pytest-xdist sets 80, which would wrap the cells
    record = to_record(tables())
    runs = dict.fromkeys(record["labels"], RUN)
    (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, **record, "runs": runs}))
    assert call("report", tmp_path) == 0
    shown = capsys.readouterr().out
    for words in ("mean ± standard deviation (%)", "score of each task (%)", "plain, reverse", "minus that of plain",
                  "runs 8; trainings asked 4, distinct 3, trained 2"):  # fmt: skip
        assert words in shown
    assert call("report", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {**SUMMARY, **record, "runs": runs}
    one = next(iter(runs))
    (tmp_path / one).mkdir()
    assert call("report", tmp_path / one, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {**SUMMARY, "warnings": ["mine"], "runs": {one: RUN}}


def test_a_study_from_before_there_was_a_reference_is_still_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = before(to_record(tables()))
    runs = dict.fromkeys(record["labels"], RUN)
    (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, **record, "runs": runs}))
    assert call("report", tmp_path) == 0
    assert "minus that of plain" in capsys.readouterr().out


def test_a_flood_of_warnings_is_cut_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = [f"number {number}" for number in range(23)]
    (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, "warnings": many, "runs": {"one": RUN}}))
    assert call("report", tmp_path) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [*(f"warning: {line}" for line in many[:20]), "warning: 3 more like these"]
