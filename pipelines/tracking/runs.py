"""What of a run goes to MLflow: a run per configuration, a child per task, one parent where there are many."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from lcia.addresses import is_url
from lcia.config.run import RunConfig
from lcia.metrics.matrix import metrics
from lcia.protocols import Progress
from lcia.report.run_folder import Session, write
from lcia.run import Outcome, Prepared, keys_of, steps_of
from lcia.stage import TrainStage, digest
from lcia.store.folders import Store
from lcia.store.scratch import occupied
from lcia.store.transfer import open_storage
from lcia.store.trouble import named_when_full, patiently
from pipelines.launch import LaunchConfig
from pipelines.tracking.server import Status, Tracker, default_uri
from pipelines.tracking.surroundings import load_of_machine, source_tags

JOURNAL = "tracking.jsonl"
KEYS = "keys.json"
"""The results that a run needs, so that `lcia clean` knows, whether or not the run has come to its end."""
LOAD_EVERY_S = 10.0
"""Pause between two looks at how busy the machine is."""


def run_key(config: RunConfig) -> str:
    """The same for the same configuration, so that a run started again finds its MLflow run."""
    return digest(config.model_dump(mode="json", by_alias=True))


@dataclass(frozen=True)
class Child:
    """A training stage as one run has it: its MLflow run, and what tells it from the others."""

    key: str
    parent: str
    name: str
    stage: TrainStage
    facts: Mapping[str, object]

    @property
    def params(self) -> dict[str, object]:
        """What the stage is, and what the run makes of it."""
        record = self.stage.record
        return {**self.facts, "stage": self.stage.key, "parent_stage": self.stage.parent,
                **{name: record[name] for name in ("strategy", "training", "lora", "assistant")}}  # fmt: skip

    @property
    def tags(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.facts.items()}


def children(prepared: Prepared) -> list[Child]:
    """The training stages of a run in the order of its tasks."""
    config, plan, parent = prepared.config, prepared.plan, run_key(prepared.config)
    groups = {key: group for row in plan.groups for group, key in row.items()}
    found = []
    for number, stage in enumerate(plan.trains):
        facts = {
            "run": config.name,
            "task": ", ".join(stage.tasks),
            "position": number + 1,
            "order": ", ".join(plan.order),
            "seed": stage.seed,
            "group": f"g{groups[stage.key]}" if stage.key in groups else "",
            "rows": sum(prepared.counts[f"{task}/train"].rows for task in stage.tasks),
        }
        name = f"{config.name}: {number + 1}. {facts['task'] if len(stage.tasks) == 1 else stage.label}"
        found.append(Child(f"{parent}/{number}", parent, name, stage, facts))
    return found


class RunTracker:
    """Follows a session. `folder` is where results are written; without a tracker they are written all the same."""

    def __init__(self, tracker: Tracker | None, folder: Path, name: str) -> None:
        self._tracker, self._folder, self._name = tracker, folder, name
        self._children: dict[str, list[Child]] = {}
        self._open: dict[str, None] = {}
        self._seen: dict[str, dict[int, int]] = {}
        """When (milliseconds) the driver saw which step of a stage, by the stage's key."""
        self._told: set[str] = set()
        self._store: Store | None = None
        self._main, self._source = name, source_tags() if tracker else {}
        self._next_load = 0.0

    def begin(self, prepared: Sequence[Prepared], store: Store) -> None:
        """Opens the runs: a parent where there are many, and one per configuration; their data sets are named."""
        self._store = store
        self._write_keys(sorted(keys_of(prepared)))
        if self._tracker is None:
            return
        parent = self._name if len(prepared) > 1 else None
        self._main = parent or run_key(prepared[0].config)
        if parent:
            self._start(parent, parent, {}, {"kind": "study"})
        for one in prepared:
            self._begin_run(one, parent)

    def _write_keys(self, keys: Sequence[str]) -> None:
        """Atomic: half a list would tell `lcia clean` that the rest is not needed."""
        scratch = self._folder / f"{KEYS}.tmp"
        with named_when_full(str(self._folder)):
            scratch.write_text(json.dumps(keys, indent=0))
            scratch.replace(self._folder / KEYS)

    def _begin_run(self, prepared: Prepared, parent: str | None) -> None:
        assert self._tracker is not None
        config, key = prepared.config, run_key(prepared.config)
        tags = {"strategy": config.strategy.kind, "order": ", ".join(prepared.plan.order), "seed": str(config.seed)}
        self._start(key, config.name, config.model_dump(mode="json", by_alias=True), tags, parent)
        for (task, split), shards in prepared.catalog.shards.items():
            self._tracker.dataset(key, f"{task}/{split}", shards, config.benchmark.kind)
        for child in children(prepared):
            self._children.setdefault(child.stage.key, []).append(child)

    def _start(self, key: str, name: str, params: Mapping[str, object], tags: Mapping[str, str],
               parent: str | None = None) -> None:  # fmt: skip
        assert self._tracker is not None
        if key not in self._open:
            self._open[key] = None
            self._tracker.begin(key, name, params, {**tags, **self._source}, parent)

    def _end(self, key: str, status: Status = "FINISHED") -> None:
        assert self._tracker is not None
        if key in self._open:
            del self._open[key]
            self._tracker.finish(key, status)

    def watch(self, snapshot: Mapping[str, Progress]) -> None:
        """Opens the run of a training stage when it starts, sends its figures as they come, and ends it with it."""
        if self._tracker is None:
            return
        for key, stage in snapshot.items():
            if stage.kind != "train":
                continue
            if stage.done:
                self._curves(key)
            else:
                self._point(key, stage)
        self._load()

    def _point(self, key: str, stage: Progress) -> None:
        """The newest figures of a stage under way. What falls between two looks comes with the whole curves."""
        assert self._tracker is not None
        self._seen.setdefault(key, {}).setdefault(stage.step, round(time.time() * 1000))
        for child in self._children.get(key, []):
            self._start(child.key, child.name, child.params, child.tags, child.parent)
            for name, value in stage.values.items():
                if name != "batch_size":
                    self._tracker.metric(child.key, name, value, stage.step)

    def _load(self) -> None:
        assert self._tracker is not None
        if time.monotonic() < self._next_load or self._main not in self._open:
            return
        self._next_load = time.monotonic() + LOAD_EVERY_S
        for name, value in load_of_machine().items():
            self._tracker.metric(self._main, name, value, self._tracker.next_step(self._main, name))

    def _curves(self, key: str) -> None:
        """All of a stage that is done: its curves, how long it took, its adapter."""
        if self._tracker is None or self._store is None or key in self._told:
            return
        self._told.add(key)
        for child in self._children.get(key, []):
            self._start(child.key, child.name, child.params, child.tags, child.parent)
            lines, result = steps_of(child.stage, self._store)
            for line in lines:
                for name, value in line.items():
                    if name != "step":
                        step = int(line["step"])
                        self._tracker.metric(child.key, name, value, step, self._seen_at(key, step))
            # The seconds are those since the last interruption.
            steps = result["steps"] - max(result.get("resumed_at", [0]))
            samples = steps * child.stage.training.batch_size
            self._tracker.metric(child.key, "train_seconds", result["seconds"], result["steps"])
            self._tracker.metric(child.key, "train_samples_per_second", samples / result["seconds"], result["steps"])
            for file in ("adapter_model.safetensors", "adapter_config.json"):
                self._tracker.artifact(child.key, self._store.fetch(key) / file, "adapter")
            self._end(child.key)

    def _seen_at(self, key: str, step: int) -> int | None:
        """When a step, or the first one after it that the driver saw, was there; None: it saw none."""
        return min((at for seen, at in self._seen.get(key, {}).items() if seen >= step), default=None)

    def finish(self, outcomes: Sequence[Outcome], session: Session, store: Store) -> Path:
        """Writes the run folder, sends accuracies, metrics and the report; returns the report's path."""
        for key in self._children:
            self._curves(key)
        with named_when_full(str(self._folder)):
            page = write(outcomes, session, store, self._folder)
        if self._tracker is not None:
            for outcome in outcomes:
                self._accuracies(self._tracker, outcome)
            self._tracker.artifact(self._main, page)
            self._tracker.artifact(self._main, self._folder / "summary.json")
            for outcome in outcomes:
                self._end(run_key(outcome.config))
            self._end(self._main)
        return page

    def abort(self, status: Status) -> None:
        """Ends every run that is still open."""
        for key in reversed(list(self._open)):
            self._end(key, status)

    def _accuracies(self, tracker: Tracker, outcome: Outcome) -> None:
        key = run_key(outcome.config)
        for row, (_, values) in enumerate(zip(outcome.matrix.tasks, outcome.matrix.scores, strict=True)):
            for task, value in zip(outcome.matrix.tasks, values, strict=True):
                if value == value:
                    tracker.metric(key, f"acc/{task}", float(value), row + 1)
        for name, metric in metrics(outcome.matrix).items():
            if metric.value is not None:
                tracker.metric(key, name, metric.value, len(outcome.matrix.tasks))


