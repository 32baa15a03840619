"""Which runs MLflow shows of a session: one per configuration, a child per task, one parent where there are many.

What they hold at the end comes from files alone, the steps and results in the store and the run folder's summary. So
the same command, run again, fills in what MLflow has missed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lcia.addresses import is_url
from lcia.config.run import RunConfig
from lcia.metrics import companion
from lcia.metrics.matrix import from_json
from lcia.protocols import Progress
from lcia.report.page import PAGE
from lcia.report.run_folder import SUMMARY
from lcia.run import Prepared
from lcia.stage import TrainStage, digest
from lcia.store.folders import Store
from lcia.store.lease import Lease
from lcia.training.result import TrainResult
from pipelines.launch import LaunchConfig
from pipelines.tracking.mirror import Mirror, MirrorRun, Point, Status, default_uri
from pipelines.tracking.sender import Put, Sender
from pipelines.tracking.surroundings import load_of_machine, source_tags

LOAD_EVERY_S = 10.0
"""Pause between two looks at how busy the machine is."""
MOST_RUNS = 100
"""Of a study of more, MLflow gets the study alone: its runs would take longer to send than to run."""


@contextlib.contextmanager
def tracked(launch: LaunchConfig, folder: Path, name: str, lease: Lease | None = None) -> Iterator[RunTracker]:
    """A tracker for the session of this name, whose run folder is `folder`.

    Where the block ends by an error or an interruption, the runs that are open end as failed or killed. Without the
    `lease` they are another attempt's, and stay as they are.
    """
    if not launch.tracking.enabled:
        yield RunTracker(lambda what, send: None, name)
        return
    home = folder if is_url(launch.root) else Path(launch.root)
    mirror = Mirror(launch.tracking_uri or default_uri(home), launch.tracking.experiment)
    sender = Sender(mirror, lambda: lease is None or lease.held)
    tracker = RunTracker(sender.put, name)
    try:
        yield tracker
    except Exception:
        tracker.end("FAILED")
        raise
    except BaseException:
        tracker.end("KILLED")
        raise
    finally:
        sender.close()


def run_key(config: RunConfig) -> str:
    """The same for the same configuration, so that a run started again finds its MLflow run."""
    return digest(config.model_dump(mode="json", by_alias=True))


@dataclass(frozen=True)
class Child:
    """A training stage as one run has it, and its MLflow run."""

    stage: TrainStage
    run: MirrorRun


def children(prepared: Prepared, source: Mapping[str, str]) -> list[Child]:
    """The training stages of a run in the order of its tasks; `source` are tags that all runs have."""
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
        settings = {name: stage.record[name] for name in ("strategy", "training", "lora", "assistant")}
        params = {**facts, "stage": stage.key, "parent_stage": stage.parent, **settings}
        tags = {**{name: str(value) for name, value in facts.items()}, **source}
        found.append(Child(stage, MirrorRun(f"{parent}/{number}", name, params, tags, parent)))
    return found


class RunTracker:
    """Follows a session from its begin to its end; `put` takes what MLflow is to be sent."""

    def __init__(self, put: Put, name: str) -> None:
        self._put, self._name, self._main = put, name, name
        self._source = source_tags()
        self._children: dict[str, list[Child]] = {}
        """By the key of their stage."""
        self._open: dict[str, None] = {}
        self._seen: dict[str, dict[int, int]] = {}
        """When (milliseconds) the driver saw which step of a stage, by the stage's key."""
        self._keys: dict[str, str] = {}
        """The key of each run, by the run's name."""
        self._next_load = 0.0

    def begin(self, prepared: Sequence[Prepared], store: Store) -> None:
        """Opens the runs: a parent where there are many, and one per configuration; their data sets are named."""
        self._store = store
        sent = prepared if len(prepared) <= MOST_RUNS else ()
        self._keys = {one.config.name: run_key(one.config) for one in sent}
        parent = self._name if len(prepared) > 1 else None
        self._main = parent or run_key(prepared[0].config)
        if parent:
            self._start(MirrorRun(parent, parent, {}, {"kind": "study"} | self._source))
        for one in sent:
            self._begin_run(one, parent)

    def _begin_run(self, prepared: Prepared, parent: str | None) -> None:
        config, key = prepared.config, run_key(prepared.config)
        tags = {"strategy": config.strategy.kind, "order": ", ".join(prepared.plan.order), "seed": str(config.seed)}
        tags |= {"uses_old_data": "true"} if config.uses_old_data else {}
        values = config.model_dump(mode="json", by_alias=True)
        self._start(MirrorRun(key, config.name, values, tags | self._source, parent))
        self._put(f"the data of {config.name}", partial(send_data, key=key, prepared=prepared))
        for child in children(prepared, self._source):
            self._children.setdefault(child.stage.key, []).append(child)

    def _start(self, run: MirrorRun) -> None:
        if run.key not in self._open:
            self._open[run.key] = None
            at = _now()
            self._put(run.name, lambda mirror: mirror.begin(run, at))

    def _points(self, what: str, key: str, points: Sequence[Point]) -> None:
        self._put(what, lambda mirror: mirror.points(key, points))

    def watch(self, snapshot: Mapping[str, Progress]) -> None:
        """Opens the run of a training stage when it starts, sends its figures as they come, and ends it with it."""
        for key, stage in snapshot.items():
            if stage.kind == "train" and stage.done:
                self._finish_stage(key)
            elif stage.kind == "train":
                self._follow(key, stage.step, stage.values)
        self._look_at_machine()

    def _follow(self, key: str, step: int, values: Mapping[str, float]) -> None:
        """The newest figures of a stage under way. What falls between two looks comes with the whole curves."""
        points: list[Point] = []
        if values and step not in (seen := self._seen.setdefault(key, {})):
            seen[step] = _now()
            points = [Point(name, value, step, seen[step]) for name, value in values.items() if name != "batch_size"]
        for child in self._children.get(key, []):
            self._start(child.run)
            if points:
                self._points(f"figures of {child.run.name}", child.run.key, points)

    def _look_at_machine(self) -> None:
        if time.monotonic() < self._next_load or self._main not in self._open:
            return
        self._next_load = time.monotonic() + LOAD_EVERY_S
        load = [Point(name, value, None, _now()) for name, value in load_of_machine().items()]
        self._points("the load of the machine", self._main, load)

    def _finish_stage(self, key: str) -> None:
        for child in self._children.pop(key, []):
            self._open.pop(child.run.key, None)
            seen = self._seen.get(key, {})
            self._put(child.run.name, partial(send_stage, child=child, store=self._store, seen=seen, at=_now()))

    def finish(self, folder: Path) -> None:
        """Sends what no stage has sent yet, and what lies in the run folder; ends all runs."""
        for key in list(self._children):
            self._finish_stage(key)
        self._put("the results", partial(send_results, folder=folder, keys=self._keys, main=self._main, at=_now()))
        self.end("FINISHED")

    def end(self, status: Status) -> None:
        """Ends every run that is still open, children first."""
        for key in reversed(self._open):
            self._end(key, status)
        self._open.clear()

    def _end(self, key: str, status: Status) -> None:
        at = _now()
        self._put("the end of a run", lambda mirror: mirror.end(key, status, at))


