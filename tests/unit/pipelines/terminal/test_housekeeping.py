"""`lcia runs` lists what there is, broken or not; `lcia clean` takes what no run needs, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcia.store.folders import Store
from lcia.store.scratch import occupied
from lcia.types import InputError
from pipelines.terminal.housekeeping import clean, list_runs, named_keys, runs, unneeded

KEYS = {name: digit * 32 for name, digit in (("shards", "a"), ("train", "b"), ("eval", "c"), ("old", "d"))}
HOLDER = """
import sys
from pathlib import Path
from lcia.store.scratch import occupied
with occupied(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _summary(**runs: float) -> dict[str, Any]:
    return {
        "wall_seconds": 12.4,
        "environment": {"date": "2026-11-26T10:00:00+00:00"},
        "runs": {
            name: {
                "metrics": {"avg_acc": {"value": value}, "forgetting": {"value": None}},
                "config": {"strategy": {"kind": name}},
                "stages": [{"key": KEYS["train"]}],
            }
            for name, value in runs.items()
        },
    }


def _run(storage: Path, name: str, summary: dict[str, Any] | str | None, keys: list[str] | None = None) -> Path:
    folder = storage / name
    folder.mkdir(parents=True)
    if keys is not None:
        (folder / "keys.json").write_text(json.dumps(keys))
        os.utime(folder / "keys.json", (1, 1))
    if summary is not None:
        (folder / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return folder


def _publish(store: Store, *keys: str) -> None:
    for key in keys:
        with store.publish(key, {}) as folder:
            (folder / "file").write_text("x" * 100)


def _checkpoint(store: Store, key: str) -> None:
    with store.checkpoints(key).save(1) as folder:
        (folder / "state").write_text("x")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two runs, one of them unfinished, and everything that gathers in a storage folder."""
    storage = tmp_path / "runs"
    _run(storage, "done", _summary(lcia=57.2), [KEYS["shards"], KEYS["train"]])
    _run(storage, "stopped", None, [KEYS["shards"], KEYS["eval"]])
    store = Store(str(storage / "store"))
    _publish(store, *KEYS.values())
    _checkpoint(store, KEYS["eval"][:-1] + "0")
    _checkpoint(store, KEYS["train"])
    for place in ("ray/session-group0", "tune/study-1", f"store/bb/{KEYS['train']}.broken-12345678"):
        (storage / place).mkdir(parents=True)
        (storage / place / "file").write_text("x" * 1000)
    return storage


def _names(storage: Path, unreferenced: bool = False) -> dict[str, str]:
    return {str(one.path.relative_to(storage)): one.why for one in unneeded(storage, unreferenced)}


ALWAYS = {
    "ray/session-group0": "left by Ray",
    "tune/study-1": "left by Tune",
    f"store/bb/{KEYS['train']}.broken-12345678": "damaged result, set aside",
    f"store/partial/{KEYS['train']}": "checkpoints of a finished stage",
}


def test_runs_are_listed_with_state_date_and_figures(storage: Path) -> None:
    _run(storage, "study", _summary(sequential=31.0, lcia=57.2))
    listed = {one.name: one for one in list_runs(storage)}
    assert {name: one.state for name, one in listed.items()} == {
        "done": "finished", "stopped": "unfinished", "study": "finished",
    }  # fmt: skip
    assert (listed["done"].date, listed["done"].seconds) == ("2026-11-26T10:00:00+00:00", 12.4)
    assert [(run.name, run.avg_acc, run.forgetting) for run in listed["study"].runs] == [
        ("sequential", 31.0, None), ("lcia", 57.2, None),
    ]  # fmt: skip


def test_a_run_that_was_begun_again_is_not_finished(storage: Path) -> None:
    os.utime(storage / "done" / "keys.json", (2**32, 2**32))
    assert {one.name: one.state for one in list_runs(storage)}["done"] == "unfinished"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"runs": 3}', '{"runs": {"a": {}}}', '{"runs": {}}'])
def test_a_broken_summary_is_named_and_the_others_are_listed(
    storage: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = _run(storage, "broken", text)
    assert {one.name: one.state for one in list_runs(storage)} == {
        "broken": "broken", "done": "finished", "stopped": "unfinished",
    }  # fmt: skip
    runs(storage, False)
    assert f"{broken}: summary.json cannot be read" in capsys.readouterr().err


def test_names_with_brackets_are_printed_as_they_are(
    storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _run(storage, "[red]a[b]", _summary(lcia=1.0))
    runs(storage, False)
    assert "[red]a[b]" in capsys.readouterr().out


def test_json_holds_what_the_table_shows(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(storage, True)
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["done"]["runs"] == [{"name": "lcia", "strategy": "lcia", "avg_acc": 57.2, "forgetting": None}]


@pytest.mark.parametrize("place", ["missing", "s3://bucket"])
def test_a_place_without_runs_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError, match="--storage"):
        list_runs(Path(place))


def test_leftovers_go_and_what_runs_need_stays(storage: Path) -> None:
    assert _names(storage) == ALWAYS
    clean(storage, dry_run=False, yes=True, unreferenced=False)
    assert _names(storage) == {}
    store = Store(str(storage / "store"))
    assert all(store.usable(key) for key in KEYS.values())
    assert (storage / "store" / "partial" / (KEYS["eval"][:-1] + "0")).is_dir()
    assert list((storage / "store" / ".tmp").iterdir()) == []


def test_results_that_no_run_names_go_only_when_asked_for(storage: Path) -> None:
    partial = f"store/partial/{KEYS['eval'][:-1]}0"
    more = dict.fromkeys([f"store/dd/{KEYS['old']}", partial], "no run in this storage names it")
    assert _names(storage, unreferenced=True) == ALWAYS | more
    clean(storage, dry_run=False, yes=True, unreferenced=True)
    store = Store(str(storage / "store"))
    assert [name for name, key in KEYS.items() if store.usable(key)] == ["shards", "train", "eval"]


def test_what_only_the_summary_names_is_kept_too(storage: Path) -> None:
    (storage / "done" / "keys.json").write_text("[]")
    assert KEYS["train"] in named_keys(storage)


def test_a_run_that_does_not_say_what_it_needs_keeps_all_results(storage: Path) -> None:
    (storage / "stopped" / "keys.json").write_text("")
    (storage / "done" / "keys.json").unlink()
    (storage / "earlier").mkdir()
    (storage / "earlier" / "tracking.jsonl").write_text("")
    with pytest.raises(InputError, match=r"done, .*earlier, .*stopped: not known .*\(keys.json is missing"):
        unneeded(storage, unreferenced=True)
    assert _names(storage) == ALWAYS


def test_a_dry_run_deletes_nothing_and_prints_sizes(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(storage.rglob("*"))
    clean(storage, dry_run=True, yes=True, unreferenced=True)
    assert sorted(storage.rglob("*")) == before
    assert "6 folders, 0.0 MB" in capsys.readouterr().out


def test_where_nobody_can_be_asked_nothing_is_deleted(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(InputError, match="--yes"):
        clean(storage, dry_run=False, yes=False, unreferenced=False)
    assert _names(storage) == ALWAYS


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
    assert {one.name: one.state for one in list_runs(storage)}["stopped"] == "running"
    with pytest.raises(InputError, match="stopped is under way"):
        clean(storage, dry_run=False, yes=True, unreferenced=False)


def test_nothing_is_cleaned_while_a_process_writes_into_the_store(storage: Path) -> None:
    store = Store(str(storage / "store"))
    with store.publish("e" * 32, {}), pytest.raises(InputError, match=r"a process that writes to .*\.tmp is under way"):
        unneeded(storage, False)


def test_the_staging_folder_of_a_dead_process_goes(storage: Path) -> None:
    old, new = (storage / "store" / ".tmp" / f"lcia-{'0' * 13}-{digit * 32}" for digit in "ab")
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1, 1))
    names = _names(storage)
    # Of another machine's newer one it cannot be told whether its process lives.
    assert names == {**ALWAYS, str(old.relative_to(storage)): "left by a killed process"}
    clean(storage, dry_run=False, yes=True, unreferenced=False)
    assert (old.exists(), new.exists()) == (False, True)


def test_an_occupied_folder_is_free_again_after_the_block(storage: Path) -> None:
    with occupied(storage / "stopped"):
        assert {one.name: one.state for one in list_runs(storage)}["stopped"] == "running"
    assert {one.name: one.state for one in list_runs(storage)}["stopped"] == "unfinished"


@pytest.mark.parametrize("answer", [True, False])
def test_what_is_shown_is_deleted_only_after_a_yes(
    storage: Path, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("pipelines.terminal.housekeeping.typer.confirm", lambda _: answer)
    clean(storage, dry_run=False, yes=False, unreferenced=False)
    assert _names(storage) == ({} if answer else ALWAYS)
