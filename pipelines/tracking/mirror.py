"""Sends one journal to one MLflow; sending an event again changes nothing."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.tracking.journal import Event, Journal, Position, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOG = logging.getLogger(__name__)

RUN_KEY_TAG = "lcia.run_key"
MAX_PARAMS, MAX_METRICS, MAX_DIGEST = 100, 1000, 36
"""MLflow's limits: parameters and metrics of a batch, characters of a dataset's digest."""

REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"})
"""Error codes that asking again does not change."""


class Mirror:
    """Sends a journal to one MLflow; `position` says how far it came and moves with every batch taken."""

    def __init__(self, journal: Journal, position: Position) -> None:
        self._journal, self._position, self._checked = journal, position, False

    def sync(self) -> None:
        """Sends everything beyond the position; raises at the first event that cannot be delivered now."""
        if self._position.offset == self._journal.size:
            return
        self._check()
        for events, offset in batches(self._journal.read(self._position.offset)):
            self._deliver(events)
            self._position.offset = offset
            self._position.save()

    @cached_property
    def _client(self) -> MlflowClient:
        # The thread tries again by itself; MLflow's own retries would hold it for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        if folder := _sqlite_folder(self._position.uri):
            folder.mkdir(parents=True, exist_ok=True)
            for chatty in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(chatty).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self._position.uri)

    def _check(self) -> None:
        """Starts over where the position belongs to another database or another journal."""
        from mlflow.exceptions import MlflowException

        if self._checked:
            return
        try:
            for run_id in list(self._position.runs.values())[:1]:
                self._client.get_run(run_id)
            gone = self._position.offset > self._journal.size
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            gone = True
        if gone:
            self._position.reset()
        self._checked = True

    def _deliver(self, events: Sequence[Event]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._handle(events[0]["event"], events)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            LOG.warning("MLflow refuses a %s of %s: %s", events[0]["event"], events[0].get("run"), redact(str(error)))

    def _handle(self, kind: str, events: Sequence[Event]) -> None:
        event = events[0]
        match kind:
            case "open":
                self._position.experiment = self._experiment(event["experiment"])
            case "begin":
                self._begin(event)
            case "metric":
                self._metrics(events)
            case "artifact":
                self._artifact(event)
            case "dataset":
                self._dataset(event)
            case "finish":
                self._client.set_terminated(self._run(event["run"]), event["status"], end_time=event["time"])
            case _:
                LOG.warning("the journal holds an event of unknown kind %r", kind)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        # Without a server the default would be ./mlruns, wherever the run was started.
        folder = _sqlite_folder(self._position.uri)
        location = (folder / "mlflow-artifacts").as_uri() if folder else None
        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                # Another run may have made it since.
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise error
        return str(found.experiment_id)

    def _begin(self, event: Event) -> None:
        from mlflow.entities import Param

        run_id = self._find(event["run"]) or self._create(event)
        self._position.runs[event["run"]] = run_id
        self._client.update_run(run_id, status="RUNNING")
        params = [Param(_name(key), value) for key, value in event["params"].items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])

    def _create(self, event: Event) -> str:
        tags = {_name(key): str(value) for key, value in event["tags"].items()} | {RUN_KEY_TAG: _digest(event["run"])}
        if event["parent"] is not None:
            tags["mlflow.parentRunId"] = self._run(event["parent"])
        run = self._client.create_run(self._position.experiment, event["time"], tags, event["name"])
        return str(run.info.run_id)

    def _find(self, run_key: str) -> str | None:
        if run_key in self._position.runs:
            return self._position.runs[run_key]
        same = f"tags.`{RUN_KEY_TAG}` = '{_digest(run_key)}'"
        found = self._client.search_runs([self._position.experiment], same, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _run(self, run_key: str) -> str:
        """The id of a run that was begun."""
        from mlflow.exceptions import MlflowException

        run_id = self._find(run_key)
        if run_id is None:
            raise MlflowException(f"run {run_key} was never begun", error_code=_does_not_exist())
        return run_id

    def _metrics(self, events: Sequence[Event]) -> None:
        from mlflow.entities import Metric

        by_run: dict[str, list[Metric]] = {}
        for event in events:
            point = Metric(_name(event["name"]), float(event["value"]), event["time"], event["step"])
            by_run.setdefault(event["run"], []).append(point)
        for run_key, metrics in by_run.items():
            self._client.log_batch(self._run(run_key), metrics=metrics)

    def _artifact(self, event: Event) -> None:
        path, run_id = Path(event["path"]), self._run(event["run"])
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), event["folder"] or None)
        elif path.exists():
            self._client.log_artifact(run_id, str(path), event["folder"] or None)
        else:
            LOG.warning("%s is gone and cannot be stored in MLflow", path)

    def _dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset(event["name"][:500], event["digest"][:MAX_DIGEST], "local", event["source"])
        self._client.log_inputs(self._run(event["run"]), [DatasetInput(data)])


def batches(events: Iterable[tuple[Event, int]]) -> Iterator[tuple[list[Event], int]]:
    """Events that travel together, with the offset behind them: up to MAX_METRICS metrics, anything else alone."""
    waiting: list[Event] = []
    end = 0
    for event, offset in events:
        if waiting and (event["event"] != "metric" or len(waiting) == MAX_METRICS):
            yield waiting, end
            waiting = []
        if event["event"] == "metric":
            waiting.append(event)
        else:
            yield [event], offset
        end = offset
    if waiting:
        yield waiting, end


def _does_not_exist() -> int:
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    return int(RESOURCE_DOES_NOT_EXIST)


def _name(text: str) -> str:
    """A name that MLflow accepts for a parameter, tag or metric: at most 250 of these characters, no odd path."""
    clean = re.sub(r"[^\w\-. :/]", "_", text)
    return "/".join(part for part in clean.split("/") if part.strip("."))[:250] or "_"


def _digest(run_key: str) -> str:
    # A run's key may contain quotes, which the filter of a search does not allow.
    return hashlib.blake2b(run_key.encode(), digest_size=16).hexdigest()


def _sqlite_folder(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else None
