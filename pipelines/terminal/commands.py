"""What the commands of the command line do. Results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcia.config.load import override, parse
from lcia.config.run import RunConfig
from lcia.report.page import PAGE
from lcia.report.run_folder import SUMMARY
from lcia.report.study_tables import KEYS as STUDY_KEYS
from lcia.run import Outcome
from lcia.studies.config import GridConfig, StudyConfig
from lcia.studies.points import expand, representatives
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.terminal.preflight import check_run
from pipelines.terminal.sessions import carry_out, carry_out_search, warn
from pipelines.terminal.tables import (
    companion_table,
    console,
    matrix_table,
    metrics_table,
    study_tables,
    trials_table,
)

GIVE = "give the folder that `lcia run`, `lcia study` or `lcia quickstart` wrote, for example runs/quickstart"
WRITE_AGAIN = "run the same command again: what is done is kept, and the summary is written again"

QUICKSTART = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "Grounding", "OCR-VQA"], "test_size": 100},
    "training": {"max_steps": 80},
    "strategy": {"kind": "kronecker"},
}
"""The default method on three unlike tasks; `sequential` beside it differs by strategy and grouping alone."""
METHODS: dict[str, dict[str, Any]] = {
    "sequential": {"strategy.kind": "sequential", "grouping.enabled": False},
    "lcia": {},
}


def quickstart(overrides: Sequence[str], storage: str, workers: int, settings: Sequence[str]) -> None:
    """Both methods, side by side; writes <storage>/quickstart. `overrides` change what both have in common."""
    study = StudyConfig(name="quickstart", base=override(QUICKSTART, overrides), methods=METHODS)
    where = override({"storage": storage, "num_workers": workers, "train_groups": len(METHODS)}, settings)
    launch = parse(LaunchConfig, where, "quickstart")
    configs = [point.config.model_copy(update={"name": point.method}) for point in expand(study)]
    _run(configs, launch, study.name)


def run(chosen: RunConfig, where: LaunchConfig, dry_run: bool) -> None:
    if dry_run:
        from pipelines.terminal.planning import plan

        plan(chosen, where, False)
    else:
        _run([chosen], where, chosen.name)


def _run(configs: Sequence[RunConfig], launch: LaunchConfig, name: str) -> None:
    """Runs, writes the run folder, prints tables and the report's path."""
    check_run(configs, launch)
    started = time.perf_counter()
    finished = carry_out(name, configs, launch)
    _show(finished.outcomes, time.perf_counter() - started)
    warn(finished.summary["warnings"])
    print(f"report: {finished.page}")
    if finished.failure:
        raise finished.failure


def _show(outcomes: Sequence[Outcome], seconds: float) -> None:
    out = console()
    for outcome in outcomes:
        out.print(matrix_table(outcome.config.name, outcome.matrix))
        if outcome.beside:
            out.print(companion_table(outcome.config.name, outcome.beside))
    out.print(metrics_table({o.config.name: o.matrix for o in outcomes}))
    out.print(f"wall time {seconds:.0f} s", highlight=False)


# Studies ----------------------------------------------------------------------------------------------------------


def study(chosen: StudyConfig, where: LaunchConfig, as_json: bool) -> None:
    check_run(representatives(chosen), where)
    if isinstance(chosen.search, GridConfig):
        points = expand(chosen)
        finished = carry_out(chosen.name, [point.config for point in points], where, points)
    else:
        finished = carry_out_search(chosen, where)
    summary = finished.summary
    if as_json:
        short = {
            name: value for name, value in summary.items() if name in ("stages", "search", "warnings", *STUDY_KEYS)
        }
        print(json.dumps(short, indent=1, ensure_ascii=False))
    else:
        _show_summary(summary, finished.page)
    warn(summary["warnings"])
    if finished.failure:
        raise finished.failure


def _show_summary(summary: Mapping[str, Any], page: str | Path) -> None:
    """What a session left: of a study its tables, of runs their metrics."""
    from lcia.metrics import companion, matrix
    from lcia.report.study_tables import from_record, holds_study

    out = console()
    if "search" in summary:
        out.print(trials_table(summary["search"]))
    if holds_study(summary):
        out.print(*study_tables(from_record(summary)))
        counts = summary["stages"]
        print(f"runs {len(summary['runs'])}; trainings asked {counts['asked']}, "
              f"distinct {counts['distinct']}, trained {counts['trained']}")  # fmt: skip
    else:
        out.print(metrics_table({name: matrix.from_json(run["matrix"]) for name, run in summary["runs"].items()}))
        for name, run in summary["runs"].items():
            if "general" in run:
                out.print(companion_table(name, companion.from_json(run["general"])))
    print(f"wall time {summary['wall_seconds']:.0f} s\nreport: {page}")


# Everything else --------------------------------------------------------------------------------------------------


def report(folder: Path, as_json: bool, again: bool) -> None:
    if again:
        _rebuild(folder)
    summary, page = _summary(folder)
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        _show_summary(summary, page)
    warn(summary.get("warnings", []))


def _rebuild(folder: Path) -> None:
    """Makes the session's folder again; its store lies beside it."""
    from lcia.report.rebuild import rebuild
    from lcia.store.folders import Store

    summary = _read_summary(folder / SUMMARY)
    if not summary["runs"]:
        raise InputError(f"{folder} is not the folder of a session: it has no {SUMMARY}; {GIVE}")
    rebuild(summary, Store(str(folder.absolute().parent / "store")), folder)


def _summary(folder: Path) -> tuple[dict[str, Any], Path]:
    """What a session left, and its page; of one among several runs, whose folder lies in the session's, its part."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; {GIVE}")
    if not folder.exists():
        raise InputError(f"there is no folder {folder}; {GIVE}")
    for place, chosen in ((folder, None), (folder.absolute().parent, folder.absolute().name)):
        summary = _read_summary(place / SUMMARY)
        runs = summary["runs"] if chosen is None else {n: run for n, run in summary["runs"].items() if n == chosen}
        if runs:
            return summary if chosen is None else _part(summary, chosen), place / PAGE
    raise InputError(f"there is no finished run in {folder}: it has no {SUMMARY}; {GIVE}")


def _part(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """What a session's summary says of one of its runs."""
    run = summary["runs"][name]
    kept = {key: value for key, value in summary.items() if key not in STUDY_KEYS}
    return {**kept, "warnings": run.get("warnings", []), "runs": {name: run}}


def _read_summary(path: Path) -> dict[str, Any]:
    """The summary in a folder, one without runs where there is none.

    Raises:
        InputError: the file is not what a run writes.
    """
    if not path.is_file():
        return {"runs": {}}
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {WRITE_AGAIN}") from None
    if not isinstance(summary, dict) or not isinstance(summary.get("runs"), dict) or "wall_seconds" not in summary:
        raise InputError(f"{path} is not the summary of a run; {WRITE_AGAIN}")
    return summary


def schema(what: str) -> None:
    models: dict[str, Any] = {"run": RunConfig, "launch": LaunchConfig, "study": StudyConfig}
    if what not in models:
        raise InputError(f"no schema named {what!r}; there are {', '.join(models)}")
    print(json.dumps(models[what].model_json_schema(by_alias=True), indent=1))
