"""One MLflow, written to so that doing anything again changes nothing.

MLflow itself says how far the mirror is: a run is found by the tag of its key, and the steps of a curve that it has are
not sent again. So there is nothing to remember between two starts of a command.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lcia.config.load import flat
from pipelines.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOG = logging.getLogger(__name__)

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]

RUN_KEY_TAG = "lcia.run_key"
MAX_PARAMS, MAX_METRICS, MAX_DIGEST, MAX_VALUE = 100, 1000, 36, 6000
"""MLflow's limits: parameters and metrics of a batch, characters of a dataset's digest and of a parameter."""

REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"})
"""Error codes that asking again does not change."""


@dataclass(frozen=True)
class MirrorRun:
    """A run as MLflow shows it. `key` names it here and is the same after a restart; `params` may be nested."""

    key: str
    name: str
    params: Mapping[str, object]
    tags: Mapping[str, str]
    parent: str | None = None


@dataclass(frozen=True)
class Point:
    """One point of a curve, measured `at` (milliseconds). `step` None: the one after the newest."""

    name: str
    value: float
    step: int | None
    at: int


@dataclass
class _Opened:
    """A run that this session has opened: the metrics that MLflow had of it before, and the steps that it has now."""

    id: str
    before: frozenset[str] = frozenset()
    steps: dict[str, set[int]] = field(default_factory=dict)


class Mirror:
    """One experiment of one MLflow. Methods raise what mlflow raises; each may be called again after that."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri, self._name = uri, experiment
        self._opened: dict[str, _Opened] = {}

    def has_all_of(self, key: str) -> bool:
        """Whether an earlier session has ended this run well, so that nothing of it is missing."""
        return key not in self._opened and (run := self._find(key)) is not None and run.info.status == "FINISHED"

    def begin(self, run: MirrorRun, at: int) -> None:
        """Opens a run, or opens it again; parameters that MLflow has of it stay as they are."""
        if run.key in self._opened:
            return
        found = self._find(run.key)
        opened = _Opened(found.info.run_id, frozenset(found.data.metrics)) if found else _Opened(self._create(run, at))
        self._client.update_run(opened.id, status="RUNNING")
        try:
            self._parameters(opened.id, run)
        except Exception as error:
            if is_away(error):
                raise
            LOG.warning("MLflow refuses parameters of %s: %s", run.name, redact(str(error)))
        self._opened[run.key] = opened

    def _parameters(self, run_id: str, run: MirrorRun) -> None:
        from mlflow.entities import Param

        params = [Param(_name(redact(key)), _short(value)) for key, value in flat(run.params)]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])

    def points(self, key: str, points: Iterable[Point]) -> None:
        """Sends the points whose steps MLflow does not have; what was sent before stays as it is."""
        from mlflow.entities import Metric

        run, new = self._opened[key], []
        for point in points:
            known = self._known_steps(run, name := _name(point.name))
            step = 1 + max(known, default=-1) if point.step is None else point.step
            if step not in known:
                new.append(Metric(name, point.value, point.at, step))
        for start in range(0, len(new), MAX_METRICS):
            batch = new[start : start + MAX_METRICS]
            self._client.log_batch(run.id, metrics=batch)
            for metric in batch:
                run.steps[metric.key].add(metric.step)

    def file(self, key: str, path: Path, folder: str | None = None) -> None:
        """Stores a file, under `folder`."""
        self._client.log_artifact(self._opened[key].id, str(path), folder)

    def dataset(self, key: str, name: str, digest: str, source: str) -> None:
        """Names data that the run read; of `digest` MLflow keeps 36 characters."""
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset(redact(name)[:500], digest[:MAX_DIGEST], "local", redact(source))
        self._client.log_inputs(self._opened[key].id, [DatasetInput(data)])

    def end(self, key: str, status: Status, at: int) -> None:
        self._client.set_terminated(self._opened[key].id, status, end_time=at)

    @cached_property
    def _client(self) -> MlflowClient:
        # The thread tries again by itself; MLflow's own retries would hold it for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # It prints where a run can be seen, with the password that the address may hold.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        from mlflow import MlflowClient

        if folder := _sqlite_folder(self._uri):
            folder.mkdir(parents=True, exist_ok=True)
            for chatty in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(chatty).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self._uri)

    @cached_property
    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        # Without a server the default would be ./mlruns, wherever the run was started.
        folder = _sqlite_folder(self._uri)
        location = (folder / "mlflow-artifacts").as_uri() if folder else None
        if (found := self._client.get_experiment_by_name(self._name)) is None:
            try:
                return str(self._client.create_experiment(self._name, artifact_location=location))
            except MlflowException as error:
                # Another run may have made it since.
                if (found := self._client.get_experiment_by_name(self._name)) is None:
                    raise error
        return str(found.experiment_id)

    def _find(self, key: str) -> Run | None:
        same = f"tags.`{RUN_KEY_TAG}` = '{_digest(key)}'"
        found = self._client.search_runs([self._experiment], same, max_results=1)
        return found[0] if found else None

    def _create(self, run: MirrorRun, at: int) -> str:
        tags = {_name(redact(key)): _short(value) for key, value in run.tags.items()} | {RUN_KEY_TAG: _digest(run.key)}
        if run.parent is not None:
            tags["mlflow.parentRunId"] = self._opened[run.parent].id
        return str(self._client.create_run(self._experiment, at, tags, redact(run.name)).info.run_id)

    def _known_steps(self, run: _Opened, name: str) -> set[int]:
        if name not in run.steps:
            earlier = self._client.get_metric_history(run.id, name) if name in run.before else []
            run.steps[name] = {point.step for point in earlier}
        return run.steps[name]


def default_uri(folder: Path) -> str:
    """A SQLite file in `folder`."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def is_away(error: Exception) -> bool:
    """Whether a server, its storage or its database cannot serve now, so that asking again may help."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    return isinstance(error, SQLAlchemyError | OSError) and not isinstance(error, FileNotFoundError)


def _short(value: object) -> str:
    text = redact(str(value))
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def _name(text: str) -> str:
    """A name that MLflow accepts for a parameter, tag or metric: at most 250 of these characters, no odd path."""
    clean = re.sub(r"[^\w\-. :/]", "_", text)
    return "/".join(part for part in clean.split("/") if part.strip("."))[:250] or "_"


def _digest(run_key: str) -> str:
    # A run's key may contain quotes, which the filter of a search does not allow.
    return hashlib.blake2b(run_key.encode(), digest_size=16).hexdigest()


def _sqlite_folder(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else None
