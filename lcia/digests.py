"""The digest of a file's whole contents, computed once and remembered beside its size and times of change."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

GRAIN_NS = 2_000_000_000
"""A file may change twice within the grain of its clock (2 s on FAT) and keep its time: one this young is not
remembered."""

_BATCH = 1000
"""Files after which the cache is written, so that little is lost where a run is stopped."""

_WAIT_SECONDS = 5.0
"""For another process that is writing to the cache."""

_TABLE = """CREATE TABLE IF NOT EXISTS files
    (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, inode TEXT, digest TEXT) WITHOUT ROWID"""


class _Stamp(NamedTuple):
    """What tells whether a file is still the same: bytes, nanoseconds of its times, and its number on the disk.

    `changed` (ctime) moves also where a copy keeps the old `modified`, and it cannot be set by hand.
    """

    size: int
    modified: int
    changed: int
    inode: str


def file_digest(path: Path) -> str:
    """BLAKE2b over the whole file, 32 hex digits; raises OSError where it cannot be read."""
    return file_digests([path])[0]


def file_digests(paths: Iterable[str | Path]) -> list[str]:
    """file_digest of each; a file remembered with its present size and times is not read again."""
    found: list[str] = []
    # Links are not resolved, which would take as long as all the rest: size and times are their target's anyway.
    names = (os.path.abspath(path) for path in paths)
    while batch := list(islice(names, _BATCH)):
        found += _batch(batch)
    return found


def cache_file() -> Path:
    """Where digests are remembered: below $XDG_CACHE_HOME, else below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "lcia" / "digests.sqlite"


def _batch(paths: Sequence[str]) -> list[str]:
    stamps = [_stamp(path) for path in paths]
    known = _recall(paths, stamps)
    found = [digest or _read(path) for path, digest in zip(paths, known, strict=True)]
    fresh = [row for row, digest in zip(zip(paths, stamps, found, strict=True), known, strict=True) if digest is None]
    _remember([row for row in fresh if _is_settled(row[0], row[1])])
    return found


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _stamp(path: str) -> _Stamp:
    found = os.stat(path)
    return _Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, str(found.st_ino))


def _is_settled(path: str, before: _Stamp) -> bool:
    """Whether the file stayed the same while it was read, and any later change will show in its times."""
    return time.time_ns() - max(before.modified, before.changed) >= GRAIN_NS and _stamp(path) == before


# The cache. Without it (a read-only home, a damaged file, a lock that stays) all files are read.


def _recall(paths: Sequence[str], stamps: Sequence[_Stamp]) -> list[str | None]:
    query = "SELECT digest FROM files WHERE path = ? AND size = ? AND modified = ? AND changed = ? AND inode = ?"
    try:
        with closing(_connect()) as db:
            rows = [db.execute(query, (os.fsencode(p), *s)).fetchone() for p, s in zip(paths, stamps, strict=True)]
    except (sqlite3.Error, OSError) as error:
        log.debug("digests are not recalled from %s: %s", cache_file(), error)
        return [None] * len(paths)
    return [row and row[0] for row in rows]


def _remember(rows: Iterable[tuple[str, _Stamp, str]]) -> None:
    values = [(os.fsencode(path), *stamp, digest) for path, stamp, digest in rows]
    if not values:
        return
    try:
        with closing(_connect()) as db, db:
            db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", values)
    except (sqlite3.Error, OSError) as error:
        log.warning("digests cannot be kept in %s (%s): files will be read again next time", cache_file(), error)


def _connect() -> sqlite3.Connection:
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=_WAIT_SECONDS)
    db.execute(_TABLE)
    return db
