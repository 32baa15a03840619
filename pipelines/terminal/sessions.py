"""A session from its configurations to its run folder: what `run`, `quickstart` and `study` have in common."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from lcia.addresses import is_url
from lcia.config.run import RunConfig
from lcia.plan import union
from lcia.report import decisions, run_folder
from lcia.report.page import PAGE
from lcia.report.run_folder import KEYS, Session
from lcia.run import Outcome, Prepared, prepare, read_outcomes, whole
from lcia.store.lease import Lease
from lcia.store.scratch import occupied
from lcia.store.transfer import open_storage, read, write
from lcia.store.trouble import patiently
from lcia.studies.config import StudyConfig
from lcia.studies.points import Point
from lcia.studies.search import Space
from pipelines.exits import StageFailedError
from pipelines.launch import LaunchConfig

if TYPE_CHECKING:
    from pipelines.stages.execute import RayExecutor
    from pipelines.stages.search import Trial
    from pipelines.tracking.runs import RunTracker

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
    with _shown(name, launch) as shown:
        prepared = prepare(configs, shown.executor)
        shown.write_keys(prepared)
        shown.tracker.begin(prepared, shown.executor.store)
        warn_of_groups(prepared)
        finished, failure = _execute(prepared, shown.executor)
        facts = {"stages": _counts(prepared, shown.executor)}
        return _written(shown, finished, facts, points, [one.config.name for one in prepared], failure)


def carry_out_search(study: StudyConfig, launch: LaunchConfig) -> Finished:
    """The same for a study that draws its runs: those of all trials that were not stopped are its runs.

    Raises:
        StageFailedError: no trial has come to its end.
    """
    from pipelines.stages.search import search

    with _shown(study.name, launch) as shown:
        trials = search(study, shown.executor)
        space = Space(study)
        drawn = [(trial, point) for trial in trials for point in space.points(trial.number, space.read(trial.drawn))]
        prepared = prepare([point.config for _, point in drawn], shown.executor)
        points = [point for trial, point in drawn if trial.whole]
        if not points:
            reasons = "; ".join(dict.fromkeys(trial.failed for trial in trials if trial.failed))
            raise StageFailedError(f"none of {len(trials)} trials has come to its end: {reasons or 'all were stopped'}")
        finished = [one for one, (trial, _) in zip(prepared, drawn, strict=True) if trial.whole]
        shown.write_keys(prepared)
        shown.tracker.begin(finished, shown.executor.store)
        asked = [s.key for one, (t, _) in zip(prepared, drawn, strict=True) for s in one.plan.trains[: t.tasks]]
        counts = {"asked": len(asked), "distinct": len(set(asked)), "trained": shown.executor.trained()}
        facts = {"stages": counts, "search": _record(study, trials)}
        return _written(shown, finished, facts, points, [one.config.name for one in finished], None)


def _record(study: StudyConfig, trials: Sequence[Trial]) -> dict[str, Any]:
    """What a summary keeps of a search; `best` is the number of the best trial that came to its end."""
    whole = [trial for trial in trials if trial.whole and trial.value is not None]
    sign = 1 if study.objective.direction == "max" else -1
    best = max(whole, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))
    space = Space(study)
    return {
        "objective": study.objective.model_dump(mode="json"),
        "best": best.number,
        "trials": [{**asdict(trial), "order": space.read(trial.drawn).order} for trial in trials],
    }


@dataclass(frozen=True)
class _Shown:
    """A session that is open: who executes, who watches, and where its results go."""

    name: str
    folder: Path
    root: str
    executor: RayExecutor
    tracker: RunTracker
    lease: Lease
    started: float

    def write_keys(self, prepared: Sequence[Prepared]) -> None:
        """Says which results the session needs, at once and where `lcia clean` looks."""
        run_folder.write_keys(prepared, self.folder)
        if is_url(self.root):
            _tell_keys(self.root, self.name, (self.folder / KEYS).read_bytes())


@contextlib.contextmanager
def _shown(name: str, launch: LaunchConfig) -> Iterator[_Shown]:
    from pipelines.stages.session import session
    from pipelines.terminal.progress import ProgressDisplay
    from pipelines.tracking.gauges import Gauges
    from pipelines.tracking.runs import tracked

    started = time.perf_counter()
    with (
        _taken(launch.root, name) as lease,
        ProgressDisplay() as progress,
        opened(launch.root, name, lease) as folder,
        tracked(launch, folder, name, lease) as tracker,
        session(launch, progress, tracker.watch, Gauges(name).watch, lease=lease) as executor,
    ):
        yield _Shown(name, folder, launch.root, executor, tracker, lease, started)


@contextlib.contextmanager
def _taken(root: str, name: str) -> Iterator[Lease]:
    lease = Lease.take(root, name)
    try:
        yield lease
    finally:
        lease.end()


def _written(  # noqa: PLR0913 - what a session knows at its end
    shown: _Shown,
    finished: Sequence[Prepared],
    facts: dict[str, Any],
    points: Sequence[Point],
    asked: Sequence[str],
    failure: StageFailedError | None,
) -> Finished:
    """Reads what finished runs have left and writes the run folder."""
    shown.lease.check()
    outcomes = read_outcomes(finished, shown.executor.store)
    names = {one.config.name for one in finished}
    done = Session(
        shown.name, time.perf_counter() - shown.started, facts,
        tuple(point for point in points if point.config.name in names),
        tuple(name for name in asked if name not in names),
    )  # fmt: skip
    summary = run_folder.write(outcomes, done, shown.executor.store, shown.folder)
    shown.tracker.finish(shown.folder)
    return Finished(outcomes, f"{shown.root}/{shown.name}/{PAGE}", summary, failure)


def _execute(prepared: Sequence[Prepared], executor: RayExecutor) -> tuple[Sequence[Prepared], StageFailedError | None]:
    """Trains and evaluates the union of the plans; returns the runs that are whole, and why others are not."""
    try:
        executor.train_and_evaluate(*union(one.plan for one in prepared))
    except StageFailedError as error:
        finished = whole(prepared, executor.store)
        if not finished:
            raise
        return finished, error
    return prepared, None


def _counts(prepared: Sequence[Prepared], executor: RayExecutor) -> dict[str, int]:
    """Trainings that the runs ask for, distinct ones, and those trained in this session."""
    asked = sum(len(one.plan.trains) for one in prepared)
    distinct = len(union(one.plan for one in prepared)[0])
    return {"asked": asked, "distinct": distinct, "trained": executor.trained()}


@contextlib.contextmanager
def opened(root: str, name: str, lease: Lease | None = None) -> Iterator[Path]:
    """The run folder of a session; with storage behind a URL a local one, which is uploaded when the block ends, unless
    the `lease` is lost by then.

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
    if remote:
        _tell_keys(root, name)
    try:
        with occupied(folder):
            yield folder
    finally:
        if remote:
            # They are there since the run began, and must not be newer than the summary.
            (folder / KEYS).unlink(missing_ok=True)
            if lease is None or lease.held:
                patiently(root, _upload, folder, f"{root}/{name}")
            shutil.rmtree(folder, ignore_errors=True)


def _tell_keys(root: str, name: str, keys: bytes = b"") -> None:
    """Puts keys.json where `lcia clean` looks; without `keys` one that is there stays."""
    fs, base = patiently(root, open_storage, root)
    path = f"{base}/{name}/{KEYS}"
    if keys or patiently(root, read, fs, path) is None:
        patiently(root, write, fs, path, keys)


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
