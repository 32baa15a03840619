"""What is told of a study before it runs: how many stages, and hours from what the storage has measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.evaluation.answers import write_answers
from lcia.local import LocalExecutor
from lcia.plan import union
from lcia.run import Prepared, prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.terminal.inputs import run_or_study_file
from pipelines.terminal.planning import group, plan, sweep

TASKS = ["VQAv2", "OCR-VQA"]
BASE = {
    "benchmark": {"kind": "minicoin", "tasks": TASKS, "train_size": 40, "test_size": 10},
    "training": {"max_steps": 10, "batch_size": 8},
    "grouping": {"enabled": False},
}
STUDY = {"name": "orders", "base": BASE, "orders": "all", "seeds": [0, 1]}


@pytest.fixture
def study() -> StudyConfig:
    return parse(StudyConfig, STUDY, "test")


def prepared(study: StudyConfig, store: Store) -> list[Prepared]:
    return prepare([point.config for point in expand(study)], LocalExecutor(store))


def told(study: StudyConfig, folder: Path, capsys: pytest.CaptureFixture[str], **launch: Any) -> dict[str, Any]:
    plan(study, LaunchConfig(storage=str(folder), **launch), as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def publish(store: Store, stage: TrainStage, seconds: float, steps: int = 10) -> None:
    with store.publish(stage.key, stage.record) as folder:
        (folder / "result.json").write_text(json.dumps({"steps": steps, "seconds": seconds}))


def test_a_study_is_counted_in_stages_and_its_hours_are_not_known_at_first(
    study: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(study, tmp_path, capsys)
    # Two orders, two seeds: each run trains two tasks and asks three times; nothing is shared.
    assert (found["runs"], found["hours"]) == (4, None)
    assert found["train"] == {"asked": 8, "distinct": 8, "cached": 0, "to do": 8, "hours": None}
    assert found["eval"] == {"asked": 12, "distinct": 12, "cached": 0, "to do": 12, "hours": None}


def test_hours_follow_from_stages_of_the_same_task_and_base(
    study: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path / "store"))
    trains, evals = union(one.plan for one in prepared(study, store))
    first = {task: next(s for s in trains if s.tasks == (task,)) for task in TASKS}
    # 10 steps of 8 samples each: 36 s and 108 s; the third tuning of a task takes as long as its mean.
    publish(store, first["VQAv2"], 36)
    publish(store, first["OCR-VQA"], 108)
    asked = evals[0]
    records = [{"row": row, "id": str(row), "instruction": "", "question": "", "prediction": "", "references": [],
                "adapter": None} for row in range(10)]  # fmt: skip
    with store.publish(asked.key, asked.record) as folder:
        write_answers(records, 36.0, folder)
    found = told(study, tmp_path, capsys, train_groups=2, eval_actors=1)
    assert found["train"]["cached"] == 2
    assert found["train"]["hours"] == pytest.approx(3 * (36 + 108) / 3600 / 2)
    assert found["eval"]["hours"] == pytest.approx(11 * 36 / 3600)
    assert found["hours"] == max(found["train"]["hours"], found["eval"]["hours"])
    plan(study, LaunchConfig(storage=str(tmp_path)), as_json=False)
    assert "about 0.12 hours" in capsys.readouterr().out


def test_a_task_that_was_never_measured_takes_as_long_as_the_others(
    study: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path / "store"))
    trains, _ = union(one.plan for one in prepared(study, store))
    # Resumed after five steps: 18 s are five steps' time.
    stage = next(s for s in trains if s.tasks == ("VQAv2",))
    with store.publish(stage.key, stage.record) as folder:
        (folder / "result.json").write_text(json.dumps({"steps": 10, "seconds": 18, "resumed_at": [5]}))
    found = told(study, tmp_path, capsys)
    assert found["train"]["hours"] == pytest.approx(7 * 36 / 3600)


def test_where_everything_is_there_nothing_is_left_to_estimate(
    study: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(tmp_path / "store"))
    for stage in (stage for stages in union(one.plan for one in prepared(study, store)) for stage in stages):
        with store.publish(stage.key, stage.record):
            pass
    plan(study, LaunchConfig(storage=str(tmp_path)), as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "everything is there"


def test_a_file_is_taken_for_what_it_is(tmp_path: Path) -> None:
    for name, values in (("study", STUDY), ("run", BASE)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        assert type(run_or_study_file(tmp_path / f"{name}.yaml")).__name__.lower().startswith(name)
    (tmp_path / "other.yaml").write_text("orders: all\nmethod: {}\n")
    with pytest.raises(InputError, match="unknown key"):
        run_or_study_file(tmp_path / "other.yaml")


# Groups -----------------------------------------------------------------------------------------------------------

GROUPED = {"benchmark": {**BASE["benchmark"], "tasks": ["VQAv2", "Grounding", "OCR-VQA"]}}  # type: ignore[dict-item]


def test_a_sweep_finds_the_groups_of_the_default_and_the_threshold_that_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = LaunchConfig(storage=str(tmp_path))
    sweep(parse(RunConfig, GROUPED, "test"), where, True, tmp_path / "sweep.svg")
    rows = json.loads(capsys.readouterr().out)
    assert [(rows[0]["low"], rows[-1]["high"])] == [(0, 1)]
    [best] = [row for row in rows if row["suggested"]]
    assert best["groups"] == [["VQAv2", "OCR-VQA"], ["Grounding"]]
    assert best["at_home"] == 1
    assert best["low"] < best["threshold"] < best["high"]
    picture = (tmp_path / "sweep.svg").read_text()
    assert all(task in picture for task in ("VQAv2", "Grounding", "OCR-VQA"))
    chosen = parse(RunConfig, {**GROUPED, "grouping": {"threshold": best["threshold"]}}, "test")
    group(chosen, where, True)
    placed = json.loads(capsys.readouterr().out)["groups"]
    assert [(one["task"], one["group"]) for one in placed] == [("VQAv2", 0), ("Grounding", 1), ("OCR-VQA", 0)]


def test_a_sweep_is_a_table_and_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(parse(RunConfig, GROUPED, "test"), LaunchConfig(storage=str(tmp_path)), False, None)
    out = capsys.readouterr().out
    assert all(word in out for word in ("threshold", "adapters", "OCR-VQA"))
    assert "suggested: grouping.threshold=0." in out


@pytest.mark.parametrize(
    ("values", "picture", "told"),
    [({"grouping": {"enabled": False}}, None, "grouping.enabled is false"), ({}, "a.pdf", "a .png or an .svg")],
)
def test_a_sweep_that_cannot_be_is_refused(values: Any, picture: str | None, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        sweep(parse(RunConfig, {**GROUPED, **values}, "test"), LaunchConfig(storage=str(tmp_path)), False,
              tmp_path / picture if picture else None)  # fmt: skip
