"""Ray Tune draws the runs of a study: Optuna proposes, trials ask the session's broker for stages, ASHA stops some.

A search is as deterministic as its stages: trials are drawn in rounds, a round once the last one has ended, so draws do
not depend on who was faster. Started again, it draws the same trials and finds their stages in the store. Nothing of
Tune's own state has to survive for that (Tuner.restore would start unfinished trials from a state of its own). Which
trials ASHA stops does depend on who reports first, so that is logged: a trial that has ended before ends there again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lcia.metrics.matrix import AccuracyMatrix, metrics
from lcia.run import prepare, scores_so_far
from lcia.stage import digest
from lcia.store.transfer import names_in, open_storage, read, write
from lcia.store.trouble import patiently
from lcia.studies.config import Asha, OptunaConfig, StudyConfig
from lcia.studies.points import Point
from lcia.studies.search import Space
from pipelines.exits import StageFailedError
from pipelines.launch import LaunchConfig
from pipelines.stages.broker import Broker, BrokerHandle
from pipelines.stages.execute import RayExecutor

if TYPE_CHECKING:
    from ray import tune

VALUE, GAIN, TASKS, WHOLE = "objective", "gain", "tasks", "whole"
"""What a trial reports after every task: the objective (before the last one the mean score so far), what ASHA compares,
how many tasks were learnt, and whether that is all."""
TRIALS, SUFFIX = "trials", ".json"
"""In the run folder of a search: a file for each trial that has ended."""
MOST_TASKS = 1000
"""ASHA wants to know how long a trial may be."""


@dataclass(frozen=True)
class Trial:
    """A trial that has ended. `tasks`: how many it has learnt; `whole`: whether that is all. `value`: the objective, of
    a trial that was stopped what it was so far, None of one that failed for the reason `failed`."""

    number: int
    drawn: dict[str, Any]
    tasks: int
    whole: bool
    value: float | None
    failed: str = ""


def search(study: StudyConfig, executor: RayExecutor) -> list[Trial]:
    """Draws and runs all trials; their stages are then in the store."""
    # Tune would take Ctrl-C for itself and return as if all were done; what is finished is in the store anyway.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Its older output is silent when it is told to be.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    broker = executor.connect()
    import optuna
    from ray import tune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A trial that fails is told of at the end, with its reason.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    settings = {"launch": executor.launch.model_dump(mode="json"), "broker": broker,
                "study": study.model_dump(mode="json", by_alias=True)}  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, settings=settings), {"cpu": 0.1}),
        tune_config=_tune_config(study, Log(study, executor.launch.root)),
        run_config=tune.RunConfig(
            name=f"{study.name}-{uuid.uuid4().hex[:6]}", storage_path=f"{executor.launch.root}/tune", verbose=0,
            stop=_stopper(study.budget.stages, broker),
        ),
    )  # fmt: skip
    # Tune prints its own tables; stdout is for results.
    with executor.watching(), contextlib.redirect_stdout(sys.stderr):
        found = tuner.fit()
    return [_read(number, result) for number, result in enumerate(found)]


def _tune_config(study: StudyConfig, log: Log) -> tune.TuneConfig:
    import optuna
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    chosen, scheduler, concurrent = study.search, study.scheduler, study.max_concurrent_trials
    assert chosen.kind != "grid", "a grid is not searched"
    samplers = optuna.samplers
    sampler = (
        samplers.TPESampler(seed=chosen.seed)
        if isinstance(chosen, OptunaConfig)
        else samplers.RandomSampler(seed=chosen.seed)
    )
    searcher = OptunaSearch(Space(study).define, metric=VALUE, mode=study.objective.direction, sampler=sampler)
    return tune.TuneConfig(
        search_alg=ConcurrencyLimiter(searcher, concurrent, batch=True),
        scheduler=_halving(scheduler, log) if isinstance(scheduler, Asha) else None,
        num_samples=chosen.num_samples,
        # A process that has ended one trial starts the next: imports cost more than most trials.
        reuse_actors=True,
        time_budget_s=study.budget.hours and study.budget.hours * 3600,
    )


def _stopper(most: int | None, broker: BrokerHandle) -> Any:
    """Ends the search once `most` stages were trained."""
    from ray.tune import Stopper

    class Spent(Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return most is not None and broker.ask(Broker.trained) >= most

    return Spent()


class Log:
    """The trials of a study that have ended, in this session or an earlier one, by what they were given.

    Each is a small object of its own in the run folder in `root`, so that it is there at once wherever that lies.
    """

    def __init__(self, study: StudyConfig, root: str) -> None:
        self._study, self._root = study.model_dump(mode="json", by_alias=True), root
        self._fs, base = patiently(root, open_storage, root)
        self._folder = f"{base}/{study.name}/{TRIALS}"
        self.ended: dict[str, int | None] = {}
        """Key of a trial -> the tasks that it was stopped after; None: it learnt all."""
        for name in patiently(root, names_in, self._fs, self._folder):
            line = patiently(root, read, self._fs, f"{self._folder}/{name}") or b""
            # A process that was killed may have left a part of one.
            if name.endswith(SUFFIX) and line.endswith(b"}"):
                self.ended[name.removesuffix(SUFFIX)] = json.loads(line)["stopped"]

    def key(self, params: dict[str, Any]) -> str:
        return digest([self._study, params])

    def add(self, params: dict[str, Any], stopped: int | None) -> None:
        if (key := self.key(params)) not in self.ended:
            self.ended[key] = stopped
            line = json.dumps({"stopped": stopped}).encode()
            patiently(self._root, write, self._fs, f"{self._folder}/{key}{SUFFIX}", line)


def _halving(scheduler: Asha, log: Log) -> Any:
    """ASHA, in which a trial that has ended before ends where it did."""
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    class Halving(ASHAScheduler):  # type: ignore[misc]
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            # Asked in any case: it notes the result, which later trials are compared with.
            decision: str = super().on_trial_result(tune_controller, trial, result)
            if (key := log.key(trial.config)) in log.ended:
                return str(TrialScheduler.STOP if log.ended[key] == result[TASKS] else TrialScheduler.CONTINUE)
            # Only what ASHA decided: a trial that a budget cut short may go on another time.
            if result[WHOLE] or decision == TrialScheduler.STOP:
                log.add(trial.config, None if result[WHOLE] else result[TASKS])
            return decision

    return Halving(
        time_attr=TASKS, metric=GAIN, mode="max", max_t=MOST_TASKS, grace_period=scheduler.grace_period,
        reduction_factor=scheduler.reduction_factor,
    )  # fmt: skip


def _read(number: int, result: Any) -> Trial:
    figures, drawn = result.metrics or {}, dict(result.config or {})
    tasks, whole = int(figures.get(TASKS, 0)), bool(figures.get(WHOLE))
    if result.error:
        return Trial(number, drawn, tasks, False, None, str(result.error).strip().splitlines()[-1])
    return Trial(number, drawn, tasks, whole, float(figures[VALUE]) if VALUE in figures else None)


# In the process of a trial ----------------------------------------------------------------------------------------


def _trial(params: dict[str, Any], settings: dict[str, Any]) -> None:
    from ray import tune

    study = StudyConfig.model_validate(settings["study"])
    executor = RayExecutor(LaunchConfig.model_validate(settings["launch"]), lambda: settings["broker"])
    space = Space(study)
    points = space.points(0, space.read(params))
    try:
        for report in _reports(study, points, executor):
            tune.report(report)
    finally:
        executor.connect()


def _reports(study: StudyConfig, points: Sequence[Point], executor: RayExecutor) -> Iterator[dict[str, Any]]:
    """After every task, over all seeds: the mean score so far and its gain over the untuned model; at the end the
    objective.

    Raises:
        StageFailedError: a stage has failed, or the objective is not defined.
    """
    prepared = prepare([point.config for point in points], executor)
    rows = len(prepared[0].plan.rows)
    for done in range(1, rows + 1):
        trains = [stage for one in prepared for stage in one.plan.trains[:done]]
        first = len(prepared[0].plan.order) - rows + done
        evals = {cell.stage.key: cell.stage for one in prepared for cell in one.plan.cells if cell.row < first}
        # What is not of the matrix is asked once a trial has come to its end.
        beside = [stage for one in prepared for stage in one.plan.asked] if done == rows else []
        executor.train_and_evaluate(trains, list({s.key: s for s in (*evals.values(), *beside)}.values()))
        found = [scores_so_far(one, executor.store, first) for one in prepared]
        so_far = float(np.mean([mean_of_row(matrix, first - 1) for matrix in found]))
        gains = [mean_of_row(matrix, first - 1) - untuned(matrix) for matrix in found]
        whole = done == rows
        value = value_of(study, found) if whole else so_far
        yield {VALUE: value, GAIN: float(np.mean(gains)), TASKS: done, WHOLE: whole}


def mean_of_row(matrix: AccuracyMatrix, row: int) -> float:
    """The mean over the tasks that were evaluated after a training."""
    return float(np.nanmean(matrix.scores[row]))


def untuned(matrix: AccuracyMatrix) -> float:
    """The mean of the untuned model over all tasks; 0 where it was not evaluated."""
    return 0.0 if matrix.zero_shot is None else float(np.mean(matrix.zero_shot))


def value_of(study: StudyConfig, found: Sequence[AccuracyMatrix]) -> float:
    """The objective: the mean of the metric over the seeds."""
    values = []
    for matrix in found:
        metric = metrics(matrix)[study.objective.metric]
        if metric.value is None:
            raise StageFailedError(f"the objective {study.objective.metric} {metric.reason}")
        values.append(metric.value)
    return float(np.mean(values))
