"""No verb takes a file of another kind: it says what the file is and which verb wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcia.types import InputError
from pipelines import cli
from pipelines.terminal.inputs import launch_file, run_file, study_file

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
RUN, STUDY, LAUNCH = CONFIGS / "minicoin.yaml", CONFIGS / "studies" / "orders.yaml", CONFIGS / "launch" / "kind.yaml"


def call(*arguments: object) -> int:
    return cli.guarded(lambda: cli.app([str(a) for a in arguments], standalone_mode=False))


RUN_VERBS: list[tuple[list[object], list[object]]] = [
    (["run"], []), (["run"], ["--dry-run"]), (["plan"], []), (["group"], []), (["launch"], ["--launch", LAUNCH]),
    (["data", "validate"], []), (["data", "show"], []), (["data", "make"], ["folder"]),
]  # fmt: skip


# `plan` and `launch` take both.
ONLY_RUNS = [verb for verb in RUN_VERBS if verb[0] not in (["plan"], ["launch"])]


@pytest.mark.parametrize(("verb", "rest"), ONLY_RUNS, ids=lambda words: " ".join(map(str, words)))
def test_a_study_given_to_a_verb_of_runs_is_sent_to_study(
    verb: list[object], rest: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*verb, STUDY, *rest) == 2
    told = capsys.readouterr().err
    assert f"{STUDY} is a study (it has base, methods, vary, orders)" in told
    assert f"use `lcia study {STUDY}`" in told
    assert "unknown key" not in told


@pytest.mark.parametrize(("verb", "rest"), RUN_VERBS, ids=lambda words: " ".join(map(str, words)))
def test_a_launch_file_given_to_a_verb_of_runs_is_an_option(
    verb: list[object], rest: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*verb, LAUNCH, *rest) == 2
    assert f"{LAUNCH} is a launch file (it has storage, num_workers, " in (told := capsys.readouterr().err)
    assert f"`--launch {LAUNCH}`" in told


def test_a_run_given_to_study_is_sent_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("study", RUN) == 2
    assert f"is a run's configuration (it has benchmark), not a study: use `lcia run {RUN}`" in capsys.readouterr().err


@pytest.mark.parametrize("other", [RUN, STUDY])
@pytest.mark.parametrize("verb", ["run", "plan", "group", "study", "launch"])
def test_a_launch_is_a_launch_file(verb: str, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, STUDY if verb == "study" else RUN, "--launch", other) == 2
    assert "not a launch file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {max_steps: 3}\nseeds: 1\n", "seeds: unknown key; did you mean 'seed'?"),
        ("nam: x\n", "nam: unknown key; did you mean 'name'?"),
        ("zzz: x\n", "zzz: unknown key; known here"),
    ],
)
def test_a_run_with_a_mistyped_key_is_still_a_run(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match="1 mistake") as caught:
        run_file(tmp_path / "run.yaml")
    assert message in str(caught.value)


def test_each_file_is_read_as_what_it_is() -> None:
    assert run_file(RUN).name == "minicoin"
    assert study_file(STUDY).name == "orders"
    assert launch_file(LAUNCH).cluster is not None
    assert launch_file(None, ["num_workers=3"]).num_workers == 3


# The command line itself ------------------------------------------------------------------------------------------


def test_a_mistyped_verb_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stduy", RUN) == 2
    assert "there is no command 'stduy'; did you mean 'study'?" in capsys.readouterr().err


def test_a_verb_like_no_other_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("zzz") == 2
    assert "there are quickstart, init, run, plan, group, study, report, launch, " in capsys.readouterr().err


def test_the_version_is_the_packages_with_its_commit(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert call("--version") == 0
    assert capsys.readouterr().out.startswith(f"lcia {version('lcia-ray')} (commit ")


def test_launch_takes_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("launch", RUN, "--launch", LAUNCH, "--set", "cluster.namespace=elsewhere") == 0
    assert "namespace: elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize("address", ["head:8265", "http://", "http://head:port", "http://head:99999"])
def test_the_address_of_a_head_names_host_and_port(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("launch", RUN, "--launch", LAUNCH, "--target", "jobs", "--address", address) == 2
    assert "write http://HOST:8265" in capsys.readouterr().err


def test_the_address_of_a_head_holds_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    words: list[Any] = ["--target", "jobs", "--address", "http://user:hunter2@head:8265"]
    assert call("launch", RUN, "--launch", LAUNCH, *words) == 2
    assert "RAY_AUTH_TOKEN" in (told := capsys.readouterr().err)
    assert "hunter2" not in told


def test_an_error_from_anywhere_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable() -> None:
        raise OSError("no answer from http://user:hunter2@tracking:5000")

    monkeypatch.setenv("LCIA_DEBUG", "1")
    assert cli.guarded(unreachable) == 1
    assert "http://user:***@tracking:5000" in (told := capsys.readouterr().err)
    assert "Traceback" in told
    assert "hunter2" not in told


def test_a_name_with_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Names in configurations hold none, but names of devices may."""
    from lcia.metrics.matrix import AccuracyMatrix
    from pipelines.terminal.tables import console, matrix_table

    matrix = AccuracyMatrix(("a[/b]",), np.array([[50.0]]))
    console().print(matrix_table("run", matrix))
    assert capsys.readouterr().out.count("a[/b]") == 2


def test_doctor_prints_a_device_with_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.terminal.doctor._devices", lambda: [("GPU", "Some GPU [/rev 2]", "")])
    assert call("doctor") == 0
    assert "Some GPU [/rev 2]" in capsys.readouterr().out
