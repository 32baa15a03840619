"""What is shown before anything is trained: `lcia plan` and `lcia group`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcia.config.run import RunConfig
from lcia.data.shards import count_rows
from lcia.plan import union
from lcia.run import Prepared, prepare
from lcia.stage import EvaluateStage
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.terminal.estimates import Measured
from pipelines.terminal.preflight import check_plan, gpu_complaint
from pipelines.terminal.sessions import warn_of_groups
from pipelines.terminal.tables import (
    console,
    placements_table,
    plan_rows,
    plan_table,
    routes_table,
    sweep_table,
    work_table,
)

if TYPE_CHECKING:
    from lcia.store.folders import Store

WHOLE = (0.0, 1.0)
"""All thresholds that a configuration may hold."""


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
    where nothing like them was ever measured in this storage. How long commands take is not known.
    """
    trains, evals = union(one.plan for one in prepared)
    new_trains, new_evals = ([s for s in trains if not store.has(s.key)], [s for s in evals if not store.has(s.key)])
    catalogs = {id(one.catalog.shards): one.catalog for one in prepared}.values()
    keys = {key for one in catalogs for key in (*one.shards.values(), *one.fits.values())}
    rows, measured = {key: count_rows(store.files(key)) for key in keys}, Measured.of(store)
    training = _hours(measured.training(new_trains, rows), where.train_groups)
    questions = [stage for stage in new_evals if isinstance(stage, EvaluateStage)]
    answering = _hours(measured.answering(questions, rows), where.eval_actors)
    plans = [one.plan for one in prepared]
    asked = (
        sum(len(each.trains) for each in plans),
        sum(len(each.cells) + len(each.general_cells) + len(each.fits) + len(each.judged) for each in plans),
    )
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
    _check_grouped(chosen)
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


def sweep(chosen: RunConfig, where: LaunchConfig, as_json: bool, picture: Path | None) -> None:
    """All groupings over the range of thresholds, with the most stable one as the suggestion."""
    _check_grouped(chosen)
    if picture and picture.suffix not in (".png", ".svg"):
        raise InputError(f"--picture {picture}: name a .png or an .svg file")
    [prepared], _ = _prepared([chosen], where)
    found = swept(prepared)
    if picture:
        _draw(found, prepared.plan.order, picture)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console().print(sweep_table(found))
    best = next(row for row in found if row["suggested"])
    print(f"suggested: grouping.threshold={best['threshold']:.3g}, in the middle of the widest stretch")


def swept(prepared: Prepared) -> list[dict[str, Any]]:
    """Each grouping at thresholds from 0 to 1: `low`, `high`, `groups` as lists of tasks, `at_home` the share of test
    samples that their own task's group answers at the middle.

    `suggested` is the widest one between the similarities that unrelated instructions and paraphrases reach, where the
    embedder knows them, with the `threshold` in the middle of that part.
    """
    from lcia.embedders import similarity_of
    from lcia.grouping import sweep as sweeping

    config, catalog = prepared.config, prepared.catalog
    similarity = similarity_of(config.grouping.embedder)
    limits = config.grouping.embedder.auto_range or WHOLE
    train = {task: catalog.features[task, "train"] for task in catalog.order}
    asked = {task: catalog.features[task, config.evaluation.split] for task in catalog.order}
    every = sweeping.sweep(catalog.order, train, similarity)
    stretches = [stretch for stretch in every if stretch.width(WHOLE) > 0]
    best = sweeping.widest(stretches, limits)
    found: list[dict[str, Any]] = []
    for number, stretch in enumerate(stretches):
        low, high = stretch.within(WHOLE)
        middle = sum(stretch.within(limits)) / 2 if number == best else (low + high) / 2
        home = sweeping.at_home(stretch, asked, similarity, config.grouping, middle)
        groups: dict[int, list[str]] = {}
        for placement in stretch.placements:
            groups.setdefault(placement.group, []).append(placement.task)
        found.append({"low": low, "high": high, "threshold": middle, "groups": list(groups.values()),
                      "at_home": home, "suggested": number == best})  # fmt: skip
    return found


def _draw(found: Sequence[Mapping[str, Any]], tasks: Sequence[str], picture: Path) -> None:
    from lcia.report.figures.grouping import Stripe, groupings

    stripes = [
        Stripe(row["low"], row["high"],
               tuple(next(g for g, own in enumerate(row["groups"]) if task in own) for task in tasks),
               row["suggested"])
        for row in found
    ]  # fmt: skip
    groupings(tasks, stripes).savefig(picture, dpi=150, facecolor="white")


def _check_grouped(chosen: RunConfig) -> None:
    if not chosen.groups:
        raise InputError(
            "grouping.enabled is false, or protocol is not continual: there is one adapter and nothing to decide"
        )


def _prepared(configs: Sequence[RunConfig], where: LaunchConfig) -> tuple[list[Prepared], Store]:
    """Plans; their data is prepared in this process, nothing is trained."""
    check_plan(configs, where)
    from lcia.local import LocalExecutor
    from lcia.store.folders import Store

    executor = LocalExecutor(Store(where.store_root))
    return prepare(configs, executor), executor.store
