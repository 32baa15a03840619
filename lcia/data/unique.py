"""Ids that were used before: found by digests of one size, in a private database on disk."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from lcia.data.records import Defect

DIGEST_BYTES = 16


class Owner(NamedTuple):
    """The first row with an id: its source file and its record there."""

    file: str
    record: int


def digest_of_id(name: str) -> bytes:
    """DIGEST_BYTES bytes of BLAKE2b."""
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).digest()


def duplicate(row: Owner, name: str, first: Owner) -> Defect:
    """The defect of a row whose id `name` belongs to `first`."""
    message = f"id {name!r} belongs to row {first.record} of {first.file} already"
    return Defect(row.file, row.record, name, "duplicate_id", message)


class Ids:
    """The ids seen so far; memory does not grow with them."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE seen (id BLOB PRIMARY KEY, file TEXT, record INTEGER) WITHOUT ROWID")

    def close(self) -> None:
        self._db.close()

    def add(self, rows: Iterable[tuple[bytes, Owner]]) -> dict[int, Owner]:
        """Adds digests in order; returns the places of those seen before, each with its first owner."""
        self._db.execute("BEGIN")
        found = {place: first for place, row in enumerate(rows) if (first := self._first(*row))}
        self._db.execute("COMMIT")
        return found

    def _first(self, digest: bytes, row: Owner) -> Owner | None:
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (digest, *row)).rowcount:
            return None
        return Owner(*self._db.execute("SELECT file, record FROM seen WHERE id = ?", (digest,)).fetchone())
