"""What the commands of the command line do. Results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from lcia.config import RunConfig
from lcia.load import load, override, parse
from lcia.run import Outcome, Prepared, check, complete, matrices, prepare
from lcia.stats import Spread
from lcia.study import Point, StudyConfig, against_first, compare, compare_orders, compare_tasks, expand
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.tables import (
    comparison_table,
    console,
    metrics_table,
    placements_table,
    plan_rows,
    plan_table,
    routes_table,
    study_table,
    tasks_table,
)

QUICKSTART = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "Grounding", "OCR-VQA"], "test_size": 100},
    "training": {"max_steps": 80},
    "strategy": {"kind": "curvature"},
}
"""The default method on three unlike tasks; `sequential` beside it differs by strategy and grouping alone."""
METHODS: dict[str, dict[str, Any]] = {
    "sequential": {"strategy.kind": "sequential", "grouping.enabled": False},
    "lcia": {},
}


def quickstart(overrides: Sequence[str], storage: Path, workers: int, settings: Sequence[str]) -> None:
    """Both methods in one session; writes <storage>/quickstart. `overrides` change what both have in common."""
    study = StudyConfig(name="quickstart", base=override(QUICKSTART, overrides), methods=METHODS)
    where = override({"storage": str(storage), "num_workers": workers}, settings)
    launch = parse(LaunchConfig, where, "quickstart")
    points = [p.model_copy(update={"config": p.config.model_copy(update={"name": p.method})}) for p in expand(study)]
    _run([point.config for point in points], launch, study.name)


def run(config: Path, overrides: Sequence[str], launch: Path | None, settings: Sequence[str], dry_run: bool) -> None:
    if dry_run:
        plan(config, overrides, launch, settings, False)
        return
    chosen = load(RunConfig, config, overrides)
    _run([chosen], load(LaunchConfig, launch, settings), chosen.name)


def _run(configs: Sequence[RunConfig], launch: LaunchConfig, name: str) -> list[Outcome]:
    """Runs, writes the run folder, prints tables and the report's path."""
    from lcia.results import Session
    from pipelines.execute import session
    from pipelines.progress import Progress
    from pipelines.tracking_run import tracked

    for config in configs:
        check(config)
        launch.check_batch(config.training.batch_size)
    started = time.perf_counter()
    with Progress() as progress, tracked(launch, name) as tracker, session(launch, progress, tracker.watch) as executor:
        prepared = prepare(configs, executor)
        tracker.begin(prepared, executor.store)
        outcomes = complete(prepared, executor)
        done = Session(name, time.perf_counter() - started, {"stages": executor.counts()})
        page = tracker.finish(outcomes, done, executor.store)
    _show(outcomes, page, time.perf_counter() - started)
    return outcomes


def _show(outcomes: Sequence[Outcome], page: Path, seconds: float) -> None:
    out = console()
    for outcome in outcomes:
        out.print(matrix_table(outcome))
    out.print(metrics_table({o.config.name: o.matrix for o in outcomes}))
    out.print(f"wall time {seconds:.0f} s", highlight=False)
    print(f"report: {page}")


def matrix_table(outcome: Outcome) -> Table:
    """Accuracy on each task (columns) after training each task (rows)."""
    table = Table(
        "after training", *outcome.matrix.tasks, title=f"{outcome.config.name}: accuracy (%)", title_justify="left"
    )
    for label, values in outcome.matrix.rows():
        table.add_row(label, *("" if value != value else f"{value:.1f}" for value in values))
    return table


# Planning ---------------------------------------------------------------------------------------------------------


def plan(config: Path, overrides: Sequence[str], launch: Path | None, settings: Sequence[str], as_json: bool) -> None:
    prepared, store = _prepared(config, overrides, launch, settings)
    rows = plan_rows(prepared.plan, store)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    console().print(plan_table(rows))
    todo = sum(row["state"] == "to do" for row in rows)
    print(f"{todo} of {len(rows)} stages to do")


def _prepared(
    config: Path, overrides: Sequence[str], launch: Path | None, settings: Sequence[str]
) -> tuple[Prepared, Any]:
    """The plan of a configuration; its data is prepared in this process, nothing is trained."""
    from lcia.local import LocalExecutor
    from lcia.store import Store

    where = load(LaunchConfig, launch, settings)
    chosen = load(RunConfig, config, overrides)
    where.check_batch(chosen.training.batch_size)
    executor = LocalExecutor(Store(where.store_root))
    return prepare([chosen], executor)[0], executor.store


