"""What lies in a storage place: its runs. Nothing here changes anything."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from rich.table import Column, Table

from lcia.addresses import anchored, is_url
from lcia.report.run_folder import KEYS, SUMMARY
from lcia.secrets import redacted
from lcia.store.lease import OpenAttempt, open_attempts
from lcia.store.scratch import is_occupied
from lcia.store.transfer import names_in, open_storage, read
from lcia.store.trouble import patiently
from lcia.types import InputError
from pipelines.terminal.tables import console

EARLIER = "tracking.jsonl"
"""All that a run of an earlier version has left that did not come to its end."""


@dataclass(frozen=True)
class Place:
    """A storage place that is there: a folder or a URL."""

    root: str
    fs: pafs.FileSystem
    base: str

    @classmethod
    def at(cls, storage: str) -> Place:
        """Raises InputError where there is none."""
        if not is_url(storage) and not Path(storage).is_dir():
            raise InputError(f"{storage} is not a folder: give the storage of your runs with --storage")
        return cls(storage, *patiently(storage, open_storage, anchored(storage)))

    @property
    def shown(self) -> str:
        """For people: without what a URL may hold of secrets."""
        return redacted(self.root.rstrip("/"))

    @property
    def local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.base}/{name}"

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder of the place."""
        return patiently(self.root, names_in, self.fs, self.path(folder) if folder else self.base)

    def read(self, name: str) -> bytes | None:
        return patiently(self.root, read, self.fs, self.path(name))

    def changed(self, *names: str) -> list[float | None]:
        """When files were written, in seconds (0 where the storage does not tell); None: there is no such file."""
        infos = patiently(self.root, self.fs.get_file_info, [self.path(name) for name in names])
        return [(info.mtime_ns or 0) / 1e9 if info.is_file else None for info in infos]

    def run_folders(self) -> list[str]:
        """The folders that runs have made, by the files that they leave."""
        return [name for name in self.names() if any(moment is not None for moment in self.written(name))]

    def written(self, run: str) -> list[float | None]:
        """When a run folder's MARKS were written."""
        return self.changed(*(f"{run}/{mark}" for mark in MARKS))

    @cached_property
    def open_attempts(self) -> tuple[OpenAttempt, ...]:
        """Of sessions that have begun and not said that they have ended; a lock tells more of this machine's. Attempts
        of earlier versions do not say it: a summary after their beginning does."""
        here = socket.gethostname()
        return tuple(
            one
            for one in open_attempts(self.root)
            if not (self.local and one.host == here) and (self.written(one.name)[0] or -1.0) <= one.written
        )


MARKS = (SUMMARY, KEYS, EARLIER)
"""A folder that has one of these files is a run's."""


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


def runs(storage: str, as_json: bool) -> None:
    """Prints the runs of a storage place, the newest last."""
    found = list_runs(storage)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False))
        return
    console().print(_table(found))
    for one in found:
        if one.trouble:
            print(f"{one.folder}: {one.trouble}", file=sys.stderr)


def list_runs(storage: str) -> list[Listed]:
    """Every run folder; one whose files cannot be read is listed with the reason.

    Raises:
        InputError: there is no storage place.
    """
    place = Place.at(storage)
    return sorted((_listed(place, name) for name in place.run_folders()), key=lambda one: one.date)


def _listed(place: Place, name: str) -> Listed:
    written = place.written(name)
    newest = max(moment for moment in written if moment is not None)
    date = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
    folder = f"{place.shown}/{name}"
    known = Listed(name, folder, _state(place, name, *written[:2]), date)
    text = place.read(f"{name}/{SUMMARY}")
    if text is None:
        return known
    try:
        summary = json.loads(text)
        figures = tuple(_figures(run_name, run) for run_name, run in summary["runs"].items())
        date, seconds = str(summary["environment"]["date"]), float(summary["wall_seconds"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{SUMMARY} cannot be read ({type(error).__name__}: {error}); the same command writes it again"
        return Listed(name, folder, "broken", known.date, trouble=why)
    return Listed(name, folder, known.state, date, seconds, figures)


def _state(place: Place, name: str, summary: float | None, keys: float | None) -> str:
    if place.local and is_occupied(Path(place.path(name))):
        return "running"
    # Of another machine's process it is not known whether it lives.
    if any(one.name == name for one in place.open_attempts):
        return "begun"
    # The keys are written when a run begins, the summary when it ends.
    return "finished" if summary is not None and (keys is None or keys <= summary) else "unfinished"


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
