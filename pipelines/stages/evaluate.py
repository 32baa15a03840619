"""Ray actors that answer the evaluation stages of a whole run or study.

Each actor has a thread in the driver, which asks the broker for tickets (stage, row range) for as long as the session
lasts. So the base is loaded once per actor, adapters are swapped, and evaluation overlaps with training.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any

import ray

from lcia.evaluation.answers import write_answers
from lcia.stage import EvalStage
from lcia.store.folders import Store
from pipelines.exits import described
from pipelines.launch import LaunchConfig
from pipelines.stages import broker as brokers


class Answerer:
    """A Ray actor: a ticket per call; the base stays loaded."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self.launch = LaunchConfig.model_validate(launch)
        self.store = Store(self.launch.store_root)
        self.predictors: dict[str, Any] = {}

    def answer(self, ticket: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
        """The records of the ticket's rows, and the seconds that they took once the model was there."""
        stage = EvalStage.model_validate(ticket["record"])
        predictor, started = self._predictor(stage), time.perf_counter()
        records = predictor(stage, ticket["start"], ticket["stop"])
        return records, time.perf_counter() - started

    def _predictor(self, stage: EvalStage) -> Any:
        from lcia import assistants
        from lcia.evaluation.predict import Predictor

        if stage.model_key not in self.predictors:
            device = "cuda" if self.launch.gpus_per_actor else "cpu"
            assistant = assistants.build(
                stage.assistant, device=device, attn_implementation=self.launch.attn_implementation
            )
            predictor = Predictor(assistant, self.store, self.launch.per_device_eval_batch_size)
            self.predictors = {stage.model_key: predictor}
        return self.predictors[stage.model_key]


class Collector:
    """Gathers what the actors answer, and publishes a stage when its last row is there."""

    def __init__(self, launch: LaunchConfig, broker: str) -> None:
        self._store, self._broker = Store(launch.store_root), brokers.connect(broker)
        self._records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, ticket: dict[str, Any], records: list[dict[str, Any]], seconds: float) -> None:
        key = ticket["key"]
        with self._lock:
            self._records[key] += records
            self._seconds[key] += seconds
            done = len(self._records[key])
            ray.get(self._broker.report.remote(key, {"step": done}))
            if done < ticket["rows"]:
                return
            found, spent = self._records.pop(key), self._seconds.pop(key)
        with self._store.publish(key, ticket["record"]) as folder:
            write_answers(found, spent, folder)
        ray.get(self._broker.finish.remote(key))


def serve(launch: LaunchConfig, name: str, collector: Collector) -> None:
    """One actor's work until the broker closes. Blocks; a killed actor is started again `max_failures` times.

    Raises:
        ray.exceptions.RayActorError: it was killed more often than that.
    """
    broker = brokers.connect(name)
    lives = {"max_restarts": launch.max_failures, "max_task_retries": launch.max_failures}
    actor = (
        ray.remote(Answerer)
        .options(num_cpus=1, num_gpus=launch.gpus_per_actor, **lives)
        .remote(launch.model_dump(mode="json"))
    )
    while (ticket := ray.get(broker.next_ticket.remote())) != {}:
        if ticket is None:
            continue
        try:
            records, seconds = ray.get(actor.answer.remote(ticket))
        except ray.exceptions.RayTaskError as error:
            # The same rows and the same model would fail again; other stages need neither.
            ray.get(broker.give_up.remote(ticket["key"], described(error.cause)))
        else:
            collector.add(ticket, records, seconds)
