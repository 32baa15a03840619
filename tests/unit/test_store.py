"""A folder counts once it is whole; what is damaged is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia.store import Store, StoreError

KEY = "ab" + "0" * 30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def _publish(store: Store, text: str = "weights") -> None:
    with store.publish(KEY, {"kind": "train"}) as folder:
        (folder / "adapter").write_text(text)


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
    {
        "truncate": lambda: (newest / "state").write_text("st"),
        "flip": lambda: (newest / "state").write_text("step 16"),
        "marker": lambda: (newest / "complete.json").unlink(),
    }[damage]()
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
