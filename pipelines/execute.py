"""Runs stages on Ray: data and embeddings through Ray Data, training and answers by servers that pull from a broker."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data

from lcia.config import TfidfConfig
from lcia.shards import count_rows
from lcia.stage import EmbedStage, EvalStage, ShardStage, TrainStage
from lcia.store import Store
from pipelines import broker as brokers
from pipelines import evaluate, train
from pipelines.ending import SERVER
from pipelines.launch import LaunchConfig

DATA_STAGES_AT_A_TIME = 4
JOIN_SECONDS = 90.0
"""How long servers, which may still be importing, get to go home at the end of a session."""
INTERRUPTED_SECONDS = 1.0

Watcher = Callable[[dict[str, dict[str, Any]]], None]
"""Takes the broker's snapshot: progress by stage key."""


class StageFailedError(RuntimeError):
    """Stages could not be executed; what was finished before is in the store."""


class RayExecutor:
    """Executes stages on the connected Ray; several executors (trials of a study) may share one broker."""

    def __init__(self, launch: LaunchConfig, broker: str, *watchers: Watcher) -> None:
        self.launch, self.store = launch, Store(launch.store_root)
        self.broker_name = broker
        self._broker, self._watchers = brokers.connect(broker), watchers
        self.trusting = False
        """Whether sizes are enough, because the driver has compared all checksums before it started trials."""

    def shard(self, stages: Sequence[ShardStage]) -> None:
        self._side_by_side(self._missing(stages), self._write_shards)

    def _write_shards(self, stage: ShardStage, folder: Path) -> None:
        from pipelines.data import write_source

        write_source(stage.source, stage.instruction, stage.max_samples, stage.data, folder)

    def embed(self, stages: Sequence[EmbedStage]) -> None:
        self._side_by_side(self._missing(stages), self._write_features)

    def _write_features(self, stage: EmbedStage, folder: Path) -> None:
        from lcia.features import embed_shards as embed_here
        from pipelines.embed import embed_shards

        shards = str(self.store.fetch(stage.shards))
        if isinstance(stage.embedder, TfidfConfig):
            # The texts are the features: one column is read, which is done before a pool of actors has started.
            embed_here(shards, stage.embedder, folder)
        else:
            embed_shards(shards, stage.embedder, folder, self.launch.embed_actors, self.launch.gpus_per_actor)

    def _side_by_side(self, stages: Sequence[Any], write: Callable[[Any, Path], object]) -> None:
        """Data stages wait for processes to start more than they compute, so several run at a time."""

        def one(stage: Any) -> None:
            with self.store.publish(stage.key, stage.record) as folder:
                write(stage, folder)

        for stage in stages:
            self._show(stage, 0)
        with ThreadPoolExecutor(DATA_STAGES_AT_A_TIME) as pool:
            for stage, _ in zip(stages, pool.map(one, stages), strict=True):
                ray.get(self._broker.finish.remote(stage.key))
                self._show(stage, 1)

    def tune(self, trains: Sequence[TrainStage], evals: Sequence[EvalStage]) -> None:
        """Hands stages to the broker and waits for them.

        Raises:
            StageFailedError: names the first error; what was finished stays in the store.
        """
        missing_trains, missing_evals = self._missing(trains), self._missing(evals)
        if orders := [{"key": s.key, "parent": s.parent, "record": s.record} for s in missing_trains]:
            ray.get(self._broker.add_trains.remote(orders))
        for stage in missing_evals:
            rows = count_rows(self.store.fetch(stage.shards))
            tickets = evaluate.tickets_of(stage, rows, self.launch.per_device_eval_batch_size)
            ray.get(self._broker.add_tickets.remote(stage.key, stage.record, tickets))
        self._wait([stage.key for stage in (*missing_trains, *missing_evals)])

    def counts(self) -> dict[str, int]:
        """Trainings asked for, distinct, trained in this session."""
        counts: dict[str, int] = ray.get(self._broker.counts.remote())
        return counts

    def _wait(self, keys: list[str]) -> None:
        while (errors := ray.get(self._broker.wait.remote(keys))) == {"": ""}:
            self._watch()
        self._watch()
        if errors:
            raise StageFailedError(f"{len(errors)} stage(s) not done; the first error: {next(iter(errors.values()))}")

    @contextlib.contextmanager
    def watching(self, every: float = 1.0) -> Iterator[None]:
        """Keeps the watchers informed while others, the trials of a study, wait for their stages."""
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
        if self._watchers:
            snapshot = ray.get(self._broker.snapshot.remote())
            for watcher in self._watchers:
                watcher(snapshot)

    def _missing(self, stages: Sequence[Any]) -> list[Any]:
        there = self.store.has if self.trusting else self.store.usable
        found = [stage.key for stage in stages if there(stage.key)]
        trains = [stage.key for stage in stages if stage.kind == "train" and stage.key in found]
        ray.get(self._broker.add_found.remote(found, trains))
        return [stage for stage in stages if stage.key not in set(found)]

    def set_damaged_aside(self, keys: Iterable[str]) -> None:
        """Reads what the store holds under these keys, so that trials find what is damaged absent and make it again."""
        for key in dict.fromkeys(keys):
            self.store.usable(key)

    def _show(self, stage: Any, step: int) -> None:
        progress = {"kind": stage.kind, "label": stage.label, "step": step, "steps": 1, "values": {}}
        ray.get(self._broker.report.remote(stage.key, progress))
        self._watch()


