"""Ray Tune drives the runs of a study: each trial is a run, all share one broker, store and set of workers."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from lcia.config.run import RunConfig
from lcia.run import Prepared, run
from pipelines.exits import StageFailedError
from pipelines.stages.execute import RayExecutor, Stage


def tune_runs(prepared: Sequence[Prepared], executor: RayExecutor, name: str, concurrent: int) -> None:
    """Runs every configuration, those of which stages are missing as Tune trials; their results are then in the store.

    The data of all runs is there already. A trial holds a tenth of a CPU: it plans, asks the broker and waits.

    Raises:
        StageFailedError: lists the stages that failed, or names the first error of a trial.
    """
    stages = list({stage.key: stage for one in prepared for stage in _stages(one)}.values())
    missing = {stage.key for stage in executor.missing(stages)}
    todo = [one for one in prepared if not missing.isdisjoint(stage.key for stage in _stages(one))]
    for one in prepared:
        if one not in todo:
            executor.train_and_evaluate(one.plan.trains, one.plan.evals)
    if todo:
        errors = _tune(todo, executor, name, concurrent)
        executor.raise_if_failed(stages)
        if errors:
            raise StageFailedError(f"{len(errors)} of {len(todo)} trials failed; the first: {errors[0]}")


def _stages(prepared: Prepared) -> list[Stage]:
    return [*prepared.plan.trains, *prepared.plan.evals]


def _tune(prepared: Sequence[Prepared], executor: RayExecutor, name: str, concurrent: int) -> list[Exception]:
    """The errors of the trials."""
    # Tune would take Ctrl-C for itself and return as if all were done; what is finished is in the store anyway.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Its older output is silent when it is told to be.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    from ray import tune

    settings = {"launch": executor.launch.model_dump(mode="json"), "broker": executor.connect(),
                "configs": [one.config.model_dump(mode="json", by_alias=True) for one in prepared]}  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, settings=settings), {"cpu": 0.1}),
        param_space={"number": tune.grid_search(list(range(len(prepared))))},
        # A process that has ended one trial starts the next: imports cost more than most trials.
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:6]}", storage_path=f"{executor.launch.root}/tune", verbose=0
        ),
    )
    # Tune prints its own tables; stdout is for results.
    with executor.watching(), contextlib.redirect_stdout(sys.stderr):
        return list(tuner.fit().errors)


def _trial(params: dict[str, Any], settings: dict[str, Any]) -> None:
    from ray import tune

    from lcia.metrics.matrix import metrics
    from pipelines.launch import LaunchConfig

    executor = RayExecutor(LaunchConfig.model_validate(settings["launch"]), lambda: settings["broker"])
    executor.trusts_sizes = True
    try:
        outcome = run([RunConfig.model_validate(settings["configs"][params["number"]])], executor)[0]
    except StageFailedError:
        # The driver asks the broker what failed; Tune would print where it was raised.
        return
    finally:
        executor.connect()
    figures = {name: metric.value for name, metric in metrics(outcome.matrix).items() if metric.value is not None}
    tune.report({"run": outcome.config.name, **figures})
