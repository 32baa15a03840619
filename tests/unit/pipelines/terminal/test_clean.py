"""`lcia clean` takes what no run needs, and nothing else, from a folder and from behind a URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcia.store.folders import Store
from lcia.store.lease import Lease
from lcia.types import InputError
from pipelines.terminal.clean import clean, named_keys, unneeded
from pipelines.terminal.runs import Place, list_runs
from tests.storage import ALWAYS, KEYS

HOLDER = """
import sys
from pathlib import Path
from lcia.store.scratch import occupied
with occupied(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
UNNAMED = dict.fromkeys(
    [f"store/dd/{KEYS['old']}", f"store/partial/{KEYS['eval'][:-1]}0"], "no run in this storage names it"
)


def _names(place: str | Path, unreferenced: bool = False) -> dict[str, str]:
    return {one.name: one.why for one in unneeded(Place.at(str(place)), unreferenced)}


def test_leftovers_go_and_what_runs_need_stays(storage: Path, place: str) -> None:
    assert _names(place) == ALWAYS
    clean(place, dry_run=False, yes=True, unreferenced=False)
    assert _names(place) == {}
    store = Store(str(storage / "store"))
    assert all(store.usable(key) for key in KEYS.values())
    assert (storage / "store" / "partial" / (KEYS["eval"][:-1] + "0")).is_dir()
    assert list((storage / "store" / ".tmp").iterdir()) == []


def test_results_that_no_run_names_go_only_when_asked_for(storage: Path, place: str) -> None:
    assert _names(place, unreferenced=True) == ALWAYS | UNNAMED
    clean(place, dry_run=False, yes=True, unreferenced=True)
    store = Store(str(storage / "store"))
    assert [name for name, key in KEYS.items() if store.usable(key)] == ["shards", "train", "eval"]


def test_what_only_the_summary_names_is_kept_too(storage: Path, place: str) -> None:
    (storage / "done" / "keys.json").write_text("[]")
    assert KEYS["train"] in named_keys(Place.at(place))


def test_a_run_that_does_not_say_what_it_needs_keeps_all_results(storage: Path, place: str) -> None:
    (storage / "stopped" / "keys.json").write_text("")
    (storage / "done" / "keys.json").unlink()
    (storage / "earlier").mkdir()
    (storage / "earlier" / "tracking.jsonl").write_text("")
    with pytest.raises(InputError, match=r"done, .*earlier, .*stopped: not known .*\(keys.json is missing"):
        _names(place, unreferenced=True)
    assert _names(place) == ALWAYS


def test_a_dry_run_deletes_nothing_and_prints_sizes(
    storage: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(storage.rglob("*"))
    clean(place, dry_run=True, yes=True, unreferenced=True)
    assert sorted(storage.rglob("*")) == before
    assert "6 folders, 0.0 MB" in capsys.readouterr().out


def test_where_nobody_can_be_asked_nothing_is_deleted(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(InputError, match="--yes"):
        clean(place, dry_run=False, yes=False, unreferenced=False)
    assert _names(place) == ALWAYS


@pytest.mark.parametrize("answer", [True, False])
def test_what_is_shown_is_deleted_only_after_a_yes(place: str, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("pipelines.terminal.clean.typer.confirm", lambda _: answer)
    clean(place, dry_run=False, yes=False, unreferenced=False)
    assert _names(place) == ({} if answer else ALWAYS)


# Runs that are under way ------------------------------------------------------------------------------------------


@pytest.fixture
def holder(storage: Path) -> Iterator[None]:
    """A run of another process that is under way."""
    command = [sys.executable, "-c", HOLDER, str(storage / "stopped")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate()


@pytest.mark.usefixtures("holder")
def test_nothing_is_cleaned_while_a_run_is_under_way(storage: Path) -> None:
    assert {one.name: one.state for one in list_runs(str(storage))}["stopped"] == "running"
    with pytest.raises(InputError, match="stopped is under way"):
        clean(str(storage), dry_run=False, yes=True, unreferenced=False)


def test_nothing_is_cleaned_while_a_process_writes_into_the_store(storage: Path) -> None:
    store = Store(str(storage / "store"))
    with store.publish("e" * 32, {}), pytest.raises(InputError, match=r"a process that writes to .*\.tmp is under way"):
        _names(storage)


def test_the_staging_folder_of_a_dead_process_goes(storage: Path) -> None:
    old, new = (storage / "store" / ".tmp" / f"lcia-{'0' * 13}-{digit * 32}" for digit in "ab")
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1, 1))
    # Of another machine's newer one it cannot be told whether its process lives.
    assert _names(storage) == {**ALWAYS, str(old.relative_to(storage)): "left by a killed process"}
    clean(str(storage), dry_run=False, yes=True, unreferenced=False)
    assert (old.exists(), new.exists()) == (False, True)


def test_elsewhere_nothing_is_cleaned_before_a_run_has_said_that_it_has_ended(storage: Path) -> None:
    url = f"fsspec+file://{storage}"
    lease = Lease.take(url, "stopped")
    with pytest.raises(InputError, match=r"stopped \(begun 20.* on .*\) has not said .*--killed stopped"):
        clean(url, dry_run=False, yes=True, unreferenced=False)
    lease.end()
    assert _names(url) == ALWAYS


def test_a_killed_run_elsewhere_is_named_by_its_user(storage: Path) -> None:
    url = f"fsspec+file://{storage}"
    for name in ("stopped", "other"):
        Lease.take(url, name)
    with pytest.raises(InputError, match=r"other .* has not said"):
        clean(url, dry_run=False, yes=True, unreferenced=False, killed=["stopped"])
    clean(url, dry_run=False, yes=True, unreferenced=False, killed=["stopped", "other"])
    assert {one.why for one in unneeded(Place.at(url), False, ["stopped", "other"])} == set()


def test_on_a_shared_volume_another_machine_s_run_counts_and_one_s_own_has_a_lock(storage: Path) -> None:
    lease = Lease.take(str(storage), "stopped")
    assert _names(storage) == ALWAYS
    [told] = (storage / "store" / "attempts" / "stopped").iterdir()
    told.write_text(json.dumps({"host": "another", "started": "2026-11-27T10:00:00+00:00"}))
    with pytest.raises(InputError, match=r"stopped \(begun 2026-11-27T10:00:00\+00:00 on another\)"):
        _names(storage)
    lease.end()
    assert _names(storage) == ALWAYS


def test_a_data_stage_that_was_never_finished_goes_where_tasks_write_it_in_place(storage: Path) -> None:
    half = storage / "store" / "ff" / ("f" * 32)
    half.mkdir(parents=True)
    (half / "shard-000000-000.parquet").write_text("x")
    url = f"fsspec+file://{storage}"
    assert _names(url) == {**ALWAYS, f"store/ff/{'f' * 32}": "never finished"}
    clean(url, dry_run=False, yes=True, unreferenced=False)
    assert not half.exists()
