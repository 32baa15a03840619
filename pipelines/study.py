"""Ray Tune drives the runs of a study: each trial is a run, all share one broker, store and set of workers."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from lcia.config import RunConfig
from lcia.run import run
from lcia.study import Point
from pipelines.execute import RayExecutor


def tune_runs(points: Sequence[Point], executor: RayExecutor, name: str, concurrent: int) -> None:
    """Runs every point as a Tune trial; their results are then in the store.

    The data of all runs is there already. A trial holds a tenth of a CPU: it plans, asks the broker and waits.

    Raises:
        StageFailedError: trials failed; names the first error.
    """
    from ray import tune

    from pipelines.execute import StageFailedError

    configs = [point.config for point in points]
    settings = {"launch": executor.launch.model_dump(mode="json"), "broker": executor.broker_name,
                "configs": [c.model_dump(mode="json", by_alias=True) for c in configs]}  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, settings=settings), {"cpu": 0.1}),
        param_space={"number": tune.grid_search(list(range(len(points))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:6]}", storage_path=f"{executor.launch.root}/tune", verbose=0
        ),
    )
    # Tune would take Ctrl-C for itself and return as if all were done; what is finished is in the store anyway.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Tune prints its own tables; stdout is for results.
    with executor.watching(), contextlib.redirect_stdout(sys.stderr):
        results = tuner.fit()
    if results.errors:
        raise StageFailedError(f"{len(results.errors)} of {len(points)} trials failed; the first: {results.errors[0]}")


def _trial(params: dict[str, Any], settings: dict[str, Any]) -> None:
    from ray import tune

    from lcia.matrix import metrics
    from pipelines.launch import LaunchConfig

    executor = RayExecutor(LaunchConfig.model_validate(settings["launch"]), settings["broker"])
    executor.trusting = True
    outcome = run([RunConfig.model_validate(settings["configs"][params["number"]])], executor)[0]
    figures = {name: metric.value for name, metric in metrics(outcome.matrix).items() if metric.value is not None}
    tune.report({"run": outcome.config.name, **figures})
