"""A folder with a marker that lists its files, their sizes and checksums: what counts as complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARKER = "complete.json"

Entries = dict[str, dict[str, Any]]
"""Size and checksum of each file of a sealed folder."""


def checksum(path: Path) -> str:
    """32 hex digits of blake2b over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def files_of(folder: Path) -> list[str]:
    """The files below a folder but its marker, relative to it."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MARKER)


def seal(folder: Path, known: Entries | None = None) -> None:
    """Writes the marker: from here on the folder counts as complete. `known` files have their entries already, and may
    lie elsewhere."""
    entries = dict(known or {})
    for name in files_of(folder):
        if name not in entries:
            entries[name] = {"size": (folder / name).stat().st_size, "blake2b": checksum(folder / name)}
    text = json.dumps({"files": entries}, indent=1, sort_keys=True)
    with (folder / MARKER).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def defects(folder: Path) -> list[str]:
    """What keeps a sealed local folder from being complete; empty: nothing."""
    try:
        entries = entries_of((folder / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        entries = None
    if entries is None:
        return [f"{MARKER} is missing or unreadable"]
    return [name for name, entry in entries.items() if not _fits(folder / name, entry)]


def entries_of(marker: bytes) -> Entries | None:
    """The files that a marker lists; None where it lists none, whatever a disk has made of it."""
    try:
        entries: Entries = json.loads(marker)["files"]
        sound = all({"size", "blake2b"} <= entry.keys() for entry in entries.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return entries if sound and entries else None


def _fits(path: Path, entry: Mapping[str, object]) -> bool:
    try:
        return path.stat().st_size == entry["size"] and checksum(path) == entry["blake2b"]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
