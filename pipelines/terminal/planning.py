"""What is shown before anything is trained: `lcia plan` and `lcia group`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcia.config.run import RunConfig
from lcia.data.shards import count_rows
from lcia.plan import union
from lcia.run import Prepared, prepare
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.terminal.estimates import Measured
from pipelines.terminal.preflight import check_plan, gpu_complaint
from pipelines.terminal.sessions import warn_of_groups
from pipelines.terminal.tables import console, placements_table, plan_rows, plan_table, routes_table, work_table

if TYPE_CHECKING:
    from lcia.store.folders import Store


def plan(chosen: RunConfig | StudyConfig, where: LaunchConfig, as_json: bool) -> None:
    """Of a run its stages; of a study how many there are, and how long they will take."""
    is_study = isinstance(chosen, StudyConfig)
    configs = [point.config for point in expand(chosen)] if isinstance(chosen, StudyConfig) else [chosen]
    prepared, store = _prepared(configs, where)
    if too_many := gpu_complaint(configs, where):
        print(f"note: `lcia {'study' if is_study else 'run'}` would be refused here: {too_many}", file=sys.stderr)
    rows = [] if is_study else plan_rows(prepared[0].plan, store.has)
    work = work_of(prepared, store, where) if is_study else {}
    warn_of_groups(prepared)
    if as_json:
        print(json.dumps(work or rows, indent=1))
    elif is_study:
        console().print(work_table(work))
        print(_likely(work))
    else:
        console().print(plan_table(rows))
        print(f"{sum(row['state'] == 'to do' for row in rows)} of {len(rows)} stages to do")


def work_of(prepared: Sequence[Prepared], store: Store, where: LaunchConfig) -> dict[str, Any]:
    """Stages asked for, distinct, cached and to do, of both kinds, and the hours that the last take here.

    `hours` counts training and answers as going on at the same time, by the groups and actors of the launch; it is None
    where nothing like them was ever measured in this storage.
    """
    trains, evals = union(one.plan for one in prepared)
    new_trains, new_evals = ([s for s in trains if not store.has(s.key)], [s for s in evals if not store.has(s.key)])
    keys = {key for one in prepared for key in one.catalog.shards.values()}
    rows, measured = {key: count_rows(store.fetch(key)) for key in keys}, Measured.of(store)
    training = _hours(measured.training(new_trains, rows), where.train_groups)
    answering = _hours(measured.answering(new_evals, rows), where.eval_actors)
    asked = sum(len(one.plan.trains) for one in prepared), sum(len(one.plan.cells) for one in prepared)
    return {
        "runs": len(prepared),
        "train": _counted(asked[0], len(trains), len(new_trains), training),
        "eval": _counted(asked[1], len(evals), len(new_evals), answering),
        "hours": None if training is None or answering is None else max(training, answering),
    }


def _counted(asked: int, distinct: int, todo: int, hours: float | None) -> dict[str, Any]:
    return {"asked": asked, "distinct": distinct, "cached": distinct - todo, "to do": todo, "hours": hours}


def _hours(seconds: float | None, workers: int) -> float | None:
    return None if seconds is None else seconds / 3600 / workers


def _likely(work: dict[str, Any]) -> str:
    if not work["train"]["to do"] + work["eval"]["to do"]:
        return "everything is there"
    if work["hours"] is None:
        return "how long it will take is not known: no stage on this base was measured in this storage yet"
    return f"about {work['hours']:.2g} hours, as long as stages like these took in this storage"


def group(chosen: RunConfig, where: LaunchConfig, as_json: bool) -> None:
    """Which tasks share an adapter and where instructions are routed."""
    if not chosen.grouping.enabled:
        raise InputError("grouping.enabled is false: there is one adapter and nothing to decide")
    [prepared], _ = _prepared([chosen], where)
    from lcia.report import decisions

    placed = list(decisions.placements(prepared))
    routed = list(decisions.routes(prepared, len(prepared.plan.order) - 1))
    warn_of_groups([prepared])
    if as_json:
        found: dict[str, Any] = {"groups": decisions.records(placed), "routes": decisions.records(routed)}
        found["warnings"] = decisions.warnings(prepared)
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console().print(placements_table(placed), routes_table(routed))


def _prepared(configs: Sequence[RunConfig], where: LaunchConfig) -> tuple[list[Prepared], Store]:
    """Plans; their data is prepared in this process, nothing is trained."""
    check_plan(configs, where)
    from lcia.local import LocalExecutor
    from lcia.store.folders import Store

    executor = LocalExecutor(Store(where.store_root))
    return prepare(configs, executor), executor.store
