"""Ray Data: one pool of actors answers the evaluation stages of a whole run or study.

The pipeline's source is a streaming task that pulls tickets (stage, row range) from the broker for as long as the
session lasts, so the base is loaded once per actor, adapters are swapped, and evaluation overlaps with training.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import ray

from lcia.stage import EvalStage
from lcia.store import Store
from pipelines import broker as brokers
from pipelines.launch import LaunchConfig


def tickets_of(stage: EvalStage, rows: int, size: int) -> list[dict[str, Any]]:
    """The work of one stage, cut into row ranges that several actors can share."""
    common = {
        "key": stage.key,
        "record": stage.record,
        "needs": list(stage.adapters),
        "label": stage.label,
        "rows": rows,
    }
    return [{**common, "start": at, "stop": min(at + size, rows)} for at in range(0, rows, size)]


class Answerer:
    """A Ray Data actor: the base in __init__, a ticket per call."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self.launch = LaunchConfig.model_validate(launch)
        self.store = Store(self.launch.store_root)
        self.predictors: dict[str, Any] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import json

        ticket = json.loads(batch["ticket"][0])
        stage = EvalStage.model_validate(ticket["record"])
        predictor, started = self._predictor(stage), time.perf_counter()
        records = predictor(stage, ticket["start"], ticket["stop"])
        spent = time.perf_counter() - started
        return {"key": [stage.key], "rows": [ticket["rows"]], "seconds": [spent], "records": [json.dumps(records)]}

    def _predictor(self, stage: EvalStage) -> Any:
        from lcia import assistants
        from lcia.predict import Predictor

        if stage.model_key not in self.predictors:
            device = "cuda" if self.launch.gpus_per_actor else "cpu"
            assistant = assistants.build(
                stage.assistant, device=device, attn_implementation=self.launch.attn_implementation
            )
            predictor = Predictor(assistant, self.store, self.launch.per_device_eval_batch_size)
            self.predictors = {stage.model_key: predictor}
        return self.predictors[stage.model_key]


def serve(launch: LaunchConfig, name: str) -> None:
    """Runs the pipeline until the broker closes; publishes each stage when its last row is answered. Blocks."""
    import json

    from lcia.answers import write_answers

    broker, store = brokers.connect(name), Store(launch.store_root)
    collected: dict[str, list[dict[str, Any]]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for batch in _pipeline(launch, name).iter_batches(batch_size=1, prefetch_batches=0):
        key, rows = str(batch["key"][0]), int(batch["rows"][0])
        collected[key] += json.loads(str(batch["records"][0]))
        seconds[key] += float(batch["seconds"][0])
        done = len(collected[key])
        ray.get(broker.report.remote(key, {"step": done}))
        if done == rows:
            with store.publish(key, ray.get(broker.record_of.remote(key))) as folder:
                write_answers(collected.pop(key), seconds.pop(key), folder)
            ray.get(broker.finish.remote(key))


def _pipeline(launch: LaunchConfig, name: str) -> Any:
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current().copy()
    # Every ticket is a block of its own: it must reach an actor now, not when a block is full.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    before = DataContext.get_current()
    DataContext._set_current(context)
    try:
        source = ray.data.range(1).map_batches(_pull, fn_kwargs={"name": name}, batch_size=None, num_cpus=0)
        return source.map_batches(
            Answerer,
            fn_constructor_kwargs={"launch": launch.model_dump(mode="json")},
            batch_size=1,
            compute=ActorPoolStrategy(size=launch.eval_actors),
            num_cpus=1,
            num_gpus=launch.gpus_per_actor,
        )
    finally:
        DataContext._set_current(before)


def _pull(batch: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yields tickets as the broker hands them out, until it closes."""
    import json

    broker = brokers.connect(name)
    while (ticket := ray.get(broker.next_ticket.remote())) != {}:
        if ticket is not None:
            yield {"ticket": [json.dumps(ticket)]}
