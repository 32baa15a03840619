"""MLflow as a mirror of the run folder, written by the driver only; no run waits for it or fails because of it.

Every call appends to a journal. A thread sends the journal on, remembers how far it came, and goes on from there when
the server was away or the run is started again. Sending an event twice changes nothing: run ids are found by the run's
key, and equal metrics (value, step and time) are one metric to MLflow.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from pipelines.tracking.journal import Event, Journal, Position, redact
from pipelines.tracking.mirror import Mirror

LOG = logging.getLogger(__name__)

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]

MAX_VALUE = 6000
"""Characters of a parameter that MLflow takes."""

POLL_SECONDS, MAX_WAIT_SECONDS = 0.5, 30.0


def default_uri(folder: Path) -> str:
    """A SQLite file in `folder`."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


class Tracker:
    """Takes a run's events; `run_key` names a run here, and is the same after a restart."""

    def __init__(self, journal: Path, uri: str, experiment: str) -> None:
        self._journal = Journal(journal)
        self._position = Position.load(journal, uri)
        self._known = {_metric_id(event) for event, _ in self._journal.read() if event["event"] == "metric"}
        self._stop, self._failing = threading.Event(), False
        self._record("open", experiment=experiment)
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def begin(
        self, run_key: str, name: str, params: Mapping[str, object], tags: Mapping[str, str], parent: str | None = None
    ) -> None:
        """Opens a run, or opens it again. `params`: nested mappings get dotted names."""
        flat = {key: _short(value) for key, value in _flatten(params)}
        self._record(
            "begin",
            run=run_key,
            name=name,
            params=flat,
            tags={key: _short(value) for key, value in tags.items()},
            parent=parent,
        )

    def metric(self, run_key: str, name: str, value: float, step: int, at: int | None = None) -> None:
        """One point of a curve, measured now or `at` (milliseconds); what was recorded before stays as it is."""
        point = value if math.isfinite(value) else str(value)
        event: Event = {"run": run_key, "name": name, "value": point, "step": step}
        if at is not None:
            event["time"] = at
        if (known := _metric_id(event)) not in self._known:
            self._known.add(known)
            self._record("metric", **event)

    def next_step(self, run_key: str, name: str) -> int:
        """The step after the newest one of a curve; 0: there is no point yet."""
        return 1 + max((step for run, metric, step in self._known if (run, metric) == (run_key, name)), default=-1)

    def artifact(self, run_key: str, path: Path, folder: str = "") -> None:
        """A file, or all files of a folder, to be stored under `folder`."""
        self._record("artifact", run=run_key, path=str(path.resolve()), folder=folder)

    def dataset(self, run_key: str, name: str, digest: str, source: str) -> None:
        """Data that the run read; of `digest` MLflow keeps 36 characters."""
        self._record("dataset", run=run_key, name=name, digest=digest, source=source)

    def finish(self, run_key: str, status: Status = "FINISHED") -> None:
        self._record("finish", run=run_key, status=status)

    @property
    def behind(self) -> int:
        """Bytes of the journal that MLflow has not taken yet."""
        return self._journal.size - self._position.offset

    def close(self, timeout: float = 30.0) -> None:
        """Waits at most `timeout` seconds for MLflow; what is left then is sent when the same run starts again."""
        self._stop.set()
        self._thread.join(timeout)
        if self.behind > 0:
            LOG.warning("MLflow has not taken all of %s: the same command sends the rest", self._journal.path)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, kind: str, **fields: Any) -> None:
        try:
            self._journal.append({"event": kind, "time": round(time.time() * 1000), **fields})
        except OSError as error:
            LOG.warning("cannot record %s in %s: %s", kind, self._journal.path, redact(str(error)))

    def _work(self) -> None:
        mirror, wait = Mirror(self._journal, self._position), POLL_SECONDS
        while True:
            stopping = self._stop.is_set()
            sent = self._send(mirror)
            if stopping:
                return
            wait = POLL_SECONDS if sent else min(2 * wait, MAX_WAIT_SECONDS)
            self._stop.wait(wait)

    def _send(self, mirror: Mirror) -> bool:
        try:
            mirror.sync()
        except _unreachable() as error:
            if not self._failing:
                LOG.warning("MLflow cannot be reached; the run goes on and is mirrored later: %s", redact(str(error)))
            self._failing = True
            return False
        self._failing = False
        return True


def replay(journal: Path, uri: str) -> None:
    """Sends what `uri` has not taken of a journal, now; raises where the server cannot be reached."""
    Mirror(Journal(journal), Position.load(journal, uri)).sync()


def _unreachable() -> tuple[type[Exception], ...]:
    """What mlflow raises when a server, its storage or its database cannot serve now."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def _metric_id(event: Event) -> tuple[str, str, int]:
    return event["run"], event["name"], event["step"]


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
