"""Storage that is away for a while is waited for; one that stays away, refuses or is full is named."""

from __future__ import annotations

import errno
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcia.store import trouble
from lcia.store.folders import Store
from lcia.store.trouble import StoreError, is_away, patiently
from lcia.types import InputError

KEY = "ab" + "0" * 30
AWAY = "When reading information for key 'a' in bucket 'b': AWS Error NETWORK_CONNECTION during HeadObject operation: x"
_numbers = itertools.count()


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """An object store in memory whose calls fail as often as `faults` says, by name."""

    cachable = False
    faults: ClassVar[Counter[str]] = Counter()

    def _fail(self, name: str) -> None:
        if self.faults[name] > 0:
            self.faults[name] -= 1
            raise OSError(AWAY)

    def info(self, path: str, **options: Any) -> Any:
        self._fail("info")
        return super().info(path, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._fail("write" if "w" in mode else "read")
        return super()._open(path, mode, **options)

    def rm(self, path: Any, **options: Any) -> None:
        self._fail("delete")
        super().rm(path, **options)

    def find(self, path: str, **options: Any) -> Any:
        self._fail("list")
        return super().find(path, **options)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    monkeypatch.setattr(trouble, "FIRST_WAIT", 0.001)
    Flaky.faults = Counter()
    yield Flaky.faults
    Flaky.faults = Counter()


def _store(cache: Path) -> Store:
    store = Store(str(cache / "unused"), cache / f"cache{next(_numbers)}")
    store.fs, store.local = pafs.PyFileSystem(pafs.FSSpecHandler(Flaky())), False
    store.base = f"/bucket{next(_numbers)}/store"
    return store


def _publish(store: Store) -> None:
    with store.publish(KEY, {}) as folder:
        (folder / "adapter").write_text("weights")


@pytest.mark.parametrize("times", [1, 2, 3, 5])
@pytest.mark.parametrize("call", ["info", "read", "write", "delete", "list"])
def test_a_store_that_is_away_for_some_calls_loses_nothing(
    tmp_path: Path, faults: Counter[str], call: str, times: int
) -> None:
    store = _store(tmp_path)
    checkpoints = store.checkpoints(KEY)
    for step in (1, 2, 3):
        faults[call] = times
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    faults[call] = times
    found, damaged = checkpoints.load(tmp_path / "scratch")
    assert found is not None
    assert ((found / "state").read_text(), damaged) == ("step 3", [])
    faults[call] = times
    _publish(store)
    faults[call] = times
    checkpoints.clear()
    faults[call] = times
    assert store.usable(KEY)
    assert (store.fetch(KEY) / "adapter").read_text() == "weights"


def test_an_absence_is_told_once(tmp_path: Path, faults: Counter[str], caplog: pytest.LogCaptureFixture) -> None:
    store = _store(tmp_path)
    _publish(store)
    faults["read"] = 5
    assert store.has(KEY)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith(f"{store.root} is away (When reading information")
    assert faults["read"] == 0


def test_a_store_that_stays_away_is_named_and_the_same_command_goes_on(
    tmp_path: Path, faults: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(trouble, "LONGEST_WAIT", 0.01)
    store = _store(tmp_path)
    faults["write"] = 10**6
    with pytest.raises(StoreError, match=r"run the same command again; what is finished is kept") as told:
        _publish(store)
    assert store.root in str(told.value)
    faults["write"] = 0
    _publish(store)
    assert store.has(KEY)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (OSError(AWAY), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), True),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), False),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."), False),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (TimeoutError("no answer"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (FileNotFoundError(errno.ENOENT, "missing"), False),
        (FileNotFoundError("bucket/key"), False),
        (PermissionError(errno.EACCES, "denied"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.ENOTEMPTY, "Directory not empty"), False),
        (ValueError("another matter"), False),
    ],
)
def test_what_may_come_back_is_told_from_what_stays_as_it_is(error: Exception, away: bool) -> None:
    assert is_away(error) is away


def test_a_missing_file_is_not_waited_for() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError):
        patiently("s3://bucket", ask)
    assert asked == [1]


def test_no_password_of_a_place_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(trouble, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(trouble, "FIRST_WAIT", 0.001)

    def ask() -> None:
        raise ConnectionError("https://me:hunter2@host does not answer")

    with pytest.raises(StoreError) as told:
        patiently("s3://me:hunter2@bucket", ask)
    assert "hunter2" not in caplog.text + str(told.value)


class _OtherError(Exception):
    """Libraries have exceptions of their own for a full disk."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        _OtherError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, error: Exception) -> None:
    store = Store(str(tmp_path / "runs"))
    with pytest.raises(StoreError, match=r"no space left at .*make room .* run the same command again") as told:
        _raise_in(store, error)
    assert str(tmp_path / "runs") in str(told.value)


def _raise_in(store: Store, error: Exception) -> None:
    with store.publish(KEY, {}):
        raise error


def test_any_other_error_leaves_a_publication_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(_OtherError):
        _raise_in(Store(str(tmp_path)), _OtherError("another matter"))


@pytest.mark.parametrize("root", ["{}/file/store", "{}/file", "/proc/nowhere/store", "nonsense://place"])
def test_a_place_that_cannot_hold_a_store_is_named_at_once(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("")
    place = root.format(tmp_path)
    with pytest.raises(InputError, match="cannot be used") as told:
        Store(place)
    assert place in str(told.value)