def group(config: Path, overrides: Sequence[str], launch: Path | None, settings: Sequence[str], as_json: bool) -> None:
    from lcia import decisions

    prepared, _ = _prepared(config, overrides, launch, settings)
    if not prepared.config.grouping.enabled:
        raise InputError("grouping.enabled is false: there is one adapter and nothing to decide")
    placed = list(decisions.placements(prepared))
    routed = list(decisions.routes(prepared, len(prepared.plan.order) - 1))
    if as_json:
        found = {"groups": decisions.records(placed), "routes": decisions.records(routed)}
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console().print(placements_table(placed), routes_table(routed))


# Studies ----------------------------------------------------------------------------------------------------------


def study(config: Path, overrides: Sequence[str], launch: Path | None, settings: Sequence[str], as_json: bool) -> None:
    from lcia.results import Session
    from pipelines.execute import session
    from pipelines.progress import Progress
    from pipelines.study import tune_runs
    from pipelines.tracking_run import tracked

    chosen = load(StudyConfig, config, overrides)
    where = load(LaunchConfig, launch, settings)
    points = expand(chosen)
    for point in points:
        check(point.config)
        where.check_batch(point.config.training.batch_size)
    started = time.perf_counter()
    with Progress() as progress, tracked(where, chosen.name) as tracker, session(where, progress, tracker.watch) as ex:
        prepared = prepare([point.config for point in points], ex)
        tracker.begin(prepared, ex.store)
        ex.set_damaged_aside(stage.key for one in prepared for stage in (*one.plan.trains, *one.plan.evals))
        tune_runs(points, ex, chosen.name, chosen.max_concurrent_trials)
        outcomes = [Outcome(p, matrices(p, ex.store)) for p in prepared]
        counts = ex.counts()
        tracker.finish(outcomes, Session(chosen.name, time.perf_counter() - started, {"stages": counts}), ex.store)
    _show_study(points, outcomes, counts, as_json)


def _show_study(points: Sequence[Point], outcomes: Sequence[Outcome], counts: dict[str, int], as_json: bool) -> None:
    found = [outcome.matrix for outcome in outcomes]
    compared, ordered, paired = compare(points, found), compare_orders(points, found), against_first(points, found)
    tasks = compare_tasks(points, found)
    if as_json:
        rows, by_order = _spreads(compared), _spreads(ordered)
        tests = {name: asdict(comparison) for name, comparison in paired.items()}
        by_task = {name: _spreads({task: t._asdict() for task, t in row.items()}) for name, row in tasks.items()}
        shown = {"stages": counts, "methods": rows, "tasks": by_task, "orders": by_order, "against_first": tests}
        print(json.dumps(shown, indent=1))
        return
    out = console()
    out.print(study_table(compared))
    out.print(tasks_table(tasks))
    if ordered:
        out.print(study_table(ordered))
    if paired:
        out.print(comparison_table(points[0].label, paired))
    print(
        f"runs {len(points)}; trainings asked {counts['asked']}, "
        f"distinct {counts['distinct']}, trained {counts['trained']}"
    )


def _spreads(table: Mapping[str, Mapping[str, Spread | None]]) -> dict[str, dict[str, Any]]:
    return {name: {metric: s and asdict(s) for metric, s in values.items()} for name, values in table.items()}


# Everything else --------------------------------------------------------------------------------------------------


def report(folder: Path, as_json: bool) -> None:
    from lcia import matrix

    summary, page = _summary(folder)
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    out = console()
    out.print(metrics_table({name: matrix.from_json(run["matrix"]) for name, run in summary["runs"].items()}))
    print(f"wall time {summary['wall_seconds']:.0f} s\nreport: {page}")


def _summary(folder: Path) -> tuple[dict[str, Any], Path]:
    """What a session left, and its page; of one among several runs, whose folder lies in the session's, its part."""
    for place, chosen in ((folder, None), (folder.absolute().parent, folder.absolute().name)):
        path = place / "summary.json"
        summary = json.loads(path.read_text()) if path.is_file() else {"runs": {}}
        runs = summary["runs"] if chosen is None else {n: run for n, run in summary["runs"].items() if n == chosen}
        if runs:
            return {**summary, "runs": runs}, place / "report.html"
    raise InputError(f"{folder} holds no finished run (no summary.json); give the folder that `lcia run` printed")


def launch(config: Path, overrides: Sequence[str], launch: Path, target: str, address: str) -> None:
    from pipelines import submit

    chosen, where = load(RunConfig, config, overrides), load(LaunchConfig, launch, ())
    submit.launch(chosen, where, target, address, None if overrides else config.read_text())


def schema(what: str) -> None:
    models: dict[str, Any] = {"run": RunConfig, "launch": LaunchConfig, "study": StudyConfig}
    if what not in models:
        raise InputError(f"no schema named {what!r}; there are {', '.join(models)}")
    print(json.dumps(models[what].model_json_schema(by_alias=True), indent=1))