# What is sent -----------------------------------------------------------------------------------------------------


def send_data(mirror: Mirror, key: str, prepared: Prepared) -> None:
    """Names the data sets of a run by their digests."""
    for (task, split), shards in prepared.catalog.shards.items():
        mirror.dataset(key, f"{task}/{split}", shards, prepared.config.benchmark.kind)


def send_stage(mirror: Mirror, child: Child, store: Store, seen: Mapping[int, int], at: int) -> None:
    """All of a finished stage, unless MLflow has it: its curves, how long it took, its adapter.

    `seen`: when the driver saw which step; of others it is only known that they were made before `at`.
    """
    key = child.run.key
    if mirror.has_all_of(key):
        return
    training = TrainResult.read(store.fetch(child.stage.key))
    mirror.begin(child.run, at)
    mirror.points(key, _curves(training, seen, at))
    last, samples = int(training.result["steps"]), training.steps_timed * child.stage.training.batch_size
    speed = Point("train_samples_per_second", samples / training.seconds, last, at)
    mirror.points(key, [Point("train_seconds", training.seconds, last, at), speed])
    if training.kl_from_start is not None:
        mirror.points(key, [Point("kl_from_start", training.kl_from_start, last, at)])
    for file in training.adapter:
        mirror.file(key, file, "adapter")
    mirror.end(key, "FINISHED", at)


def _curves(training: TrainResult, seen: Mapping[int, int], at: int) -> Iterator[Point]:
    """A step that the driver did not see is as old as the first one after it that it saw."""
    for line in training.steps:
        step = int(line["step"])
        when = min((moment for other, moment in seen.items() if other >= step), default=at)
        yield from (Point(name, value, step, when) for name, value in line.items() if name != "step")


def send_results(mirror: Mirror, folder: Path, keys: Mapping[str, str], main: str, at: int) -> None:
    """The accuracies and metrics of each finished run in `keys` from the summary in the run folder; the summary and the
    page of all."""
    runs = json.loads((folder / SUMMARY).read_text())["runs"]
    for name, key in keys.items():
        if name in runs:
            mirror.points(key, [*_accuracies(runs[name], at), *_general(runs[name], at), *_signs(runs[name], at)])
    for file in (PAGE, SUMMARY):
        mirror.file(main, folder / file)


def _accuracies(run: Mapping[str, Any], at: int) -> Iterator[Point]:
    matrix = from_json(run["matrix"])
    for row, (_, values) in enumerate(zip(matrix.tasks, matrix.scores, strict=True), start=1):
        known = ((task, float(value)) for task, value in zip(matrix.tasks, values, strict=True) if value == value)
        yield from (Point(f"acc/{task}", value, row, at) for task, value in known)
    for name, metric in run["metrics"].items():
        if metric["value"] is not None:
            yield Point(name, metric["value"], len(matrix.tasks), at)


def _general(run: Mapping[str, Any], at: int) -> Iterator[Point]:
    """What was looked at beside the stream, by the number of tasks learnt by then."""
    if "general" in run:
        for name, learnt, value in companion.from_json(run["general"]).points():
            yield Point(f"general/{name}", value, learnt, at)


def _signs(run: Mapping[str, Any], at: int) -> Iterator[Point]:
    """What was watched of each training, by the number of tasks learnt by then; and how many warnings there are."""
    for number, stage in enumerate(run["signs"]["stages"], start=1):
        known = ((name, stage[name]) for name in ("fell", "gain", "at_bound", "kl") if stage[name] is not None)
        yield from (Point(f"watch/{name}", value, number, at) for name, value in known)
    yield Point("watch/warnings", float(len(run["warnings"])), len(run["signs"]["stages"]), at)


def _now() -> int:
    """Milliseconds, as MLflow counts time."""
    return round(time.time() * 1000)
