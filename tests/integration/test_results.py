"""What a finished session leaves for people, from two methods trained in this process."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.report.rebuild import rebuild
from lcia.report.run_folder import Session, write, write_keys
from lcia.run import Outcome, read_outcomes, run
from lcia.store.folders import Store
from lcia.studies.points import Point
from pipelines import cli

TASKS = ["VQAv2", "Grounding", "OCR-VQA"]
BASE = {
    "benchmark": {"kind": "minicoin", "tasks": TASKS, "train_size": 160, "test_size": 20},
    "training": {"max_steps": 40},
    "evaluation": {"zero_shot": True, "upper_triangle": True},
}
METHODS: dict[str, dict[str, Any]] = {
    "sequential": {"strategy": {"kind": "sequential"}, "grouping": {"enabled": False}},
    "lcia": {},
}


class Finished(NamedTuple):
    """A session's folder, its summary, and what is known of it without the summary."""

    folder: Path
    summary: dict[str, Any]
    outcomes: Sequence[Outcome]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("session")
    executor = LocalExecutor(Store(str(folder / "store")))
    outcomes = run([parse(RunConfig, {**BASE, "name": n, **values}, n) for n, values in METHODS.items()], executor)
    stages = {"asked": 6, "distinct": 6, "trained": 6}
    write(outcomes, Session("both", 12.5, {"stages": stages}), executor.store, folder / "both")
    return Finished(folder / "both", json.loads((folder / "both" / "summary.json").read_text()), outcomes)


def call(*arguments: object) -> int:
    return cli.guarded(lambda: cli.app([str(a) for a in arguments], standalone_mode=False))


