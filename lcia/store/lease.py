"""Which of several attempts at one session may write: the newest.

A scheduler may start a session again while the processes of its last attempt still live (a retry of a RayJob does).
Each attempt leaves a small object `<number>-<letters>.json` in the storage, its number above all that it finds. The
greatest name is the newest attempt, so no clocks are compared and no two attempts write the same object. An older one
stops at its next write. Between the look and the write it may still write once: results and checkpoints are sealed and
have the content of their keys, so that does no harm.

An attempt that ends by itself says so in its object; one that is killed cannot.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow.fs as pafs

from lcia.addresses import anchored
from lcia.store.transfer import names_in, open_storage, read, write
from lcia.store.trouble import StoreError, patiently

ATTEMPTS = "store/attempts"
"""In a storage folder: a folder for each session's name."""
LOOK_EVERY_S = 1.0
"""How long what a look has found is taken to hold, where every line of a log would look again."""


class SupersededError(StoreError):
    """A newer attempt at the same session has begun, so this one must not write any more."""


@dataclass(frozen=True)
class OpenAttempt:
    """The newest attempt at a session, which has not said that it has ended: it is under way, or was killed."""

    name: str
    host: str
    started: str
    written: float
    """When its object was written, in seconds of the storage's clock; 0 where it does not tell."""


@dataclass
class Lease:
    """One attempt at the session `name` in the storage at `root`. `attempt`: its object's name, without the suffix."""

    root: str
    name: str
    attempt: str
    _fs: pafs.FileSystem = field(init=False, repr=False)
    _folder: str = field(init=False, repr=False)
    _looked: float = field(init=False, default=-LOOK_EVERY_S, repr=False)
    _lost: bool = field(init=False, default=False, repr=False)

    def __post_init__(self) -> None:
        self._fs, base = patiently(self.root, open_storage, anchored(self.root))
        self._folder = f"{base}/{ATTEMPTS}/{self.name}"

    @classmethod
    def take(cls, root: str, name: str) -> Lease:
        """The lease of a new attempt, which ends those of all others at this session."""
        lease = cls(root, name, "")
        earlier = lease._attempts()
        number = 1 + max((int(attempt.partition("-")[0]) for attempt in earlier), default=0)
        lease.attempt = f"{number:06d}-{uuid.uuid4().hex[:8]}"
        patiently(root, lease._write)
        for attempt in earlier:
            with contextlib.suppress(FileNotFoundError):
                patiently(root, lease._fs.delete_file, lease._path(attempt))
        return lease

    def check(self) -> None:
        """Call before every write.

        Raises:
            SupersededError: there is a newer attempt.
        """
        self._lost = self._lost or any(attempt > self.attempt for attempt in self._attempts())
        if self._lost:
            raise SupersededError(
                f"another attempt at {self.name!r} has begun in this storage, so this one (number "
                f"{int(self.attempt.partition('-')[0])}) stops and writes nothing more; what it finished is kept"
            )

    def check_now_and_then(self) -> None:
        """The same, at most once a second."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self.check()

    def end(self) -> None:
        """Says that nothing of this attempt is under way any more, unless a newer one has begun."""
        # Where storage is away the session has failed of that, and a killed one does not say it either.
        with contextlib.suppress(OSError):
            if told := read(self._fs, self._path(self.attempt)):
                write(self._fs, self._path(self.attempt), _json({**_facts(told), "ended": _now()}))

    @property
    def held(self) -> bool:
        """Whether no newer attempt is known; once lost, it stays so."""
        with contextlib.suppress(StoreError):  # storage that is away tells nothing, and writing there fails by itself
            self.check_now_and_then()
        return not self._lost

    def _attempts(self) -> list[str]:
        names = patiently(self.root, names_in, self._fs, self._folder)
        return [name.removesuffix(".json") for name in names if name[:6].isdigit()]

    def _path(self, attempt: str) -> str:
        return f"{self._folder}/{attempt}.json"

    def _write(self) -> None:
        write(self._fs, self._path(self.attempt), _json({"host": socket.gethostname(), "started": _now()}))


def open_attempts(root: str) -> list[OpenAttempt]:
    """Of every session in the storage at `root` whose newest attempt has not ended, that one."""
    fs, base = patiently(root, open_storage, anchored(root))
    return list(_open(root, fs, f"{base}/{ATTEMPTS}"))


def _open(root: str, fs: pafs.FileSystem, folder: str) -> Iterator[OpenAttempt]:
    for name in patiently(root, names_in, fs, folder):
        if names := patiently(root, names_in, fs, f"{folder}/{name}"):
            newest = f"{folder}/{name}/{names[-1]}"
            facts = _facts(patiently(root, read, fs, newest))
            if "ended" not in facts:
                written = patiently(root, fs.get_file_info, newest).mtime_ns or 0
                yield OpenAttempt(name, facts.get("host", "?"), facts.get("started", "?"), written / 1e9)


def _facts(told: bytes | None) -> dict[str, str]:
    """Of an attempt's object; none where a kill has cut it short."""
    with contextlib.suppress(ValueError):
        found: dict[str, str] = json.loads(told or b"{}")
        return found
    return {}


def _json(facts: Mapping[str, str]) -> bytes:
    return json.dumps(facts).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


Guard = Callable[[], None]
"""Raises SupersededError where nothing may be written any more."""


def unguarded() -> None:
    """The guard of those who are alone by construction: notebooks, tests, tools."""
