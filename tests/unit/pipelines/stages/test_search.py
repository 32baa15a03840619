"""The log of a search: which trials have ended, whatever ended the process that wrote it."""

from __future__ import annotations

from pathlib import Path

from lcia.config.load import parse
from lcia.studies.config import StudyConfig
from pipelines.stages.search import TRIALS, Log

STUDY = {
    "name": "bounds",
    "methods": {"lcia": {}},
    "vary": {"strategy.beta_min": {"uniform": [0.1, 0.9]}},
    "search": {"kind": "random", "num_samples": 4},
}


def log(root: Path, **changes: object) -> Log:
    return Log(parse(StudyConfig, {**STUDY, **changes}, "study"), str(root))


def test_a_trial_that_has_ended_is_known_to_the_next_session(tmp_path: Path) -> None:
    first = log(tmp_path)
    first.add({"beta": 0.5}, stopped=1)
    first.add({"beta": 0.7}, stopped=None)
    first.add({"beta": 0.7}, stopped=2)
    again = log(tmp_path)
    assert again.ended == {again.key({"beta": 0.5}): 1, again.key({"beta": 0.7}): None}


def test_the_same_draw_of_another_study_is_another_trial(tmp_path: Path) -> None:
    assert log(tmp_path).key({"beta": 0.5}) != log(tmp_path, search={"kind": "random", "num_samples": 5}).key(
        {"beta": 0.5}
    )


def test_what_a_killed_process_left_half_written_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "bounds" / TRIALS
    folder.mkdir(parents=True)
    (folder / "aa.json").write_text('{"stop')
    (folder / "bb.json").write_text("")
    assert log(tmp_path).ended == {}