def _means(scores: Any, base: Any) -> dict[str, float]:
    """docs/method.md 5 written out, loop by loop, and the untuned model's mean."""
    size, last = len(scores), len(scores) - 1
    earlier = range(last)
    drops = [max(scores[j][i] for j in range(i, last)) - scores[last][i] for i in earlier]
    direct = [scores[i][i] - scores[last][i] for i in earlier]
    return {
        "avg_acc": sum(scores[last]) / size,
        "new_acc": sum(scores[i][i] for i in range(size)) / size,
        "forgetting": sum(drops) / last,
        "forgetting_diag": sum(direct) / last,
        "bwt": -sum(direct) / last,
        "bwt_coin": -sum(direct) / size,
        "maa": sum(sum(scores[j][: j + 1]) / (j + 1) for j in range(size)) / size,
        "fwt": sum(scores[i - 1][i] - base[i] for i in range(1, size)) / last,
        "zero_shot_acc": sum(base) / size,
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_summary_holds_the_matrix_and_every_metric_of_it(finished: Finished, method: str) -> None:
    found = finished.summary["runs"][method]
    matrix = found["matrix"]
    assert matrix["tasks"] == found["order"] == TASKS
    expected = _means(matrix["scores"], matrix["zero_shot"])
    assert {name: metric["value"] for name, metric in found["metrics"].items()} == pytest.approx(expected)
    assert found["metrics_by_scoring"]["strict"] == found["metrics"]
    assert set(found["metrics_by_scoring"]["legacy"]) == set(expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_normalised_matrix_is_nowhere_below_the_strict_one(finished: Finished, method: str) -> None:
    found = finished.summary["runs"][method]
    strict, normalised = (np.array(found[name]["scores"], dtype=float) for name in ("matrix", "normalised"))
    assert (normalised >= strict).all()
    assert (finished.folder / method / "matrix.normalised.csv").exists()
    told = {row["task"]: row["final_normalised"] for row in found["answers"]}
    assert told == pytest.approx(dict(zip(TASKS, normalised[-1].tolist(), strict=True)))


def test_the_summary_and_the_page_say_which_answers_tasks_share(finished: Finished) -> None:
    shared = finished.summary["runs"]["lcia"]["answers_in_training"]
    assert shared["Grounding"]["Grounding"] > shared["Grounding"]["VQAv2"] == shared["Grounding"]["OCR-VQA"] == 0.0
    assert "Answers that tasks share" in (finished.folder / "report.html").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_the_matrix_is_the_mean_of_the_stored_predictions(finished: Finished, method: str) -> None:
    last = finished.summary["runs"][method]["matrix"]["scores"][-1]
    for task, score in zip(TASKS, last, strict=True):
        answers = pq.read_table(finished.folder / method / "predictions" / "3-OCR-VQA" / f"{task}.parquet")
        assert 100 * np.mean(answers.column("strict").to_numpy()) == pytest.approx(score)


@pytest.mark.parametrize("method", METHODS)
def test_every_stage_has_its_seconds_and_the_session_its_wall_time(finished: Finished, method: str) -> None:
    found = finished.summary["runs"][method]
    assert finished.summary["wall_seconds"] == 12.5
    assert [stage["tasks"] for stage in found["stages"]] == [[task] for task in TASKS]
    assert [stage["steps"] for stage in found["stages"]] == [40, 40, 40]
    assert all(stage["seconds"] > 0 for stage in (*found["stages"], *found["evaluations"]))
    # Where there are groups, they are compared on 32 validation rows.
    assert {stage["samples"] for stage in found["evaluations"]} == ({20, 32} if method == "lcia" else {20})
    assert found["train_seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["eval_seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["evaluations"]))


def test_what_is_kept_beside_the_adapters_is_told_per_group(finished: Finished) -> None:
    runs = finished.summary["runs"]
    assert runs["sequential"]["kept_mb"] == 0
    # g0 was trained last on the third task, g1 on the second.
    last = [finished.folder.parent / "store" / s["key"][:2] / s["key"] for s in runs["lcia"]["stages"][1:]]
    sizes = [(folder / "kept.safetensors").stat().st_size for folder in last]
    assert sum(sizes) > 0
    assert runs["lcia"]["kept_mb"] == pytest.approx(sum(sizes) / 2 / 1e6)
    assert (runs["lcia"]["adapters"], runs["sequential"]["adapters"]) == (2, 1)


def test_decisions_come_with_the_samples_that_they_served(finished: Finished) -> None:
    found = finished.summary["runs"]["lcia"]
    assert [(p["task"], p["group"], p["samples"]) for p in found["groups"]] == [
        ("VQAv2", 0, 160), ("Grounding", 1, 160), ("OCR-VQA", 0, 160)
    ]  # fmt: skip
    assert found["served"]["OCR-VQA"] == {"VQAv2": {"g0": 20}, "Grounding": {"g1": 20}, "OCR-VQA": {"g0": 20}}
    written = json.loads((finished.folder / "lcia" / "decisions.json").read_text())
    assert written == {"groups": found["groups"], "routes": found["routes"]}


def test_those_who_answered_are_those_who_were_chosen(finished: Finished) -> None:
    for task, groups in finished.summary["runs"]["lcia"]["served"][TASKS[-1]].items():
        answers = pq.read_table(finished.folder / "lcia" / "predictions" / "3-OCR-VQA" / f"{task}.parquet")
        assert {group: answers.column("group").to_pylist().count(group) for group in groups} == groups


def test_the_page_shows_samples_and_seconds(finished: Finished) -> None:
    page = " ".join(re.sub(r"<[^>]+>", " ", (finished.folder / "report.html").read_text()).split())
    assert "Who answers whom" in page
    assert "Grounding train new group g1 160 g0 0.000 0.33 (0.00 to 0.65)" in page
    assert "answers to OCR-VQA (" in page


def test_report_prints_the_summary_of_a_session(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", finished.folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == finished.summary
    assert call("report", finished.folder) == 0
    shown = capsys.readouterr().out
    for method in METHODS:
        average = finished.summary["runs"][method]["metrics"]["avg_acc"]["value"]
        assert re.search(rf"{method}\W+{average:.1f}", shown)


def test_report_of_one_run_among_several_prints_its_part(
    finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    assert call("report", "lcia", "--json") == 0
    mine = finished.summary["runs"]["lcia"]
    expected = {**finished.summary, "warnings": mine["warnings"], "runs": {"lcia": mine}}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("method", METHODS)
def test_the_answers_of_every_stage_are_kept_and_give_the_whole_matrix(finished: Finished, method: str) -> None:
    matrix = finished.summary["runs"][method]["matrix"]
    places = {"0-untuned": matrix["zero_shot"]}
    places |= {f"{n}-{task}": row for n, (task, row) in enumerate(zip(TASKS, matrix["scores"], strict=True), 1)}
    folder = finished.folder / method / "predictions"
    assert {path.name for path in folder.iterdir()} == set(places)
    for place, row in places.items():
        for task, score in zip(TASKS, row, strict=True):
            answers = pq.read_table(folder / place / f"{task}.parquet")
            assert 100 * np.mean(answers.column("strict").to_numpy()) == pytest.approx(score)


def test_answers_are_told_beside_a_constant_one(finished: Finished) -> None:
    found = finished.summary["runs"]["lcia"]
    for column, told in enumerate(found["answers"]):
        assert told["task"] == TASKS[column]
        assert told["learnt"] == pytest.approx(found["matrix"]["scores"][column][column])
        assert told["final"] == pytest.approx(found["matrix"]["scores"][-1][column])
        answers = pq.read_table(finished.folder / "lcia" / "predictions" / "3-OCR-VQA" / f"{TASKS[column]}.parquet")
        said = answers.column("prediction").to_pylist()
        assert told["final_counts"][0][1] == max(said.count(word) for word in said)
        assert told["not_learnt"] == any(line.startswith(f"{told['task']} was not") for line in found["warnings"])


def test_the_page_shows_loss_answers_and_warnings(finished: Finished) -> None:
    text = (finished.folder / "report.html").read_text()
    assert 'id="warnings"' in text
    assert text.count("Training loss over the optimizer steps") == len(METHODS)
    assert text.count("<h3>Answers</h3>") == len(METHODS)
    assert len(text) < 3_000_000


def test_what_was_stored_before_seconds_were_measured_is_still_reported(finished: Finished, tmp_path: Path) -> None:
    store = Store(str(finished.folder.parent / "store"))
    keys = [stage["key"] for stage in finished.summary["runs"]["lcia"]["evaluations"]]
    kept = {key: store.fetch(key) / "result.json" for key in keys}
    before = {key: path.read_bytes() for key, path in kept.items()}
    try:
        for path in kept.values():
            path.unlink()
        outcomes = read_outcomes([outcome.prepared for outcome in finished.outcomes], store)
        write(outcomes, Session("both", 1.0, {}), store, tmp_path)
    finally:
        for key, path in kept.items():
            path.write_bytes(before[key])
    found = json.loads((tmp_path / "summary.json").read_text())["runs"]["lcia"]
    assert {(stage["samples"], stage["seconds"]) for stage in found["evaluations"]} == {(20, None), (32, None)}


def test_a_run_says_which_results_it_needs(finished: Finished, tmp_path: Path) -> None:
    write_keys([outcome.prepared for outcome in finished.outcomes], tmp_path)
    keys = json.loads((tmp_path / "keys.json").read_text())
    assert sorted(keys) == sorted(path.name for path in (finished.folder.parent / "store").glob("??/*"))
    plans = [outcome.prepared.plan for outcome in finished.outcomes]
    assert {stage.key for plan in plans for stage in (*plan.trains, *plan.evals)} <= set(keys)


# Made again ---------------------------------------------------------------------------------------------------------


def test_report_makes_a_session_again_from_files_alone(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.folder.parent, tmp_path / "runs")
    folder = tmp_path / "runs" / "both"
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "summary.json":
            path.unlink()
    assert call("report", folder, "--rebuild", "--json") == 0
    after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert json.loads(capsys.readouterr().out) == finished.summary
    kept = {path for path in before if path.name != "keys.json"}
    assert kept == set(after)
    assert [str(path) for path in kept if path.suffix != ".png" and before[path] != after[path]] == []


def test_a_study_is_made_again_with_its_tables(finished: Finished, tmp_path: Path) -> None:
    runs = {name: outcome.config for name, outcome in zip(METHODS, finished.outcomes, strict=True)}
    points = tuple(
        Point(name, name == "lcia", f"{name}, r=8", {"lora.r": 8}, None, config.seed, config)
        for name, config in runs.items()
    )
    store, folder = Store(str(finished.folder.parent / "store")), tmp_path / "study"
    facts = {"stages": {"asked": 6, "distinct": 6, "trained": 6}, "environment": {"torch": "of that day"}}
    written = json.loads(json.dumps(write(finished.outcomes, Session("s", 2.0, facts, points), store, folder)))
    page = (folder / "report.html").read_text()
    assert json.loads(json.dumps(rebuild(written, store, folder))) == written
    assert (folder / "report.html").read_text() == page
    assert "of that day" in page


def test_what_is_not_stored_any_more_is_not_made_up(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "both").mkdir()
    shutil.copyfile(finished.folder / "summary.json", tmp_path / "both" / "summary.json")
    assert call("report", tmp_path / "both", "--rebuild") == 2
    assert "results are not in" in capsys.readouterr().err
    assert call("report", finished.folder / "lcia", "--rebuild") == 2
    assert "is not the folder of a session" in capsys.readouterr().err
