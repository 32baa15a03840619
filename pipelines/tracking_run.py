"""What of a run goes to MLflow: a run per configuration, a child per task, one parent where there are many."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from lcia.config import RunConfig
from lcia.matrix import metrics
from lcia.results import Session, write
from lcia.run import Outcome, Prepared, steps_of
from lcia.stage import TrainStage, digest
from lcia.store import Store
from pipelines.launch import LaunchConfig
from pipelines.tracking import Tracker, default_uri

JOURNAL = "tracking.jsonl"


def run_key(config: RunConfig) -> str:
    """The same for the same configuration, so that a run started again finds its MLflow run."""
    return digest(config.model_dump(mode="json", by_alias=True))


class RunTracker:
    """Follows a session. `folder` is where results are written; without a tracker they are written all the same."""

    def __init__(self, tracker: Tracker | None, folder: Path, name: str) -> None:
        self._tracker, self._folder, self._name = tracker, folder, name
        self._trains: dict[str, list[tuple[str, TrainStage]]] = {}
        self._told: set[str] = set()
        self._store: Store | None = None

    def begin(self, prepared: Sequence[Prepared], store: Store) -> None:
        """Opens the runs: parent, one per configuration, one per task; their data sets are named."""
        self._store = store
        if self._tracker is None:
            return
        parent = self._name if len(prepared) > 1 else None
        if parent:
            self._tracker.begin(parent, parent, {}, {"kind": "study"})
        for one in prepared:
            self._begin_run(one, parent)

    def _begin_run(self, prepared: Prepared, parent: str | None) -> None:
        assert self._tracker is not None
        config, key = prepared.config, run_key(prepared.config)
        tags = {"strategy": config.strategy.kind, "order": ", ".join(prepared.plan.order), "seed": str(config.seed)}
        self._tracker.begin(key, config.name, config.model_dump(mode="json", by_alias=True), tags, parent)
        for (task, split), shards in prepared.catalog.shards.items():
            self._tracker.dataset(key, f"{task}/{split}", shards, config.benchmark.kind)
        for number, stage in enumerate(prepared.plan.trains):
            child = f"{key}/{number}"
            self._tracker.begin(
                child, f"{number + 1}. {stage.tasks[0]}", {"stage": stage.key}, {"task": stage.tasks[0]}, key
            )
            self._trains.setdefault(stage.key, []).append((child, stage))

    def watch(self, snapshot: dict[str, dict[str, Any]]) -> None:
        """Sends the curves of every training stage that has ended since the last call."""
        for key, stage in snapshot.items():
            if stage["done"] and stage["kind"] == "train":
                self._curves(key)

    def _curves(self, key: str) -> None:
        if self._tracker is None or self._store is None or key in self._told:
            return
        self._told.add(key)
        for child, stage in self._trains.get(key, []):
            lines, _ = steps_of(stage, self._store)
            for line in lines:
                for name, value in line.items():
                    if name != "step":
                        self._tracker.metric(child, name, value, int(line["step"]))
            self._tracker.artifact(child, self._store.fetch(key) / "adapter_model.safetensors", "adapter")
            self._tracker.artifact(child, self._store.fetch(key) / "adapter_config.json", "adapter")
            self._tracker.finish(child)

    def finish(self, outcomes: Sequence[Outcome], session: Session, store: Store) -> Path:
        """Writes the run folder, sends accuracies, metrics and the report; returns the report's path."""
        for key in self._trains:
            self._curves(key)
        page = write(outcomes, session, store, self._folder)
        if self._tracker is not None:
            for outcome in outcomes:
                self._accuracies(self._tracker, outcome)
            parent = self._name if len(outcomes) > 1 else run_key(outcomes[0].config)
            self._tracker.artifact(parent, page)
            self._tracker.artifact(parent, self._folder / "summary.json")
            self._tracker.finish(parent)
        return page

    def _accuracies(self, tracker: Tracker, outcome: Outcome) -> None:
        key = run_key(outcome.config)
        for row, (_, values) in enumerate(zip(outcome.matrix.tasks, outcome.matrix.scores, strict=True)):
            for task, value in zip(outcome.matrix.tasks, values, strict=True):
                if value == value:
                    tracker.metric(key, f"acc/{task}", float(value), row + 1)
        for name, metric in metrics(outcome.matrix).items():
            if metric.value is not None:
                tracker.metric(key, name, metric.value, len(outcome.matrix.tasks))
        tracker.finish(key)


@contextlib.contextmanager
def tracked(launch: LaunchConfig, name: str) -> Iterator[RunTracker]:
    """A tracker for one session; with storage behind a URL the run folder is uploaded when the block ends."""
    remote = "://" in launch.root
    folder = Path(tempfile.mkdtemp(prefix="lcia-run-")) if remote else Path(launch.root) / name
    folder.mkdir(parents=True, exist_ok=True)
    tracker = None
    if launch.tracking.enabled:
        uri = launch.tracking_uri or default_uri(folder if remote else Path(launch.root))
        tracker = Tracker(folder / JOURNAL, uri, launch.tracking.experiment)
    try:
        yield RunTracker(tracker, folder, name)
    finally:
        if tracker is not None:
            tracker.close()
        if remote:
            fs, base = pafs.FileSystem.from_uri(f"{launch.root}/{name}")
            pafs.copy_files(str(folder), base, destination_filesystem=fs)
            shutil.rmtree(folder, ignore_errors=True)
