"""A folder counts once it is whole; what is damaged is absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lcia.store.folders import Checkpoints, DamagedError, Store, StoreError
from lcia.store.transfer import delete

KEY = "ab" + "0" * 30
JSON_SPACE = b" \t\r\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def _publish(store: Store, text: str = "weights") -> None:
    with store.publish(KEY, {"kind": "train"}) as folder:
        (folder / "adapter").write_text(text)


def test_the_record_beside_a_result_is_sorted_and_readable(store: Store) -> None:
    with store.publish(KEY, {"task": "Größe", "kind": "train"}):
        pass
    assert (store.fetch(KEY) / "stage.json").read_text() == '{\n "kind": "train",\n "task": "Größe"\n}'


def test_what_is_published_is_found_and_read(store: Store) -> None:
    assert not store.has(KEY)
    _publish(store)
    assert store.has(KEY)
    assert (store.fetch(KEY) / "adapter").read_text() == "weights"


def test_nothing_is_published_by_a_block_that_raises(store: Store) -> None:
    with pytest.raises(RuntimeError):
        _fail(store)
    assert not store.has(KEY)


def _fail(store: Store) -> None:
    with store.publish(KEY, {}) as folder:
        (folder / "adapter").write_text("half")
        raise RuntimeError


def test_a_result_cut_short_is_absent_and_can_be_published_again(store: Store) -> None:
    _publish(store)
    (Path(store.path(KEY)) / "adapter").write_text("wei")
    assert not store.has(KEY)
    _publish(store)
    assert store.has(KEY)


def test_a_flipped_byte_is_noticed_when_it_is_read(store: Store) -> None:
    _publish(store)
    (Path(store.path(KEY)) / "adapter").write_text("weightz")
    with pytest.raises(StoreError, match="adapter"):
        store.fetch(KEY)


def test_equal_keys_may_be_published_twice(store: Store) -> None:
    _publish(store)
    _publish(store)
    assert store.has(KEY)


@pytest.mark.parametrize("damage", ["truncate", "flip", "marker"])
def test_the_newest_checkpoint_that_is_whole_is_loaded(store: Store, tmp_path: Path, damage: str) -> None:
    checkpoints = store.checkpoints(KEY)
    for step in (5, 10, 15):
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    newest = Path(store.base) / "partial" / KEY / "000000015"
    damages: dict[str, Callable[[], object]] = {
        "truncate": lambda: (newest / "state").write_text("st"),
        "flip": lambda: (newest / "state").write_text("step 16"),
        "marker": lambda: (newest / "complete.json").unlink(),
    }
    damages[damage]()
    found, broken = checkpoints.load(tmp_path / "scratch")
    assert found is not None
    assert (found / "state").read_text() == "step 10"
    assert broken == ["000000015"]


def test_checkpoints_go_when_the_stage_is_done(store: Store, tmp_path: Path) -> None:
    checkpoints = store.checkpoints(KEY)
    with checkpoints.save(5) as folder:
        (folder / "state").write_text("x")
    checkpoints.clear()
    assert checkpoints.load(tmp_path / "scratch") == (None, [])


def test_a_store_behind_a_url_publishes_file_by_file(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'url'}")
    _publish(store)
    assert Store(str(tmp_path / "url")).has(KEY)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_nothing_is_visible_while_a_result_is_being_made(tmp_path: Path, prefix: str) -> None:
    store = Store(f"{prefix}{tmp_path / 'store'}")
    with store.publish(KEY, {}) as folder:
        (folder / "adapter").write_text("weights")
        assert not Store(store.root).has(KEY)
        assert not Path(store.path(KEY)).exists()
    assert Store(store.root).has(KEY)


def test_files_without_a_marker_are_no_result(store: Store) -> None:
    _publish(store)
    (Path(store.path(KEY)) / "complete.json").unlink()
    assert not store.has(KEY)
    with pytest.raises(StoreError, match=r"complete\.json is missing"):
        store.fetch(KEY)


def test_a_file_that_went_missing_makes_the_result_absent(store: Store) -> None:
    _publish(store)
    (Path(store.path(KEY)) / "adapter").unlink()
    assert not store.has(KEY)


def test_a_damaged_result_is_set_aside_not_deleted(store: Store) -> None:
    _publish(store)
    (Path(store.path(KEY)) / "adapter").write_text("weightz")
    _publish(store)
    assert (store.fetch(KEY) / "adapter").read_text() == "weights"
    [aside] = Path(store.path(KEY)).parent.glob(f"{KEY}.broken-*")
    assert (aside / "adapter").read_text() == "weightz"


def test_the_marker_holds_the_checksums_that_b2sum_would_give(store: Store) -> None:
    _publish(store)
    marker = json.loads((store.fetch(KEY) / "complete.json").read_text())["files"]
    # printf weights | b2sum -l 128
    assert marker["adapter"] == {"size": 7, "blake2b": "873ac3c6df553eaa62331fd4ff9b521a"}
    assert set(marker) == {"adapter", "stage.json"}


def test_the_record_of_a_stage_lies_beside_its_result(store: Store) -> None:
    _publish(store)
    assert json.loads((store.fetch(KEY) / "stage.json").read_text()) == {"kind": "train"}


def test_only_the_newest_checkpoints_are_kept_and_all_may_be_damaged(store: Store, tmp_path: Path) -> None:
    checkpoints = store.checkpoints(KEY)
    for step in (5, 10, 100):
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    kept = Path(store.base) / "partial" / KEY
    assert sorted(p.name for p in kept.iterdir()) == ["000000010", "000000100"]
    for folder in kept.iterdir():
        (folder / "state").write_text("")
    assert checkpoints.load(tmp_path / "scratch") == (None, ["000000100", "000000010"])


def _break_off(checkpoints: Checkpoints) -> None:
    with checkpoints.save(10) as folder:
        (folder / "state").write_text("step")
        raise RuntimeError


def test_a_checkpoint_that_is_not_finished_does_not_count(store: Store, tmp_path: Path) -> None:
    checkpoints = store.checkpoints(KEY)
    with checkpoints.save(5) as folder:
        (folder / "state").write_text("step 5")
    with pytest.raises(RuntimeError):
        _break_off(checkpoints)
    found, damaged = checkpoints.load(tmp_path / "scratch")
    assert found is not None
    assert ((found / "state").read_text(), damaged) == ("step 5", [])


@pytest.mark.parametrize("bit", [1, 32])
def test_no_flipped_bit_of_a_marker_is_believed_or_fatal(store: Store, tmp_path: Path, bit: int) -> None:
    checkpoints = store.checkpoints(KEY)
    for step in (5, 10):
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    marker = Path(store.base) / "partial" / KEY / "000000010" / "complete.json"
    whole = marker.read_bytes()
    for place in range(len(whole)):
        flipped = bytes([*whole[:place], whole[place] ^ bit, *whole[place + 1 :]])
        marker.write_bytes(flipped)
        found, damaged = checkpoints.load(tmp_path / f"{place}")
        assert found is not None
        same = flipped.translate(None, JSON_SPACE) == whole.translate(None, JSON_SPACE)
        assert (found.name, damaged) == (("000000010", []) if same else ("000000005", ["000000010"])), flipped


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"files": []}', '{"files": {"state": 3}}', '{"files": {"state": {}}}']
)
def test_a_marker_of_another_shape_is_none(store: Store, text: str) -> None:
    _publish(store)
    (Path(store.path(KEY)) / "complete.json").write_text(text)
    assert not store.has(KEY)
    _publish(store)
    assert store.has(KEY)


def test_damaged_checkpoints_do_not_push_out_the_ones_made_after_them(store: Store, tmp_path: Path) -> None:
    checkpoints = store.checkpoints(KEY)
    for step in (10, 15):
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
        (Path(store.base) / "partial" / KEY / f"{step:09d}" / "state").write_text("")
    with checkpoints.save(5) as folder:
        (folder / "state").write_text("step 5")
    found, damaged = checkpoints.load(tmp_path / "scratch")
    assert found is not None
    assert (found.name, damaged) == ("000000005", ["000000015", "000000010"])


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(store: Store, tmp_path: Path) -> None:
    checkpoints = store.checkpoints(KEY)
    for text in ("cut off", "step 5"):
        with checkpoints.save(5) as folder:
            (folder / "state").write_text("step 5")
        if text == "cut off":
            (Path(store.base) / "partial" / KEY / "000000005" / "state").write_text(text)
    found, damaged = checkpoints.load(tmp_path / "scratch")
    assert found is not None
    assert ((found / "state").read_text(), damaged) == ("step 5", [])


def test_a_file_in_the_cache_never_changes_under_its_reader(tmp_path: Path) -> None:
    """Another process finds the cache incomplete and fetches the same result once more."""
    url, cache = f"fsspec+file://{tmp_path / 'store'}", tmp_path / "cache"
    _publish(Store(url))
    with (Store(url, cache).fetch(KEY) / "adapter").open() as reader:
        (cache / KEY / "complete.json").unlink()
        assert (Store(url, cache).fetch(KEY) / "adapter").read_text() == "weights"
        (cache / KEY / "adapter").write_text("another")
        assert reader.read() == "weights"


@pytest.fixture(params=["", "fsspec+file://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local folder, and a URL whose folders are real ones."""
    return f"{request.param}{tmp_path / 'store'}"