@contextlib.contextmanager
def tracked(launch: LaunchConfig, name: str) -> Iterator[RunTracker]:
    """A tracker for one session; with storage behind a URL the run folder is uploaded when the block ends.

    Where the block ends by an error or an interruption, the runs that are open end as failed or killed.
    """
    # Before anything is written: it names a place that cannot be used.
    patiently(launch.root, open_storage, launch.root)
    remote = is_url(launch.root)
    folder = Path(tempfile.mkdtemp(prefix="lcia-run-")) if remote else Path(launch.root) / name
    folder.mkdir(parents=True, exist_ok=True)
    tracker = None
    if launch.tracking.enabled:
        uri = launch.tracking_uri or default_uri(folder if remote else Path(launch.root))
        tracker = Tracker(folder / JOURNAL, uri, launch.tracking.experiment)
    follower = RunTracker(tracker, folder, name)
    try:
        with occupied(folder):
            yield follower
    except Exception:
        follower.abort("FAILED")
        raise
    except BaseException:
        follower.abort("KILLED")
        raise
    finally:
        if tracker is not None:
            tracker.close()
        if remote:
            patiently(launch.root, _upload, folder, f"{launch.root}/{name}")
            shutil.rmtree(folder, ignore_errors=True)


def _upload(folder: Path, url: str) -> None:
    fs, base = pafs.FileSystem.from_uri(url)
    pafs.copy_files(str(folder), base, destination_filesystem=fs)
