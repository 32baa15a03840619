"""Runs stages on Ray: data and embeddings through Ray Data, training and answers by servers that pull from a broker.

What is small is done in this process, and Ray starts when a stage is missing: a run whose results are all in the store
takes seconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

from lcia.data.shards import count_rows, write_source
from lcia.data.sources import Reading
from lcia.protocols import Progress
from lcia.stage import Asked, EmbedStage, EvaluateStage, ShardStage, TrainStage
from lcia.store.folders import Store
from pipelines.exits import StageFailedError
from pipelines.launch import LaunchConfig
from pipelines.stages.broker import Broker, BrokerHandle
from pipelines.stages.work import BUILDS_ON_IT, NotYet

DATA_STAGES_AT_A_TIME = 4
SMALL_ROWS = 5000
"""Generated rows that are drawn in this process: sooner than tasks of Ray Data could start."""

Watcher: TypeAlias = Callable[[Mapping[str, Progress]], None]
"""Takes a snapshot: the progress of all stages that were begun, by key."""
Stage: TypeAlias = ShardStage | EmbedStage | TrainStage | Asked
SomeStage = TypeVar("SomeStage", bound=Stage)
DataStage = TypeVar("DataStage", ShardStage, EmbedStage)


class RayExecutor:
    """Executes stages on Ray; several executors (trials of a study) may share one broker.

    `start` starts that broker, if it does not run, and returns it; called when something has to be executed.
    """

    def __init__(self, launch: LaunchConfig, start: Callable[[], BrokerHandle], *watchers: Watcher) -> None:
        self.launch, self.store = launch, Store(launch.store_root)
        self._start, self._watchers = start, watchers
        self._broker: BrokerHandle | None = None
        self._found: list[str] = []
        """Trainings that the store held when they were asked for, and that the broker has not been told of."""
        self._data: dict[str, Progress] = {}
        self._others: dict[str, Progress] = {}
        self._news = 0
        """The number of the broker's news that were heard last."""

    def connect(self) -> BrokerHandle:
        """The broker; it knows all trainings that the store held when they were asked for."""
        self._broker = self._broker or self._start()
        if self._found:
            self._broker.ask(Broker.add_found, self._found)
            self._found = []
        return self._broker

    def shard(self, stages: Sequence[ShardStage]) -> None:
        self._side_by_side(self.missing(stages), _is_small, self._publish_shards)

    def _publish_shards(self, stage: ShardStage) -> None:
        reading = Reading.of(stage.source, stage.instruction, stage.max_samples, stage.max_image_pixels, stage.stretch)
        if _is_small(stage):
            with self.store.publish(stage.key, stage.record) as folder:
                write_source(reading, folder)
        else:
            from pipelines.stages.shard import shard_on_ray

            with self.store.publish_shared(stage.key, stage.record) as shared:
                shard_on_ray(reading, shared)

    def embed(self, stages: Sequence[EmbedStage]) -> None:
        self._side_by_side(self.missing(stages), _keeps_texts, self._publish_features)

    def _publish_features(self, stage: EmbedStage) -> None:
        with self.store.publish(stage.key, stage.record) as folder:
            self._write_features(stage, folder)

    def _write_features(self, stage: EmbedStage, folder: Path) -> None:
        shards = self.store.files(stage.shards)
        if _keeps_texts(stage):
            from lcia.embedders.embed import embed_shards

            embed_shards(shards, stage.embedder, folder)
        else:
            from pipelines.stages.embed import embed_on_ray

            embed_on_ray(shards, stage.embedder, folder, self.launch.embed_actors, self.launch.gpus_per_actor)

    def _side_by_side(
        self,
        stages: Sequence[DataStage],
        is_written_here: Callable[[DataStage], bool],
        publish: Callable[[DataStage], None],
    ) -> None:
        """Data stages wait for processes to start more than they compute, so several run at a time."""

        def one(stage: DataStage) -> None:
            publish(stage)
            self._data[stage.key] = _begun(stage, done=True)

        if not stages:
            return
        self._data |= {stage.key: _begun(stage, done=False) for stage in stages}
        self._watch()
        with ThreadPoolExecutor(DATA_STAGES_AT_A_TIME) as pool:
            # What needs no Ray is written while Ray starts, which waits for other processes most of the time.
            written = [pool.submit(one, stage) for stage in stages if is_written_here(stage)]
            # Without their data the trainings are missing too: the servers import while it is read.
            self.connect()
            written += [pool.submit(one, stage) for stage in stages if not is_written_here(stage)]
            for done in written:
                done.result()
                self._watch()

    def train_and_evaluate(self, trains: Sequence[TrainStage], evals: Sequence[Asked]) -> None:
        """Hands stages to the broker and waits until each is done or has failed.

        Raises:
            StageFailedError: lists what failed and why; what was finished stays in the store.
        """
        missing_trains, missing_evals = self.missing(trains), self.missing(evals)
        wanted = {stage.key for stage in missing_trains}
        self._found += [stage.key for stage in trains if stage.key not in wanted]
        if not (missing_trains or missing_evals):
            return
        broker = self.connect()
        broker.ask(Broker.add_trainings, missing_trains)
        for stage in missing_evals:
            rows = count_rows(self.store.files(stage.shards)) if isinstance(stage, EvaluateStage) else 1
            broker.ask(Broker.add_evaluation, stage, rows, self.launch.per_device_eval_batch_size)
        self._wait((*missing_trains, *missing_evals))

    def missing(self, stages: Sequence[SomeStage]) -> list[SomeStage]:
        """Those that the store does not hold; what it holds damaged is set aside and so missing."""
        return [s for s in stages if not self.store.usable(s.key, in_ranges=isinstance(s, ShardStage))]

    def trained(self) -> int:
        """Trainings that were done in this session, and not found in the store."""
        return self.connect().ask(Broker.trained) if self._broker else 0

    def _wait(self, stages: Sequence[Stage]) -> None:
        """Waits until each stage is done or has failed; raises StageFailedError, which lists those that failed."""
        broker = self.connect()
        number = broker.ask(Broker.follow, [stage.key for stage in stages])
        while isinstance(errors := broker.ask(Broker.wait, number), NotYet):
            self._watch()
        self._watch()
        if errors:
            raise StageFailedError(list_failures(stages, errors))

    @contextlib.contextmanager
    def watching(self, every: float = 1.0) -> Iterator[None]:
        """Keeps the watchers informed while others, the trials of a search, wait for their stages."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(every):
                self._watch()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._watch()

    def _watch(self) -> None:
        if not self._watchers:
            return
        if self._broker:
            news = self._broker.ask(Broker.news, self._news)
            self._news = news.number
            self._others |= news.changed
            for key in news.gone:
                self._others.pop(key, None)
        snapshot = {**self._data, **self._others}
        for watcher in self._watchers:
            watcher(snapshot)


def _begun(stage: ShardStage | EmbedStage, done: bool) -> Progress:
    """Data stages are run from here, so their progress is known here."""
    return Progress(stage.key, stage.kind, stage.label, int(done), 1, {}, done=done)


def _is_small(stage: ShardStage) -> bool:
    known = stage.source.known_rows
    return known is not None and known <= SMALL_ROWS


def _keeps_texts(stage: EmbedStage) -> bool:
    """The texts are the features: one column is read, which is done before a pool of actors has started."""
    return stage.embedder.feature_kind == "texts"


def list_failures(stages: Sequence[Stage], errors: Mapping[str, str]) -> str:
    """Which stages failed and why, and which were not done because they build on these."""
    names = {stage.key: f"{stage.kind} {stage.label}" for stage in stages}
    causes: dict[str, list[str]] = {}
    for key, error in errors.items():
        causes.setdefault(error, []).append(names[key])
    waiting = causes.pop(BUILDS_ON_IT, [])
    told = [f"{', '.join(labels)}: {error}" for error, labels in causes.items()]
    told += [f"not done, because they build on what failed: {', '.join(waiting)}"] if waiting else []
    return f"{len(errors)} of {len(stages)} stages failed\n" + "\n".join(f"  {line}" for line in told)
