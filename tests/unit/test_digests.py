"""Digests of files, and the cache beside them."""

import hashlib
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lcia import digests
from lcia.digests import cache_file, file_digest, file_digests


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "GRAIN_NS", -1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"a" * (2 << 20))
    return path


def blake(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def reads(monkeypatch) -> list[str]:
    """The files that are read from now on."""
    seen, real = [], digests._read
    monkeypatch.setattr(digests, "_read", lambda path: seen.append(path) or real(path))
    return seen


def test_the_whole_file_counts(file):
    first = file_digest(file)
    file.write_bytes(b"a" * (2 << 20) + b"b")
    assert first == blake(b"a" * (2 << 20))
    assert file_digest(file) == blake(b"a" * (2 << 20) + b"b")


def test_a_file_is_read_once(file, monkeypatch):
    seen = reads(monkeypatch)
    assert file_digest(file) == file_digest(file)
    assert len(seen) == 1


def test_a_link_that_leads_elsewhere_now_has_another_digest(file, tmp_path):
    other = tmp_path / "other.bin"
    other.write_bytes(b"b" * (2 << 20))
    (tmp_path / "link").symlink_to(file)
    first = file_digest(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(other)
    assert (first, file_digest(tmp_path / "link")) == (file_digest(file), file_digest(other))


def test_other_contents_of_equal_size_and_modification_time_are_noticed(file):
    first, before = file_digest(file), file.stat()
    file.write_bytes(b"c" * (2 << 20))
    # The clock of a file system may stand still for some milliseconds.
    while file.stat().st_ctime_ns == before.st_ctime_ns or file.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(file) != first


def test_a_file_that_has_just_changed_is_not_remembered(file, monkeypatch):
    monkeypatch.setattr(digests, "GRAIN_NS", 10**18)
    seen = reads(monkeypatch)
    file_digest(file)
    file_digest(file)
    assert len(seen) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file, monkeypatch):
    real = digests._read

    def read_and_change(path):
        found = real(path)
        file.write_bytes(b"later")
        return found

    monkeypatch.setattr(digests, "_read", read_and_change)
    file_digest(file)
    monkeypatch.setattr(digests, "_read", real)
    assert file_digest(file) == blake(b"later")


def test_digests_come_in_the_order_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_BATCH", 2)
    files = [tmp_path / str(number) for number in range(5)]
    for path in files:
        path.write_text(path.name)
    file_digest(files[3])
    assert file_digests(files[::-1]) == [blake(path.name.encode()) for path in files[::-1]]


def test_a_name_that_is_not_utf8_is_remembered(tmp_path, monkeypatch):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    path.write_bytes(b"x")
    seen = reads(monkeypatch)
    assert file_digest(path) == file_digest(path) == blake(b"x")
    assert len(seen) == 1


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "none")


def test_without_a_place_for_the_cache_files_are_read(file, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert file_digest(file) == blake(file.read_bytes())


def test_a_damaged_cache_is_passed_by(file):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(b"not a database" * 100)
    assert file_digest(file) == blake(file.read_bytes())


def test_a_cache_that_stays_locked_is_passed_by(file, monkeypatch):
    monkeypatch.setattr(digests, "_WAIT_SECONDS", 0.0)
    file_digest(file)
    other = sqlite3.connect(cache_file(), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert file_digest(file) == blake(file.read_bytes())
    finally:
        other.close()


def test_many_may_ask_at_once(tmp_path):
    files = [tmp_path / str(number) for number in range(20)]
    for path in files:
        path.write_text(path.name)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(file_digest, files * 4))
    assert found == [blake(path.name.encode()) for path in files * 4]


def test_without_a_variable_the_cache_lies_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "lcia" / "digests.sqlite"
