"""What lies in a storage folder: its runs, and what no run needs any more. Nothing here is done by a run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.table import Column, Table

from lcia.addresses import is_url
from lcia.report.run_folder import KEYS, SUMMARY
from lcia.store.folders import Store
from lcia.store.scratch import is_occupied, leftovers, staging
from lcia.store.transfer import BROKEN
from lcia.types import InputError
from pipelines.terminal.tables import console

EARLIER = "tracking.jsonl"
"""All that a run of an earlier version has left that did not come to its end."""
DAY = 86_400.0
KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


# Runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """One run of a session."""

    name: str
    strategy: str
    avg_acc: float | None
    forgetting: float | None


@dataclass(frozen=True)
class Listed:
    """A run folder: what one `lcia run`, `quickstart` or `study` has left, or is about to leave."""

    name: str
    folder: str
    state: str
    date: str
    seconds: float | None = None
    runs: tuple[Figures, ...] = field(default=())
    trouble: str = ""


def runs(storage: Path, as_json: bool) -> None:
    """Prints the runs of a storage folder, the newest last."""
    found = list_runs(storage)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False))
        return
    console().print(_table(found))
    for one in found:
        if one.trouble:
            print(f"{one.folder}: {one.trouble}", file=sys.stderr)


def list_runs(storage: Path) -> list[Listed]:
    """Every run folder; one whose files cannot be read is listed with the reason.

    Raises:
        InputError: `storage` is not a folder.
    """
    return sorted(map(_listed, run_folders(storage)), key=lambda one: one.date)


def run_folders(storage: Path) -> list[Path]:
    """The folders of a storage place that runs have made, by the files that they leave."""
    if is_url(str(storage)) or not storage.is_dir():
        raise InputError(f"{storage} is not a folder: give the storage of your runs with --storage")
    marks = (SUMMARY, KEYS, EARLIER)
    return sorted(folder for folder in storage.iterdir() if any((folder / mark).is_file() for mark in marks))


def _listed(folder: Path) -> Listed:
    date = datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="seconds")
    known = Listed(folder.name, str(folder), _state(folder), date)
    if not (folder / SUMMARY).is_file():
        return known
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        figures = tuple(_figures(name, run) for name, run in summary["runs"].items())
        date, seconds = str(summary["environment"]["date"]), float(summary["wall_seconds"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{SUMMARY} cannot be read ({type(error).__name__}: {error}); the same command writes it again"
        return Listed(known.name, known.folder, "broken", known.date, trouble=why)
    return Listed(known.name, known.folder, known.state, date, seconds, figures)


def _state(folder: Path) -> str:
    if is_occupied(folder):
        return "running"
    summary, keys = folder / SUMMARY, folder / KEYS
    if not summary.is_file():
        return "unfinished"
    # The keys are written when a run begins, the summary when it ends.
    return "unfinished" if keys.is_file() and keys.stat().st_mtime > summary.stat().st_mtime else "finished"


def _figures(name: str, run: Mapping[str, Any]) -> Figures:
    values = {metric: run["metrics"][metric]["value"] for metric in ("avg_acc", "forgetting")}
    # Summaries from before large studies were kept in short have the whole configuration alone.
    return Figures(name, run["strategy"] if "strategy" in run else run["config"]["strategy"]["kind"], **values)


def _table(found: Sequence[Listed]) -> Table:
    table = Table(
        Column("run", overflow="fold"), "state", "date", "runs", "strategies", "avg_acc", "forgetting", "seconds"
    )
    for one in found:
        strategies = ", ".join(dict.fromkeys(run.strategy for run in one.runs))
        avg_acc, forgetting = (_range([getattr(r, name) for r in one.runs]) for name in ("avg_acc", "forgetting"))
        seconds = "" if one.seconds is None else f"{one.seconds:.0f}"
        count = str(len(one.runs)) if one.runs else ""
        cells = (one.name, one.state, one.date[:16].replace("T", " "), count, strategies, avg_acc, forgetting, seconds)
        table.add_row(*cells)
    return table


def _range(values: Sequence[float | None]) -> str:
    """One value, or the smallest and the largest of several."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low:.1f}" if len(known) == 1 else f"{low:.1f} to {high:.1f}"


