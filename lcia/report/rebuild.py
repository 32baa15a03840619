"""A session's folder made again from its summary and the stored results: nothing is read that a run would not read, and
nothing is trained or answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.report import run_folder
from lcia.report.run_folder import Session
from lcia.report.study_tables import StudyTables, from_record, holds_study
from lcia.run import prepare, read_outcomes
from lcia.stage import Asked, EmbedStage, ShardStage, TrainStage
from lcia.store.folders import Store
from lcia.studies.points import Point
from lcia.types import InputError

FACTS = ("stages", "search", "environment")
"""Of a summary: what only the session itself could know."""
AGAIN = "run the same command again"


class StoredOnly:
    """Implements lcia.run.Executor for results that are all there."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def shard(self, stages: Sequence[ShardStage]) -> None:
        self._check(stages)

    def embed(self, stages: Sequence[EmbedStage]) -> None:
        self._check(stages)

    def train_and_evaluate(self, trains: Sequence[TrainStage], evals: Sequence[Asked]) -> None:
        self._check([*trains, *evals])

    def _check(self, stages: Sequence[ShardStage | EmbedStage | TrainStage | Asked]) -> None:
        """Raises InputError where a result is not in the store."""
        missing = [stage.label for stage in stages if not self.store.has(stage.key)]
        if missing:
            raise InputError(
                f"{len(missing)} results are not in {self.store.root} ({', '.join(missing[:3])} ...), or were made "
                f"from other files than those that are there now: {AGAIN}"
            )


def rebuild(summary: Mapping[str, Any], store: Store, folder: Path) -> dict[str, Any]:
    """Writes everything below `folder` again; returns the summary. Times and surroundings stay those of the session.

    Raises:
        InputError: the summary does not hold the configuration of every run, or a result is not in the store.
    """
    short = [name for name, run in summary["runs"].items() if "config" not in run]
    if short:
        raise InputError(f"{folder} keeps no configuration of {len(short)} of its runs ({short[0]} ...): {AGAIN}")
    configs = [parse(RunConfig, run["config"], f"run {name}") for name, run in summary["runs"].items()]
    executor = StoredOnly(store)
    prepared = prepare(configs, executor)
    for one in prepared:
        executor.train_and_evaluate(one.plan.trains, one.plan.asked)
    points = tuple(_points(from_record(summary), configs)) if holds_study(summary) else ()
    facts = {name: summary[name] for name in FACTS if name in summary}
    failed = tuple(summary.get("failed", ()))
    session = Session(summary["title"], summary["wall_seconds"], facts, points, failed)
    return run_folder.write(read_outcomes(prepared, store), session, store, folder)


def _points(tables: StudyTables, configs: Sequence[RunConfig]) -> Iterator[Point]:
    if not tables.settings:
        raise InputError(f"this study is from before the values of its methods were kept: {AGAIN}")
    reference = tables.settings[tables.reference].method if tables.reference else None
    # Where all runs have one order, it is the base's, unless a table is about it.
    named = bool(tables.orders) or len({config.order for config in configs}) > 1
    for config in configs:
        label = tables.labels[config.name]
        method, varied = tables.settings[label]
        order = config.order if named else None
        yield Point(method, method == reference, label, varied, order, config.seed, config)
