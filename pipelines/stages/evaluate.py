"""Ray actors that answer the evaluation stages of a whole run or study, and run the commands that judge its adapters.

Each actor has a thread in the driver, which asks the broker for ranges of rows until the session is over. So the base
is loaded once per actor, adapters are swapped, and evaluation overlaps with training.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import ray

from lcia.evaluation.answers import write_answers
from lcia.protocols import Progress
from lcia.stage import EvaluateStage, ExternalStage
from lcia.store.folders import Store
from pipelines.exits import describe
from pipelines.launch import LaunchConfig
from pipelines.stages.broker import Broker, BrokerHandle
from pipelines.stages.pools import on_pool
from pipelines.stages.work import RowRange, until_over

if TYPE_CHECKING:
    from lcia.evaluation.evaluate import Predictor


class Answerer:
    """A Ray actor: a range of rows per call; the base stays loaded."""

    def __init__(self, launch: LaunchConfig) -> None:
        self.launch, self.store = launch, Store(launch.store_root, copies=launch.cache_shards)
        self._loaded: tuple[str, Predictor] | None = None

    def answer(self, work: RowRange) -> tuple[list[dict[str, Any]], float]:
        """The records of the rows, and the seconds that they took once the model was there. What a command leaves is
        published here."""
        if isinstance(work.stage, ExternalStage):
            from lcia.evaluation.external import judge

            self._unload()
            judge(work.stage, self.store)
            return [], 0.0
        predictor, started = self._predictor(work.stage), time.perf_counter()
        records = predictor(work.stage, work.start, work.stop)
        return records, time.perf_counter() - started

    def _unload(self) -> None:
        """Leaves the device to a command, which loads the model itself."""
        import torch

        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _predictor(self, stage: EvaluateStage) -> Predictor:
        from lcia import assistants
        from lcia.evaluation.evaluate import Predictor

        if self._loaded is None or self._loaded[0] != stage.model_key:
            self._loaded = None  # its memory is needed for the next one
            device = "cuda" if self.launch.gpus_per_actor else "cpu"
            assistant = assistants.build(
                stage.assistant, device=device, attn_implementation=self.launch.attn_implementation
            )
            size, merge = self.launch.per_device_eval_batch_size, self.launch.merge_adapters
            self._loaded = stage.model_key, Predictor(assistant, self.store, size, merge=merge)
        return self._loaded[1]


class Publisher:
    """Gathers what the actors answer, and publishes a stage when its last row is there."""

    def __init__(self, store: Store, broker: BrokerHandle) -> None:
        self._store, self._broker = store, broker
        self._records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, work: RowRange, records: list[dict[str, Any]], seconds: float) -> None:
        """Takes what an actor has answered, and the seconds that it took."""
        key, stage = work.key, work.stage
        if isinstance(stage, ExternalStage):
            self._broker.ask(Broker.finish, key)
            return
        with self._lock:
            self._records[key] += records
            self._seconds[key] += seconds
            done = len(self._records[key])
            self._broker.ask(Broker.report, Progress(key, stage.kind, stage.label, done, work.rows, {}))
            if done < work.rows:
                return
            found, spent = self._records.pop(key), self._seconds.pop(key)
        with self._store.publish(key, stage.record) as folder:
            write_answers(found, spent, folder)
        self._broker.ask(Broker.finish, key)


def serve(launch: LaunchConfig, broker: BrokerHandle, publisher: Publisher) -> None:
    """One actor's work until the broker closes. Blocks; a killed actor is started again `max_failures` times.

    Raises:
        ray.exceptions.RayActorError: it was killed more often than that.
    """
    lives = {"max_restarts": launch.max_failures, "max_task_retries": launch.max_failures}
    needs = {"num_cpus": 1, "num_gpus": launch.gpus_per_actor, "label_selector": on_pool("embed") or None}
    actor = ray.remote(Answerer).options(**needs, **lives).remote(launch)
    for work in until_over(lambda: broker.ask(Broker.next_rows)):
        try:
            records, seconds = ray.get(actor.answer.remote(work))
        except ray.exceptions.RayTaskError as error:
            # The same rows and the same model would fail again; other stages need neither.
            broker.ask(Broker.give_up, work.key, describe(error.cause))
        else:
            publisher.add(work, records, seconds)