# Cleaning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leftover:
    """A folder that no run needs, and why."""

    path: Path
    why: str
    size: int


def clean(storage: Path, dry_run: bool, yes: bool, unreferenced: bool) -> None:
    """Shows what no run of a storage folder needs, asks, and deletes it.

    Raises:
        InputError: a run is under way there, or there is no terminal to ask on.
    """
    found = unneeded(storage, unreferenced)
    for one in found:
        print(f"{_megabytes(one.size):>12}  {one.why:<36}  {one.path.relative_to(storage)}")
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
        _refuse_if_alive(storage)
        for one in found:
            delete(one.path, storage)
        print(f"deleted {total}")


def unneeded(storage: Path, unreferenced: bool) -> list[Leftover]:
    """Leftovers of Ray and of dead processes, damaged results, checkpoints of finished stages; with `unreferenced`
    also results that no run of this storage names.

    Raises:
        InputError: a run is under way there, or a run does not say which results it needs.
    """
    run_folders(storage)
    _refuse_if_alive(storage)
    found = dict(_always(storage))
    if unreferenced:
        found |= dict.fromkeys(_unnamed(storage), "no run in this storage names it")
    return [Leftover(path, why, _size(path)) for path, why in sorted(found.items())]


def _refuse_if_alive(storage: Path) -> None:
    busy = [folder.name for folder in run_folders(storage) if is_occupied(folder)]
    busy += [f"a process that writes to {p.parent}" for p in _staged(storage) if is_occupied(p)][:1]
    if busy:
        raise InputError(f"{', '.join(busy)} is under way in {storage}: clean when nothing runs there")


def _staged(storage: Path) -> Iterator[Path]:
    return (storage / "store" / ".tmp").glob("lcia-*")


def _always(storage: Path) -> Iterator[tuple[Path, str]]:
    for place in ("ray", "tune"):
        yield from ((path, f"left by {place.capitalize()}") for path in (storage / place).glob("*") if path.is_dir())
    folder = storage / "store"
    yield from ((path, "damaged result, set aside") for path in folder.glob(f"??/*{BROKEN}*"))
    yield from ((path, "left by a killed process") for path in leftovers(folder / ".tmp", DAY))
    done = [path for path in (folder / "partial").glob("*") if _is_finished(folder, path.name)]
    yield from ((path, "checkpoints of a finished stage") for path in done)


def _is_finished(folder: Path, key: str) -> bool:
    return Store(str(folder)).has(key)


def _unnamed(storage: Path) -> Iterator[Path]:
    named = named_keys(storage)
    for path in [*(storage / "store").glob("??/*"), *(storage / "store" / "partial").glob("*")]:
        if path.is_dir() and KEY.fullmatch(path.name) and path.name not in named:
            yield path


def named_keys(storage: Path) -> set[str]:
    """The keys of every result that a finished or an unfinished run of this storage uses.

    Raises:
        InputError: a run has not said which.
    """
    silent = [folder for folder in run_folders(storage) if not _says(folder / KEYS)]
    if silent:
        raise InputError(
            f"{', '.join(map(str, silent))}: not known which results are needed there ({KEYS} is missing or empty); "
            "run the command of this run again, which writes the file and trains nothing that is there, or delete the "
            "folder"
        )
    files = [folder / name for folder in run_folders(storage) for name in (KEYS, SUMMARY)]
    # Any key in a summary counts, wherever it stands: what is kept in vain can still be deleted later.
    return {key for file in files if file.is_file() for key in KEY.findall(file.read_text(errors="replace"))}


def _says(keys: Path) -> bool:
    return keys.is_file() and keys.stat().st_size > 0


def delete(path: Path, storage: Path) -> None:
    """Deletes a folder so that no half of it is ever seen: it first moves out of sight, to where dead processes' go."""
    store = storage / "store"
    with contextlib.suppress(FileNotFoundError), staging(store / ".tmp") as grave:
        if path.parent.name == ".tmp":
            shutil.rmtree(path)
        else:
            os.rename(path, grave / "deleted")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
