"""Files of a result where they lie: written by many, counted when all are there, read in ranges."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lcia.store.files import UNFINISHED, Files
from lcia.store.folders import AbsentError, DamagedError, Store

KEY = "ab" + "0" * 30


@pytest.fixture(params=["", "fsspec+file://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local folder, and a URL that stands for another machine's."""
    return f"{request.param}{tmp_path / 'store'}"


@pytest.fixture
def store(place: str, tmp_path: Path) -> Store:
    return Store(place, tmp_path / "cache")


def publish(store: Store, data: bytes = b"shards") -> None:
    with store.publish_shared(KEY, {"kind": "shard"}) as shared:
        files = pickle.loads(pickle.dumps(shared.files))  # noqa: S301 - as it gets to other processes
        shared.written["one"] = files.write("one", data)
        (shared.folder / "index").write_text("small")


def test_what_others_have_written_is_part_of_the_result(store: Store) -> None:
    publish(store)
    assert store.usable(KEY)
    folder = store.fetch(KEY)
    assert sorted(path.name for path in folder.iterdir()) == ["complete.json", "index", "one", "stage.json"]
    assert ((folder / "one").read_bytes(), (folder / "index").read_text()) == (b"shards", "small")


def test_its_checksums_are_those_of_the_bytes_that_were_to_be_written(store: Store) -> None:
    with store.publish_shared(KEY, {}) as shared:
        shared.written["one"] = shared.files.write("one", b"shards")
        Path(shared.files.path("one")).write_bytes(b"shardz")
    assert not store.usable(KEY)
    assert len(store.set_aside(KEY)) == 1


def test_a_file_that_is_not_written_to_its_end_is_not_part_of_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with store.publish_shared(KEY, {}) as shared:
        shared.written["one"] = shared.files.write("one", b"shards")
        (Path(shared.files.folder) / UNFINISHED / "half").write_bytes(b"sha")
    assert sorted(path.name for path in store.fetch(KEY).iterdir()) == ["complete.json", "one", "stage.json"]


def test_a_writer_that_comes_late_makes_nothing_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with store.publish_shared(KEY, {}) as shared:
        shared.written["one"] = shared.files.write("one", b"shards")
    with pytest.raises(FileNotFoundError):
        shared.files.write("two", b"late")
    assert not Path(shared.files.folder).exists()


def test_a_killed_process_leaves_nothing_that_counts_and_the_next_one_clears_it_away(place: str, store: Store) -> None:
    code = (
        "import os, signal, sys; from lcia.store.folders import Store\n"
        f"with Store(sys.argv[1]).publish_shared({KEY!r}, {{}}) as shared:\n"
        "    shared.written['one'] = shared.files.write('one', b'half the work')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, place], check=False).returncode == -signal.SIGKILL
    assert not store.has(KEY)
    with pytest.raises(AbsentError):
        store.files(KEY)
    publish(store)
    assert (store.fetch(KEY) / "one").read_bytes() == b"shards"
    assert not list(Path(store.base).glob(".tmp/*"))


def test_files_are_read_where_they_lie_without_a_copy(place: str, store: Store, tmp_path: Path) -> None:
    publish(store)
    assert store.usable(KEY, in_ranges=True)
    files = store.files(KEY)
    assert (files.folder, files.read("index")) == (store.path(KEY), b"small")
    assert not (tmp_path / "cache").exists()


def test_a_store_that_copies_brings_them_whole(tmp_path: Path) -> None:
    url = f"fsspec+file://{tmp_path / 'store'}"
    publish(Store(url))
    files = Store(url, tmp_path / "cache", copies=True).files(KEY)
    assert files.folder == str(tmp_path / "cache" / KEY)
    assert files.read("one") == b"shards"


def test_a_cut_file_is_damage_without_reading_the_others(tmp_path: Path) -> None:
    url = f"fsspec+file://{tmp_path / 'store'}"
    store = Store(url, tmp_path / "cache")
    publish(store)
    Path(store.path(KEY), "one").write_bytes(b"sha")
    with pytest.raises(DamagedError, match=r"is damaged \(one\): set aside"):
        store.files(KEY)
    assert not store.usable(KEY, in_ranges=True)


def test_damage_that_a_reader_meets_sets_the_result_aside(store: Store) -> None:
    publish(store)
    files = pickle.loads(pickle.dumps(store.files(KEY)))  # noqa: S301 - as it gets to other processes
    assert isinstance(files.damaged("one"), DamagedError)
    assert not store.has(KEY)
    assert len(store.set_aside(KEY)) == 1


def test_an_entry_holds_size_and_checksum_and_writing_again_changes_nothing(tmp_path: Path) -> None:
    files = Files.local(tmp_path)
    first, again = (files.write("one", b"shards") for _ in range(2))
    assert first == again == {"size": 6, "blake2b": first["blake2b"]}
    files.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    files.delete("one")
    files.delete("one")
    with pytest.raises(FileNotFoundError):
        files.read("one")
