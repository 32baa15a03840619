"""A search on Ray Tune: killed and started again it draws the same trials, and trains nothing twice."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from lcia.config.load import parse
from lcia.studies.config import StudyConfig
from pipelines.stages.search import Log
from tests.e2e.conftest import call, launch_file, lcia, start, training_workers
from tests.e2e.test_study import BASE, trainings

STUDY = {
    "name": "bounds",
    "base": {**BASE, "benchmark": {**BASE["benchmark"], "validation_size": 16}},  # type: ignore[dict-item]
    "vary": {"strategy.beta_min": {"uniform": [0.1, 0.9]}},
    "orders": "all",
    "search": {"kind": "optuna", "num_samples": 3},
    "scheduler": {"kind": "asha"},
    "max_concurrent_trials": 2,
}


@dataclass(frozen=True)
class Searched:
    """A search whose driver was killed after its first trial, and that was then started again."""

    folder: Path
    before: int
    """Trainings that were in the store when it was killed."""
    ended: dict[str, str]
    """The log of the trials that had ended by then."""
    printed: dict[str, Any]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("search")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    command = ("study", folder / "study.yaml", "--launch", launch_file(folder, num_workers=1), "--json")
    process, deadline = start(*command), time.monotonic() + 200
    while not _ended(folder):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.05)
    workers = training_workers(process)
    process.kill()
    process.communicate(timeout=100)
    # Workers of the dead driver may publish one more training.
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    before, ended = len(trainings(folder)), _ended(folder)
    result = lcia(*command)
    assert result.returncode == 0, result.stderr[-3000:]
    return Searched(folder, before, ended, json.loads(result.stdout))


def _ended(folder: Path) -> dict[str, str]:
    return {
        file.stem: file.read_text()
        for file in (folder / "runs" / "bounds" / "trials").glob("*.json")
        if file.stat().st_size
    }


def test_trials_are_numbered_drawn_and_scored(searched: Searched) -> None:
    found = searched.printed["search"]
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2]
    for trial in found["trials"]:
        assert 0.1 <= trial["drawn"]["strategy.beta_min"] <= 0.9
        assert sorted(trial["order"]) == ["OCR-VQA", "VQAv2"]
        assert (trial["tasks"], trial["failed"]) == (2 if trial["whole"] else 1, "")
        assert 0 <= trial["value"] <= 100
    whole = {trial["number"]: trial["value"] for trial in found["trials"] if trial["whole"]}
    assert whole[found["best"]] == max(whole.values())
    assert len(searched.printed["methods"]) == len(whole)
    assert searched.printed["comparisons"] == {}
    page = (searched.folder / "runs" / "bounds" / "report.html").read_text()
    assert "of one that was stopped, its mean score so far" in page
    assert page.count("OCR-VQA &gt; VQAv2") + page.count("VQAv2 &gt; OCR-VQA") >= len(found["trials"])


def test_what_was_trained_before_the_kill_is_not_trained_again(searched: Searched) -> None:
    stages = searched.printed["stages"]
    assert stages["trained"] == len(trainings(searched.folder)) - searched.before
    assert stages["distinct"] <= len(trainings(searched.folder))


def test_started_again_it_draws_the_trials_that_had_ended(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(parse(StudyConfig, STUDY, "study"), str(searched.folder / "none"))
    drawn = {log.key(trial["drawn"]) for trial in searched.printed["search"]["trials"]}
    assert searched.ended
    assert set(searched.ended) <= drawn
    assert searched.ended.items() <= _ended(searched.folder).items()
    assert call("report", searched.folder / "runs" / "bounds") == 0
    assert "trials, avg_acc on validation" in capsys.readouterr().out