# The session ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def session(launch: LaunchConfig, *watchers: Watcher) -> Iterator[RayExecutor]:
    """A connected Ray with a broker and its training and evaluation servers; all end with the block.

    The servers start at once, so that their imports (tens of seconds) overlap with reading the data.
    """
    launch = launch.settled()
    started = _connect(launch)
    name = f"{brokers.NAME}-{uuid.uuid4().hex[:8]}"
    broker = brokers.start(name)
    ray.get(broker.counts.remote())
    servers, patience = _serve(launch, name), JOIN_SECONDS
    try:
        yield RayExecutor(launch, name, *watchers)
    except KeyboardInterrupt:
        # Whoever interrupts does not want to wait for the end of a stage: its last checkpoint is in the store.
        patience = INTERRUPTED_SECONDS
        # A thread of Ray Data that finds Ray gone would print a traceback beside the hint how to go on.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        raise
    finally:
        ray.get(broker.close.remote())
        ended = _join(servers, patience)
        ray.kill(broker)
        # A server thread that is still inside Ray would crash the process; its end (`ending.leave`) stops Ray then.
        if started and ended:
            ray.shutdown()


def _connect(launch: LaunchConfig) -> bool:
    """Connects quietly; True: it was not connected before."""
    if ray.is_initialized():
        return False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    _init(launch)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return True


def _init(launch: LaunchConfig) -> None:
    """Connects to the cluster that the launch or RAY_ADDRESS names, else starts a local Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = launch.ray_address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level="warning", log_to_driver=False)
        return
    # A local Ray listens for this machine only and serves one user: no token file is left behind.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Nobody takes this machine away with a notice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Workers and actors share the cores; what they hold must fit, and Ray Data needs CPUs for tasks of its own.
    cpus = max(os.cpu_count() or 1, int(launch.cpus) + 2)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=launch.object_store_memory,
             logging_level="warning", log_to_driver=False)  # fmt: skip


def _serve(launch: LaunchConfig, name: str) -> list[threading.Thread]:
    groups = range(launch.train_groups)
    jobs = [("train", partial(train.serve, launch, name, f"group{group}")) for group in groups]
    jobs.append(("eval", partial(evaluate.serve, launch, name)))
    threads = [
        threading.Thread(target=_guard, args=(kind, job, name), name=f"{SERVER}-{number}", daemon=True)
        for number, (kind, job) in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    return threads


def _guard(kind: str, job: Callable[[], None], name: str) -> None:
    """A server that dies tells the broker, which tells whoever waits; the error is shown there."""
    broker = brokers.connect(name)
    try:
        job()
    except Exception as error:  # noqa: BLE001 - it crosses a thread: told to all who wait, not swallowed
        message = f"{type(error).__name__}: {error}"
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(broker.fail.remote(kind, message))


def _join(threads: Sequence[threading.Thread], patience: float) -> bool:
    """Waits for the servers; whether all have ended."""
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
