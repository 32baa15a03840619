"""What a run tells its tracker, as JSON lines in the run folder: the truth that MLflow only mirrors."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lcia.secrets import redacted

LOG = logging.getLogger(__name__)

Event: TypeAlias = dict[str, Any]

_SECRET_NAME = re.compile(r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY_OF_URL = re.compile(r"(://[^\s?]+)\?\S+")


class Journal:
    """Appends events and reads them from a byte offset; one writing process, many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # A crash may have torn the last line; what follows must not stick to it.
        if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
            self._write(b"\n")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, event: Event) -> None:
        line = json.dumps(_redacted(event), ensure_ascii=False, allow_nan=False, default=str)
        self._write(line.encode() + b"\n")

    def read(self, offset: int = 0) -> Iterator[tuple[Event, int]]:
        """Events after `offset`, each with the offset behind it; passes over a torn line, ends at an unfinished one."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            lines.seek(offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                if (event := _parse(line)) is not None:
                    yield event, offset

    def _write(self, data: bytes) -> None:
        with self._lock, self.path.open("ab") as stream:
            stream.write(data)


def _parse(line: bytes) -> Event | None:
    try:
        event: Event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _redacted(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case dict():
            return {redact(str(key)): _redacted(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_redacted(inner) for inner in value]
        case _:
            return value


def redact(text: str) -> str:
    """`text` without users and queries in URLs and without values of environment variables named like a secret."""
    text = _QUERY_OF_URL.sub(r"\1", _USER_IN_URL.sub("***@", redacted(text)))
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


@dataclass
class Position:
    """How far one MLflow has taken one journal: byte offset, its experiment, and its run id of each run key."""

    path: Path
    uri: str
    offset: int = 0
    experiment: str = ""
    runs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, journal: Path, uri: str) -> Position:
        position = cls(journal.with_name(f"{journal.name}.position.json"), uri)
        known = position._all().get(position._name, {})
        return cls(position.path, uri, **known)

    def reset(self) -> None:
        self.offset, self.experiment, self.runs = 0, "", {}

    def save(self) -> None:
        """Atomic, so that a kill leaves the old position or the new one."""
        mine = {key: value for key, value in asdict(self).items() if key not in {"path", "uri"}}
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps({**self._all(), self._name: mine}, indent=1))
        scratch.replace(self.path)

    @property
    def _name(self) -> str:
        # A digest, since a URI may hold a password.
        return hashlib.blake2b(self.uri.encode(), digest_size=8).hexdigest()

    def _all(self) -> dict[str, Any]:
        """What is known of every MLflow. A file that a crash has damaged costs time only: all is sent once more."""
        if not self.path.exists():
            return {}
        try:
            known: dict[str, Any] = json.loads(self.path.read_text())
        except ValueError as error:
            LOG.warning("%s cannot be read (%s): the whole journal is sent to MLflow again", self.path, error)
            return {}
        return known
