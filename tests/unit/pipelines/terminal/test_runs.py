"""`lcia runs` lists what there is, broken or not, in a folder and behind a URL."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lcia.store.lease import Lease
from lcia.store.scratch import occupied
from lcia.types import InputError
from pipelines.terminal.runs import list_runs, runs
from tests.storage import run, summary


def _states(place: str) -> dict[str, str]:
    return {one.name: one.state for one in list_runs(place)}


def test_runs_are_listed_with_state_date_and_figures(storage: Path, place: str) -> None:
    run(storage, "study", summary(sequential=31.0, lcia=57.2))
    listed = {one.name: one for one in list_runs(place)}
    assert _states(place) == {"done": "finished", "stopped": "unfinished", "study": "finished"}
    assert (listed["done"].date, listed["done"].seconds) == ("2026-11-26T10:00:00+00:00", 12.4)
    assert [(run.name, run.avg_acc, run.forgetting) for run in listed["study"].runs] == [
        ("sequential", 31.0, None), ("lcia", 57.2, None),
    ]  # fmt: skip


def test_one_that_has_no_summary_yet_has_the_date_of_its_beginning(place: str) -> None:
    assert {one.name: one.date for one in list_runs(place)}["stopped"] == "1970-01-01T00:00:01+00:00"


def test_a_run_that_was_begun_again_is_not_finished(storage: Path, place: str) -> None:
    os.utime(storage / "done" / "keys.json", (2**32, 2**32))
    assert _states(place)["done"] == "unfinished"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"runs": 3}', '{"runs": {"a": {}}}', '{"runs": {}}'])
def test_a_broken_summary_is_named_and_the_others_are_listed(
    storage: Path, place: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(storage, "broken", text)
    assert _states(place) == {"broken": "broken", "done": "finished", "stopped": "unfinished"}
    runs(place, False)
    assert f"{place}/broken: summary.json cannot be read" in capsys.readouterr().err


def test_a_run_elsewhere_that_has_not_ended_has_begun(storage: Path) -> None:
    url = f"fsspec+file://{storage}"
    lease = Lease.take(url, "stopped")
    assert _states(url)["stopped"] == "begun"
    lease.end()
    assert _states(url)["stopped"] == "unfinished"


def test_a_summary_says_that_an_earlier_version_s_run_has_ended(storage: Path) -> None:
    url = f"fsspec+file://{storage}"
    Lease.take(url, "done")
    assert _states(url)["done"] == "begun"
    os.utime(storage / "done" / "summary.json", (2**32, 2**32))
    assert _states(url)["done"] == "finished"


def test_a_lock_tells_more_of_this_machine_s_runs_than_their_attempts(storage: Path) -> None:
    Lease.take(str(storage), "stopped")
    assert _states(str(storage))["stopped"] == "unfinished"
    with occupied(storage / "stopped"):
        assert _states(str(storage))["stopped"] == "running"
    assert _states(str(storage))["stopped"] == "unfinished"


def test_names_with_brackets_are_printed_as_they_are(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run(storage, "[red]a[b]", summary(lcia=1.0))
    runs(str(storage), False)
    assert "[red]a[b]" in capsys.readouterr().out


def test_json_holds_what_the_table_shows(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    runs(place, True)
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["done"]["runs"] == [{"name": "lcia", "strategy": "lcia", "avg_acc": 57.2, "forgetting": None}]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing is not a folder: .*--storage"):
        list_runs(str(tmp_path / "missing"))


def test_a_url_that_names_no_storage_is_told() -> None:
    with pytest.raises(InputError, match="no-such-kind://bucket cannot be used"):
        list_runs("no-such-kind://bucket")
