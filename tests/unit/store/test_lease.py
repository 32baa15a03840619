"""Of several attempts at one session the newest may write, on a disk and where files are uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia.store import lease as module
from lcia.store.folders import Store
from lcia.store.lease import Lease, SupersededError, open_attempts

KEY = "ab" + "0" * 30


@pytest.fixture(params=["{}", "fsspec+file://{}"], ids=["disk", "uploads"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param.format(tmp_path))


def test_the_newest_attempt_may_write_and_no_older_one(root: str) -> None:
    attempts = [Lease.take(root, "stream") for _ in range(12)]
    attempts[-1].check()
    for older in attempts[:-1]:
        with pytest.raises(SupersededError, match="another attempt at 'stream' has begun"):
            older.check()


def test_of_two_that_began_at_once_one_may_write(root: str) -> None:
    first, second = Lease(root, "stream", ""), Lease(root, "stream", "")
    for attempt, letters in ((first, "aaaaaaaa"), (second, "bbbbbbbb")):
        attempt.attempt = f"000001-{letters}"
        attempt._write()
    assert [first.held, second.held] == [False, True]


def test_sessions_of_other_names_are_none_of_its_business(root: str) -> None:
    attempt = Lease.take(root, "stream")
    Lease.take(root, "stream-2")
    attempt.check()


def test_another_process_holds_the_same_lease_by_its_name(root: str) -> None:
    attempt = Lease.take(root, "stream")
    worker = Lease(root, "stream", attempt.attempt)
    worker.check()
    Lease.take(root, "stream")
    with pytest.raises(SupersededError, match=r"\(number 1\)"):
        worker.check()


def test_one_small_object_is_left_of_many_attempts(root: str, tmp_path: Path) -> None:
    for _ in range(5):
        attempt = Lease.take(root, "stream")
    assert [p.name for p in tmp_path.glob("store/attempts/stream/*")] == [f"{attempt.attempt}.json"]


def test_what_is_asked_at_every_line_looks_once_a_second(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    attempt = Lease.take(root, "stream")
    assert attempt.held
    Lease.take(root, "stream")
    assert attempt.held
    now[0] += 1.0
    assert not attempt.held


def test_a_superseded_attempt_writes_no_checkpoint_and_still_may_publish_a_result(root: str) -> None:
    old = Lease.take(root, "stream")
    store = Store(f"{root}/store", guard=old.check)
    with store.checkpoints(KEY).save(1) as folder:
        (folder / "state").write_text("1")
    Lease.take(root, "stream")
    with pytest.raises(SupersededError), store.checkpoints(KEY).save(2):
        pytest.fail("it was asked to write")
    assert store.checkpoints(KEY)._names() == ["000000001"]
    with store.publish(KEY, {}) as folder:
        (folder / "result").write_text("1")
    assert store.usable(KEY)


def test_an_attempt_that_has_ended_is_not_open(root: str) -> None:
    attempts = {name: Lease.take(root, name) for name in ("a", "b")}
    assert [(one.name, bool(one.host), one.started[:2]) for one in open_attempts(root)] == [
        ("a", True, "20"), ("b", True, "20"),
    ]  # fmt: skip
    attempts["a"].end()
    assert [one.name for one in open_attempts(root)] == ["b"]


def test_a_new_attempt_is_open_and_the_end_of_an_older_one_changes_nothing(root: str) -> None:
    older, newer = Lease.take(root, "stream"), Lease.take(root, "stream")
    older.end()
    assert [one.name for one in open_attempts(root)] == ["stream"]
    newer.check()
    newer.end()
    assert open_attempts(root) == []


def test_an_ended_attempt_still_ends_older_ones_that_live_on(root: str) -> None:
    older, newer = Lease.take(root, "stream"), Lease.take(root, "stream")
    newer.end()
    with pytest.raises(SupersededError):
        older.check()


def test_an_attempt_whose_object_was_cut_short_is_open(root: str, tmp_path: Path) -> None:
    attempt = Lease.take(root, "stream")
    (tmp_path / "store" / "attempts" / "stream" / f"{attempt.attempt}.json").write_text('{"ho')
    assert [(one.name, one.host) for one in open_attempts(root)] == [("stream", "?")]
    attempt.end()
    assert open_attempts(root) == []
