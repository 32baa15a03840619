"""`lcia clean`: what no run of a storage place needs any more. No run deletes anything but its own checkpoints."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
import typer

from lcia.report.run_folder import KEYS, SUMMARY
from lcia.store.folders import SHELF, Store
from lcia.store.scratch import is_occupied, leftovers, staging
from lcia.store.seals import MARKER
from lcia.store.transfer import BROKEN
from lcia.store.trouble import patiently
from lcia.types import InputError
from pipelines.terminal.runs import Place

DAY = 86_400.0
KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
STORE = "store"


@dataclass(frozen=True)
class Leftover:
    """A folder that no run needs, and why; `name`: its path in the storage place. `size` in bytes."""

    name: str
    why: str
    size: int


def clean(storage: str, dry_run: bool, yes: bool, unreferenced: bool, killed: Collection[str] = ()) -> None:
    """Shows what no run of a storage place needs, asks, and deletes it. `killed`: sessions of other machines that have
    not said that they have ended, and are known not to be under way.

    Raises:
        InputError: a run is under way there, or there is no terminal to ask on.
    """
    place = Place.at(storage)
    found = unneeded(place, unreferenced, killed)
    for one in found:
        print(f"{_megabytes(one.size):>12}  {one.why:<36}  {one.name}")
    total = _megabytes(sum(one.size for one in found))
    print(f"{len(found)} {'folder' if len(found) == 1 else 'folders'}, {total}")
    if not found or dry_run:
        return
    if not yes and not sys.stdin.isatty():
        raise InputError(
            "nothing was deleted: there is no terminal to ask on, so give --yes (or --dry-run to look only)"
        )
    if yes or typer.confirm("Delete them?"):
        # A run may have been started while the question stood there.
        _refuse_if_alive(Place.at(storage), killed)
        for one in found:
            delete(place, one.name)
        print(f"deleted {total}")


def unneeded(place: Place, unreferenced: bool, killed: Collection[str] = ()) -> list[Leftover]:
    """Leftovers of Ray and of dead processes, damaged results, checkpoints of finished stages; with `unreferenced`
    also results that no run of this storage names.

    Raises:
        InputError: a run is under way there, or a run does not say which results it needs.
    """
    _refuse_if_alive(place, killed)
    found = dict(_always(place))
    if unreferenced:
        found = dict.fromkeys(_unnamed(place), "no run in this storage names it") | found
    return [Leftover(name, why, _size(place, name)) for name, why in sorted(found.items())]


def _refuse_if_alive(place: Place, killed: Collection[str]) -> None:
    busy = [name for name in place.run_folders() if place.local and is_occupied(Path(place.path(name)))]
    busy += [f"a process that writes to {p.parent}" for p in _staged(place) if is_occupied(p)][:1]
    if busy:
        raise InputError(f"{', '.join(busy)} is under way in {place.shown}: clean when nothing runs there")
    begun = [one for one in place.open_attempts if one.name not in killed]
    if begun:
        told = ", ".join(f"{one.name} (begun {one.started} on {one.host})" for one in begun)
        ways = " ".join(f"--killed {one.name}" for one in begun)
        raise InputError(
            f"{told} has not said that it has ended: clean when nothing runs in {place.shown}; if you know that it was "
            f"killed, add {ways}"
        )


def _staged(place: Place) -> Iterator[Path]:
    """Folders that processes fill before they are published; elsewhere these lie on the processes' machines."""
    return Path(place.path(f"{STORE}/.tmp")).glob("lcia-*") if place.local else iter(())


def _always(place: Place) -> Iterator[tuple[str, str]]:
    for who in ("ray", "tune"):
        yield from ((folder, f"left by {who.capitalize()}") for folder in _folders(place, who))
    yield from ((name, "damaged result, set aside") for name in _results(place) if BROKEN in name)
    store = Store(place.path(STORE) if place.local else f"{place.root.rstrip('/')}/{STORE}")
    if place.local:
        parent = Path(place.path(f"{STORE}/.tmp"))
        yield from ((f"{STORE}/.tmp/{path.name}", "left by a killed process") for path in leftovers(parent, DAY))
    else:
        # Many tasks write a result where it will lie, and its marker comes last.
        marked = {name: moment for name in _results(place) if KEY.fullmatch(_last(name))
                  for moment in place.changed(f"{name}/{MARKER}")}  # fmt: skip
        yield from ((name, "never finished") for name, moment in marked.items() if moment is None)
    partial = _folders(place, f"{STORE}/partial")
    yield from ((name, "checkpoints of a finished stage") for name in partial if store.has(_last(name)))


def _results(place: Place) -> list[str]:
    """All folders on the shelves of the store."""
    shelves = [shelf for shelf in place.names(STORE) if len(shelf) == SHELF]
    return [name for shelf in shelves for name in _folders(place, f"{STORE}/{shelf}")]


def _folders(place: Place, parent: str) -> list[str]:
    selector = pafs.FileSelector(place.path(parent), allow_not_found=True)
    infos = patiently(place.root, place.fs.get_file_info, selector)
    return sorted(f"{parent}/{info.base_name}" for info in infos if info.type == pafs.FileType.Directory)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _unnamed(place: Place) -> Iterator[str]:
    named = named_keys(place)
    for name in [*_results(place), *_folders(place, f"{STORE}/partial")]:
        if KEY.fullmatch(_last(name)) and _last(name) not in named:
            yield name


def named_keys(place: Place) -> set[str]:
    """The keys of every result that a finished or an unfinished run of this storage uses.

    Raises:
        InputError: a run has not said which.
    """
    folders = place.run_folders()
    silent = [f"{place.shown}/{name}" for name in folders if not place.read(f"{name}/{KEYS}")]
    if silent:
        raise InputError(
            f"{', '.join(silent)}: not known which results are needed there ({KEYS} is missing or empty); "
            "run the command of this run again, which writes the file and trains nothing that is there, or delete the "
            "folder"
        )
    texts = [place.read(f"{name}/{file}") or b"" for name in folders for file in (KEYS, SUMMARY)]
    # Any key in a summary counts, wherever it stands: what is kept in vain can still be deleted later.
    return {key for text in texts for key in KEY.findall(text.decode(errors="replace"))}


def delete(place: Place, name: str) -> None:
    """Deletes a folder so that no half of it is ever seen: on a disk it first moves out of sight, to where dead
    processes' go; elsewhere the marker goes first."""
    if not place.local:
        Store(f"{place.root.rstrip('/')}/{STORE}").drop(place.path(name))
        return
    path = Path(place.path(name))
    with contextlib.suppress(FileNotFoundError), staging(Path(place.path(f"{STORE}/.tmp"))) as grave:
        if path.parent.name == ".tmp":
            shutil.rmtree(path)
        else:
            os.rename(path, grave / "deleted")


def _size(place: Place, name: str) -> int:
    selector = pafs.FileSelector(place.path(name), recursive=True, allow_not_found=True)
    infos = patiently(place.root, place.fs.get_file_info, selector)
    return sum(info.size for info in infos if info.is_file)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
