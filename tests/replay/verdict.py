"""Whether a replay has come to the same as the stream trained without any cluster, and what it had to repeat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lcia.run import read_outcomes
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.training.result import ADAPTER, TrainResult
from tests.replay import stream
from tests.replay.stream import Reference
from tests.replay.variants import Played


def differences(played: Played, reference: Reference) -> list[str]:
    """What differs from the reference; empty: its results are there, bit by bit, and once in MLflow."""
    return [*_of_store(played, reference), *_of_mlflow(played, reference)]


def _of_store(played: Played, reference: Reference) -> Iterator[str]:
    store, prepared = Store(str(played.storage / "store")), reference.prepared
    held, wanted = set(store.held()), reference.keys
    if lacking := wanted - held:
        yield f"{len(lacking)} results are missing"
        return
    if held != wanted and not played.study:
        yield f"{len(held - wanted)} results that the reference does not have"
    for stage in prepared.plan.trains:
        ours, theirs = (one.fetch(stage.key) / ADAPTER[1] for one in (store, reference.store))
        if ours.read_bytes() != theirs.read_bytes():
            yield f"the adapter of {stage.label} has other bits"
    matrices = [read_outcomes([prepared], one)[0].matrix for one in (store, reference.store)]
    if str(matrices[0]) != str(matrices[1]):
        yield f"scores {matrices[0].scores.tolist()}, not {matrices[1].scores.tolist()}"


def _of_mlflow(played: Played, reference: Reference) -> Iterator[str]:
    from mlflow import MlflowClient

    client = MlflowClient(played.mlflow)
    experiment = client.get_experiment_by_name("lcia")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    names = Counter(run.info.run_name for run in runs)
    yield from (f"{count} MLflow runs are named {name}" for name, count in names.items() if count > 1)
    yield from (f"{run.info.run_name} is {run.info.status}" for run in runs if run.info.status != "FINISHED")
    stages = [f"{number}. {task}" for number, task in enumerate(reference.prepared.plan.order, start=1)]
    for wanted in [stream.NAME, *([] if played.study else [f"{stream.NAME}: {stage}" for stage in stages])]:
        if not names[wanted]:
            yield f"MLflow has no run {wanted}"
    every = list(range(stream.LOGGING_STEPS, stream.RUN["training"]["max_steps"] + 1, stream.LOGGING_STEPS))
    for run in (run for run in runs if "loss" in run.data.metrics):
        steps = sorted(point.step for point in client.get_metric_history(run.info.run_id, "loss"))
        if steps != every:
            yield f"the loss of {run.info.run_name} has the steps {steps}"


def continued(played: Played, reference: Reference) -> dict[str, list[int]]:
    """Of each stage the steps after which it went on, after a fault."""
    store = Store(str(played.storage / "store"))
    return {stage.label: _resumed(store, stage) for stage in reference.prepared.plan.trains}


def _resumed(store: Store, stage: TrainStage) -> list[int]:
    found: list[int] = TrainResult.read(store.fetch(stage.key)).result.get("resumed_at", [])
    return found


def trained_in(played: Played, attempt: int) -> list[str]:
    """The tasks of the stages that an attempt (counted from 0) trained, as its driver's log shows them."""
    submitter = played.replay.attempts[attempt].submitter
    text = submitter.log.read_text() if submitter else ""
    return [task for task in stream.RUN["benchmark"]["tasks"] if f"train {task} " in text]


def gave_way(played: Played) -> list[bool]:
    """Of each attempt that was left alone beside a newer one, whether its driver has stopped for that reason."""
    left = [attempt.submitter for attempt in played.replay.attempts if attempt.out_of_sight]
    return [pod is not None and "has begun in this storage, so this one" in pod.log.read_text() for pod in left]


def row(played: Played, reference: Reference, about: str) -> dict[str, Any]:
    """A line of the table: what struck, and what was repeated."""
    found = differences(played, reference)
    steps = stream.RUN["training"]["max_steps"]
    again = [
        f"{label}: went on after step {max(at)} of {steps}" for label, at in continued(played, reference).items() if at
    ]
    return {
        "variant": about,
        "status": played.status,
        "attempts": len(played.replay.attempts),
        "struck": [f"{told}, checkpoint {step} there" for told, step in played.struck],
        "continued": again,
        "trained by attempt": [trained_in(played, number) for number in range(len(played.replay.attempts))],
        "gave way": gave_way(played),
        "differences": found,
        "leaks": played.leaks() if played.secrets else "not planted",
        "seconds": round(played.replay.events[-1][0]),
        "events": [f"{seconds:.0f} s: {event}" for seconds, event in played.replay.events],
    }


def as_json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False)