def _damage(store: Store, damage: str) -> str:
    """Damages what is published; returns the name of the file."""
    adapter, marker = (Path(store.path(KEY)) / name for name in ("adapter", "complete.json"))
    damages: dict[str, Callable[[], object]] = {
        "flip": lambda: adapter.write_text("weightz"),
        "truncate": lambda: adapter.write_text("wei"),
        "delete": adapter.unlink,
        "marker": lambda: marker.write_text('{"files": {}}'),
    }
    damages[damage]()
    return "complete.json" if damage == "marker" else "adapter"


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_result_is_set_aside_said_and_made_again(
    place: str, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _publish(Store(place))
    file = _damage(Store(place), damage)
    store = Store(place, tmp_path / "cache")
    assert not store.usable(KEY)
    [aside] = store.set_aside(KEY)
    [record] = caplog.records
    assert record.message == (
        f"{store.path(KEY)} is damaged ({file}): set aside as {aside}, the same command makes it again"
    )
    assert not store.has(KEY)
    _publish(store)
    assert store.usable(KEY)
    assert (store.fetch(KEY) / "adapter").read_text() == "weights"
    assert store.set_aside(KEY) == [aside]


@pytest.mark.parametrize("damage", ["marker", "flip"])
def test_a_local_result_whose_marker_lists_nothing_is_damaged_too(store: Store, damage: str) -> None:
    _publish(store)
    _damage(store, damage)
    assert not store.usable(KEY)
    assert len(store.set_aside(KEY)) == 1


def test_a_marker_that_lists_no_files_does_not_count(place: str, tmp_path: Path) -> None:
    store = Store(place, tmp_path / "cache")
    _publish(store)
    _damage(store, "marker")
    assert not store.has(KEY)
    with pytest.raises(StoreError):
        store.fetch(KEY)


def test_a_reader_that_finds_damage_sets_it_aside_so_that_the_next_run_makes_it_again(
    place: str, tmp_path: Path
) -> None:
    store = Store(place, tmp_path / "cache")
    _publish(store)
    _damage(store, "flip")
    with pytest.raises(DamagedError, match="the same command makes it again"):
        store.fetch(KEY)
    assert not Store(place).has(KEY)
    with pytest.raises(StoreError, match="was damaged and set aside: run the same command again"):
        store.fetch(KEY)


def test_a_copy_in_the_cache_does_not_hide_a_stored_result_that_was_cut_short(tmp_path: Path) -> None:
    store = Store(f"fsspec+file://{tmp_path / 'store'}", tmp_path / "cache")
    _publish(store)
    store.fetch(KEY)
    _damage(store, "truncate")
    assert not store.usable(KEY)
    assert not store.has(KEY)


def test_a_result_that_is_whole_is_left_where_it_is(place: str, tmp_path: Path) -> None:
    store = Store(place, tmp_path / "cache")
    _publish(store)
    assert store.usable(KEY)
    assert (store.has(KEY), store.set_aside(KEY)) == (True, [])


def _save_and_clear(place: str, steps: range, failures: list[Exception]) -> None:
    try:
        store = Store(place)
        for step in steps:
            with store.checkpoints(KEY).save(step) as folder:
                (folder / "state").write_text(f"step {step}")
                (folder / "facts").write_text("x" * 1000)
            if step % 5 == 0:
                store.checkpoints(KEY).clear()
    except Exception as error:  # noqa: BLE001 - it crosses a thread: the test shows it
        failures.append(error)


def test_processes_may_save_and_clear_the_same_checkpoints_at_once(place: str, tmp_path: Path) -> None:
    """Where folders are real ones, files appear in a folder while another process deletes it (OSError 39)."""
    failures: list[Exception] = []
    crowd = [Thread(target=_save_and_clear, args=(place, range(1, 40), failures)) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert failures == []
    with Store(place).checkpoints(KEY).save(100) as folder:
        (folder / "state").write_text("step 100")
    found, _ = Store(place).checkpoints(KEY).load(tmp_path / "scratch")
    assert found is not None
    assert (found / "state").read_text() == "step 100"


class _Obstinate:
    """A file system in whose folder another process has just written, as often as `times` says."""

    def __init__(self, times: int) -> None:
        self.times = times

    def delete_dir(self, folder: str) -> None:
        self.times -= 1
        if self.times >= 0:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", folder)


def test_a_folder_that_fills_while_it_is_deleted_is_deleted_again() -> None:
    fs = _Obstinate(3)
    delete(fs, "partial/x")
    assert fs.times == -1


@pytest.mark.parametrize(("newest", "found"), [(None, "000000010"), (10, "000000010"), (9, "000000005"), (4, None)])
def test_a_checkpoint_up_to_a_step_can_be_asked_for(
    store: Store, tmp_path: Path, newest: int | None, found: str | None
) -> None:
    checkpoints = store.checkpoints(KEY)
    for step in (5, 10):
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    folder_, damaged = checkpoints.load(tmp_path / "scratch", newest)
    assert ((folder_ and folder_.name), damaged) == (found, [])


def test_a_local_checkpoint_goes_in_one_piece(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ever sees half of it: it is renamed away, whole, before a file of it is deleted."""
    checkpoints, moved = store.checkpoints(KEY), dict[str, set[str]]()
    with checkpoints.save(5) as folder:
        (folder / "state").write_text("step 5")
    rename = os.rename

    def watched(source: str, target: Path) -> None:
        moved[source] = {f"{int(p.parent.name)}/{p.name}" for p in Path(source).rglob("*") if p.is_file()}
        rename(source, target)

    monkeypatch.setattr("lcia.store.folders.os.rename", watched)
    checkpoints.clear()
    assert moved == {f"{store.base}/partial/{KEY}": {"5/state", "5/complete.json"}}


class Watched:
    """A file system that remembers what is deleted."""

    def __init__(self, fs: Any) -> None:
        self.fs, self.deleted = fs, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fs, name)

    def delete_file(self, path: str) -> None:
        self.deleted.append(path.rsplit("/", 1)[1])
        self.fs.delete_file(path)

    def delete_dir(self, path: str) -> None:
        self.deleted.append(path.rsplit("/", 1)[1])
        self.fs.delete_dir(path)


def test_elsewhere_the_marker_of_a_checkpoint_goes_first(tmp_path: Path) -> None:
    store = Store(f"fsspec+file://{tmp_path / 'store'}")
    assert not store.local
    for step in (5, 10, 15):
        store.fs = Watched(getattr(store.fs, "fs", store.fs))
        with store.checkpoints(KEY).save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    assert store.fs.deleted == ["complete.json", "000000005"]
    assert store.checkpoints(KEY)._names() == ["000000010", "000000015"]


def test_checkpoints_of_a_published_stage_whose_process_was_killed_go_with_the_next_write(store: Store) -> None:
    for key in (KEY, "cd" + KEY[2:]):
        with store.checkpoints(key).save(5) as folder:
            (folder / "state").write_text("x")
    _publish(store)
    again = Store(store.root)
    with again.publish("ef" + KEY[2:], {}):
        pass
    assert [path.name for path in (Path(store.base) / "partial").iterdir()] == ["cd" + KEY[2:]]


def test_the_marker_is_on_the_disk_whole_before_the_result_is_renamed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, str]] = []

    def fsync(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").resolve()
        synced.append((path.name, path.read_text()))

    monkeypatch.setattr("lcia.store.folders.os.fsync", fsync)
    _publish(store)
    assert synced == [("complete.json", (store.fetch(KEY) / "complete.json").read_text())]


def _occupied(monkeypatch: pytest.MonkeyPatch, number: int) -> list[object]:
    """Every rename onto a result fails with this error."""
    tried: list[object] = []

    def rename(source: object, target: object) -> None:
        if str(target).endswith(KEY):
            tried.append(target)
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("lcia.store.folders.os.rename", rename)
    return tried


def test_a_result_that_others_keep_changing_is_an_error_and_not_lost_in_silence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = _occupied(monkeypatch, errno.ENOTEMPTY)
    with pytest.raises(StoreError, match="other processes keep changing it"):
        _publish(store)
    assert len(tried) == 10


def test_a_disk_that_is_full_is_said_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _occupied(monkeypatch, errno.ENOSPC)
    with pytest.raises(StoreError, match=r"no space left at .*: make room"):
        _publish(store)
    assert len(tried) == 1


def test_what_is_not_there_cannot_be_fetched_from_a_url(tmp_path: Path) -> None:
    store = Store(f"fsspec+file://{tmp_path / 'store'}", tmp_path / "cache")
    with pytest.raises(StoreError, match="holds no complete result"):
        store.fetch(KEY)


def test_a_result_is_checked_once_by_each_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(store)
    looked: list[Path] = []
    monkeypatch.setattr("lcia.store.folders.defects", lambda folder: looked.append(folder) or [])
    for _ in range(3):
        store.fetch(KEY)
    assert len(looked) == 1


def test_a_local_store_fills_results_on_its_own_disk(store: Store) -> None:
    """So that a rename publishes them."""
    with store.publish(KEY, {}) as folder:
        assert folder.is_relative_to(store.base)


def test_files_in_subfolders_belong_to_a_result_and_empty_folders_do_not(store: Store) -> None:
    with store.publish(KEY, {}) as folder:
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "file").write_text("x")
    marker = json.loads((store.fetch(KEY) / "complete.json").read_text())["files"]
    assert set(marker) == {"deep/file", "stage.json"}
    assert store.has(KEY)


def test_a_checkpoint_that_another_process_deletes_meanwhile_counts_as_never_seen(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = store.checkpoints(KEY)
    for step in (5, 10):
        with checkpoints.save(step) as folder:
            (folder / "state").write_text(f"step {step}")
    copy = Checkpoints._copy

    def gone(self: Checkpoints, name: str, into: Path) -> Path:
        if name == "000000010":
            shutil.rmtree(Path(store.base) / "partial" / KEY / name, ignore_errors=True)
        return copy(self, name, into)

    monkeypatch.setattr(Checkpoints, "_copy", gone)
    found, damaged = checkpoints.load(tmp_path / "scratch")
    assert found is not None
    assert (found.name, damaged) == ("000000005", [])
