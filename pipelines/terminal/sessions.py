"""A session from its configurations to its run folder: what `run`, `quickstart` and `study` have in common."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from lcia.addresses import is_url
from lcia.config.run import RunConfig
from lcia.plan import union
from lcia.report import decisions, run_folder
from lcia.report.page import PAGE
from lcia.report.run_folder import KEYS, Session
from lcia.run import Outcome, Prepared, prepare, read_outcomes
from lcia.store.scratch import occupied
from lcia.store.transfer import open_storage
from lcia.store.trouble import patiently
from lcia.studies.points import Point
from pipelines.exits import StageFailedError
from pipelines.launch import LaunchConfig

if TYPE_CHECKING:
    from pipelines.stages.execute import RayExecutor

MOST_WARNINGS = 20
"""On the terminal; a study of many orders has many. Its page and summary.json hold them all."""


@dataclass(frozen=True)
class Finished:
    """What a session has left; `page` is the path or the URL of its report. `failure`: why some runs are missing."""

    outcomes: Sequence[Outcome]
    page: str
    summary: dict[str, Any]
    failure: StageFailedError | None


def carry_out(name: str, configs: Sequence[RunConfig], launch: LaunchConfig, points: Sequence[Point] = ()) -> Finished:
    """Prepares, executes and writes the run folder, with the stages shown on the terminal and mirrored in MLflow.

    `points`: of a study, one per configuration.

    Raises:
        StageFailedError: no run could be finished.
    """
    from pipelines.stages.session import session
    from pipelines.terminal.progress import ProgressDisplay
    from pipelines.tracking.runs import tracked

    started = time.perf_counter()
    with (
        ProgressDisplay() as progress,
        opened(launch.root, name) as folder,
        tracked(launch, folder, name) as tracker,
        session(launch, progress, tracker.watch) as executor,
    ):
        prepared = prepare(configs, executor)
        run_folder.write_keys(prepared, folder)
        tracker.begin(prepared, executor.store)
        warn_of_groups(prepared)
        finished, failure = _execute(prepared, executor)
        outcomes = read_outcomes(finished, executor.store)
        names = {one.config.name for one in finished}
        facts = {"stages": _counts(prepared, executor)}
        done = Session(
            name, time.perf_counter() - started, facts, tuple(point for point in points if point.config.name in names),
            tuple(one.config.name for one in prepared if one.config.name not in names),
        )  # fmt: skip
        summary = run_folder.write(outcomes, done, executor.store, folder)
        tracker.finish(folder)
    return Finished(outcomes, f"{launch.root}/{name}/{PAGE}", summary, failure)


def _execute(prepared: Sequence[Prepared], executor: RayExecutor) -> tuple[Sequence[Prepared], StageFailedError | None]:
    """Trains and evaluates the union of the plans; returns the runs that are whole, and why others are not."""
    try:
        executor.train_and_evaluate(*union(one.plan for one in prepared))
    except StageFailedError as error:
        there = cache(executor.store.has)
        whole = [one for one in prepared if all(there(s.key) for s in (*one.plan.trains, *one.plan.evals))]
        if not whole:
            raise
        return whole, error
    return prepared, None


def _counts(prepared: Sequence[Prepared], executor: RayExecutor) -> dict[str, int]:
    """Trainings that the runs ask for, distinct ones, and those trained in this session."""
    asked = sum(len(one.plan.trains) for one in prepared)
    distinct = len(union(one.plan for one in prepared)[0])
    return {"asked": asked, "distinct": distinct, "trained": executor.trained()}


@contextlib.contextmanager
def opened(root: str, name: str) -> Iterator[Path]:
    """The run folder of a session; with storage behind a URL a local one, which is uploaded when the block ends.

    Raises:
        InputError: `root` cannot be used.
    """
    # Before anything is written: it names a place that cannot be used.
    patiently(root, open_storage, root)
    remote = is_url(root)
    folder = Path(tempfile.mkdtemp(prefix="lcia-run-")) if remote else Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    # `lcia clean` knows a run folder by this file. One that is there keeps its date.
    (folder / KEYS).open("a").close()
    try:
        with occupied(folder):
            yield folder
    finally:
        if remote:
            patiently(root, _upload, folder, f"{root}/{name}")
            shutil.rmtree(folder, ignore_errors=True)


def _upload(folder: Path, url: str) -> None:
    fs, base = pafs.FileSystem.from_uri(url)
    pafs.copy_files(str(folder), base, destination_filesystem=fs)


def warn_of_groups(prepared: Sequence[Prepared]) -> None:
    """Before anything is trained, when it costs nothing to stop."""
    warn(decisions.gather({one.config.name: decisions.warnings(one) for one in prepared}))


def warn(lines: Sequence[str]) -> None:
    """Prints warnings on stderr."""
    for line in lines[:MOST_WARNINGS]:
        print(f"warning: {line}", file=sys.stderr)
    if len(lines) > MOST_WARNINGS:
        print(f"warning: {len(lines) - MOST_WARNINGS} more like these", file=sys.stderr)
