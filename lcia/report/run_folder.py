"""What a run leaves: keys.json when it begins; summary.json, matrices, decisions, predictions, adapters and report.html
at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lcia.config.strategies import AverageSection
from lcia.data.rows import Rows
from lcia.evaluation.answers import ANSWERS
from lcia.metrics import companion
from lcia.metrics import matrix as matrices
from lcia.metrics.adaptation import Round, rounds
from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.overlap import Overlap
from lcia.plan import ZERO_SHOT, Cell
from lcia.report import decisions, learnt, shared_answers, signs, study_tables
from lcia.report.environment import environment
from lcia.report.figures.run import StageSteps
from lcia.report.learnt import TaskAnswers
from lcia.report.page import Prediction, ReportInput, RunReport
from lcia.report.page import write as write_page
from lcia.report.shared_answers import SharedAnswers
from lcia.report.signs import Signs
from lcia.report.study_tables import StudyTables, tabulate
from lcia.report.wording import clock, failures
from lcia.run import Outcome, Prepared, keys_of
from lcia.stage import EvaluateStage, TrainStage
from lcia.store.folders import Store
from lcia.store.trouble import named_when_full
from lcia.studies.compare import Cost
from lcia.studies.points import Point
from lcia.training.result import TrainResult

MOST_SHOWN = 12
"""Runs that the page shows one by one; of a larger study the first of each label."""
MOST_KEPT = 100
"""Runs of a session up to which each has a folder of its own and all that is known of it in the summary. Of more, only
those that the page shows have."""
SUMMARY = "summary.json"
KEYS = "keys.json"
"""Lists the results that a run needs, for `lcia clean`. Empty: the run has begun and does not know them yet."""


@dataclass(frozen=True)
class Known:
    """A finished run and what reading it told: answers beside constant ones, warnings of its grouping, signs of
    failure and, by their kind, the texts of those that it shows."""

    outcome: Outcome
    answers: tuple[TaskAnswers, ...]
    grouping: list[str]
    signs: Signs
    failing: Mapping[str, str]

    @classmethod
    def of(cls, outcome: Outcome) -> Known:
        watched = signs.watch(outcome)
        failing = signs.warnings(watched, outcome.config.watch)
        return cls(outcome, learnt.tell(outcome), decisions.warnings(outcome.prepared), watched, failing)

    @property
    def name(self) -> str:
        return self.outcome.config.name

    @property
    def warnings(self) -> list[str]:
        """All of them as texts."""
        return [*self.grouping, *(each.warning for each in self.answers if each.warning), *self.failing.values()]


@dataclass(frozen=True)
class Session:
    """What is known of a finished session beside its outcomes. `points`: of a study, one per outcome; `failed`: names
    of the runs that have none."""

    title: str
    wall_seconds: float
    facts: Mapping[str, Any]
    points: tuple[Point, ...] = ()
    failed: tuple[str, ...] = ()


def write_keys(prepared: Sequence[Prepared], folder: Path) -> None:
    """Writes keys.json. Atomic: half a list would tell `lcia clean` that the rest is not needed."""
    scratch = folder / f"{KEYS}.tmp"
    with named_when_full(str(folder)):
        scratch.write_text(json.dumps(sorted(keys_of(prepared)), indent=0))
        scratch.replace(folder / KEYS)


def write(outcomes: Sequence[Outcome], session: Session, store: Store, folder: Path) -> dict[str, Any]:
    """Writes everything else below `folder`; returns the summary.

    Raises:
        StoreError: there is no space left.
    """
    with named_when_full(str(folder)):
        return _write(outcomes, session, store, folder)


def _write(outcomes: Sequence[Outcome], session: Session, store: Store, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    known = [Known.of(outcome) for outcome in outcomes]
    tables = _tables(outcomes, session.points) if session.points else None
    shown = _shown(outcomes, tables)
    whole = range(len(outcomes)) if len(outcomes) <= MOST_KEPT else shown
    answers = SharedAnswers(store)
    overlaps = {at: answers.of(outcomes[at].prepared) for at in whole}
    summary = _summary(known, overlaps, session)
    if tables:
        summary = {**summary, **study_tables.to_record(tables)}
    # Last, because it is the longest.
    summary["runs"] = summary.pop("runs")
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    for at in whole:
        _write_run(outcomes[at], store, folder / outcomes[at].config.name if len(outcomes) > 1 else folder)
    page = ReportInput(
        title=session.title,
        runs=tuple(replace(_page(known[at], store), overlap=overlaps[at]) for at in shown),
        counts=tuple(_counts(outcomes)),
        environment=summary["environment"],
        subtitle=f"{_runs(len(outcomes))}, {clock(session.wall_seconds)}",
        warnings=tuple(summary["warnings"]),
        study=tables,
        matrices={outcome.config.name: outcome.matrix for outcome in outcomes},
        search=session.facts.get("search", {}),
        stages=session.facts.get("stages", {}),
        failed=failures(session.failed, session.facts.get("search", {})),
    )
    write_page(page, folder)
    return summary


def _tables(outcomes: Sequence[Outcome], points: Sequence[Point]) -> StudyTables:
    beside = [outcome.beside for outcome in outcomes]
    return tabulate(points, [outcome.matrix for outcome in outcomes], [_cost(outcome) for outcome in outcomes], beside)


def _cost(outcome: Outcome) -> Cost:
    adapters, kept = len(outcome.newest), outcome.kept_mb
    return Cost(outcome.train_seconds / 60, kept, adapters, outcome.adapters_mb, adapters * kept)


def _summary(known: Sequence[Known], overlaps: Mapping[int, Overlap], session: Session) -> dict[str, Any]:
    """`overlaps`: by the places of the runs that everything is kept of."""
    runs = {
        one.name: {**_figures(one.outcome, one.warnings), **(_details(one, overlaps[at]) if at in overlaps else {})}
        for at, one in enumerate(known)
    }
    warnings = [
        *_missing(session.failed, len(known)),
        *decisions.gather({one.name: one.grouping for one in known}),
        *learnt.gather({one.name: one.answers for one in known}),
        *signs.gather({one.name: one.failing for one in known}),
    ]
    facts = {
        "title": session.title, "wall_seconds": session.wall_seconds, **session.facts, "failed": list(session.failed)
    }  # fmt: skip
    return {"environment": environment(), **facts, "warnings": warnings, "runs": runs}


def _missing(failed: Sequence[str], finished: int) -> Iterator[str]:
    if failed:
        names = ", ".join(failed[:MOST_SHOWN]) + (" ..." if len(failed) > MOST_SHOWN else "")
        yield f"{len(failed)} of {len(failed) + finished} runs failed and are not in these figures: {names}"


def _shown(outcomes: Sequence[Outcome], tables: StudyTables | None) -> Sequence[int]:
    """Places of the runs that the page shows one by one."""
    if len(outcomes) <= MOST_SHOWN or tables is None:
        return range(min(len(outcomes), MOST_SHOWN))
    first: dict[str, int] = {}
    for at, outcome in enumerate(outcomes):
        first.setdefault(tables.labels[outcome.config.name], at)
    return list(first.values())[:MOST_SHOWN]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _figures(outcome: Outcome, warnings: list[str]) -> dict[str, Any]:
    """One run in short, as JSON: warnings, metrics under both scorings, matrix, seconds."""
    plan = outcome.prepared.plan
    return {
        "name": outcome.config.name,
        "order": list(plan.order),
        "seed": outcome.config.seed,
        "strategy": outcome.config.strategy.kind,
        "scoring": outcome.config.evaluation.scoring,
        "warnings": warnings,
        "metrics": _metrics(outcome.matrix),
        "metrics_by_scoring": {scoring: _metrics(scores) for scoring, scores in outcome.scores.items()},
        "matrix": matrices.to_json(outcome.matrix),
        **({"rounds": [each._asdict() for each in found]} if (found := _rounds(outcome)) else {}),
        **({"general": companion.to_json(outcome.beside)} if outcome.beside else {}),
        "train_seconds": outcome.train_seconds,
        "kept_mb": outcome.kept_mb,
        "adapters": len(outcome.newest),
        "adapters_mb": outcome.adapters_mb,
        "eval_seconds": sum(outcome.answers[stage.key].result["seconds"] or 0.0 for stage in plan.evals),
    }


def _details(one: Known, overlap: Overlap) -> dict[str, Any]:
    """The rest of a run: stages, answers, signs, decisions, configuration."""
    outcome = one.outcome
    config, plan = outcome.config, outcome.prepared.plan
    return {
        "stages": [_train_facts(stage, outcome.trainings[stage.key]) for stage in plan.trains],
        "evaluations": [{"key": s.key, "task": s.task, **outcome.answers[s.key].result} for s in plan.evals],
        "normalised": matrices.to_json(outcome.scores["normalised"]),
        "answers": [learnt.to_record(told) for told in one.answers],
        "answers_in_training": shared_answers.to_record(overlap),
        "signs": signs.to_record(one.signs),
        **_decisions(outcome.prepared),
        "served": decisions.served(outcome.prepared),
        "counts": {label: asdict(counts) for label, counts in outcome.prepared.counts.items()},
        "config": config.model_dump(mode="json", by_alias=True),
    }


def _rounds(outcome: Outcome) -> tuple[Round, ...]:
    """Of a stream whose tasks are cut into stretches; else none."""
    stretches = outcome.prepared.benchmark.stretches
    return rounds(outcome.matrix, stretches) if stretches > 1 and outcome.config.is_stream else ()


def _metrics(scores: AccuracyMatrix) -> dict[str, Any]:
    return {name: {"value": m.value, "reason": m.reason} for name, m in matrices.metrics(scores).items()}


def _train_facts(stage: TrainStage, training: TrainResult) -> dict[str, Any]:
    return {"key": stage.key, "tasks": list(stage.tasks), "strategy": stage.strategy.kind, "first": stage.first,
            "last_step": training.steps[-1] if training.steps else {}, **training.result}  # fmt: skip


def _decisions(prepared: Prepared) -> dict[str, Any]:
    """Where each task was trained and, at the end of the stream, where each instruction is routed."""
    routes = decisions.routes(prepared, len(prepared.plan.order) - 1)
    return {"groups": decisions.records(decisions.placements(prepared)), "routes": decisions.records(routes)}


def _write_run(outcome: Outcome, store: Store, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config, plan = outcome.config, outcome.prepared.plan
    text = yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text)
    for scoring, scores in outcome.scores.items():
        (folder / f"matrix.{scoring}.csv").write_text(matrices.to_csv(scores))
        (folder / f"matrix.{scoring}.json").write_text(matrices.dumps(scores))
    text = json.dumps(_decisions(outcome.prepared), indent=1, ensure_ascii=False)
    (folder / "decisions.json").write_text(text)
    for cell in (*plan.cells, *plan.general_cells):
        _write_predictions(outcome, cell, store, folder / "predictions")
    for group, key in (plan.groups[-1] if plan.groups else {}).items():
        outcome.trainings[key].export(folder / "adapters" / f"g{group}")


def _final(outcome: Outcome) -> list[EvaluateStage]:
    """The evaluation stages of the matrix's last row."""
    return [cell.stage for cell in outcome.prepared.plan.cells if cell.row == outcome.last]


def _write_predictions(outcome: Outcome, cell: Cell, store: Store, folder: Path) -> None:
    """predictions/<place>-<task trained last>/<task asked about>.parquet."""
    place = _place(outcome, cell)
    (folder / place).mkdir(parents=True, exist_ok=True)
    groups, stage = _group_names(outcome, cell.row), cell.stage
    table = pq.read_table(store.fetch(stage.key) / ANSWERS)
    named = [groups.get(adapter, "base") for adapter in table["adapter"].to_pylist()]
    table = table.append_column("group", pa.array(named, pa.string()))
    for scoring, scores in outcome.answers[stage.key].scores.items():
        table = table.append_column(scoring, pa.array(scores, pa.float64()))
    pq.write_table(table, folder / place / f"{stage.task}.parquet")


def _place(outcome: Outcome, cell: Cell) -> str:
    """0-untuned: the base before any training; N-all-tasks: after training all N tasks at once."""
    order, config = outcome.prepared.plan.order, outcome.config
    if cell.row == ZERO_SHOT or not config.trains:
        return "0-untuned"
    return f"{cell.row + 1}-{order[cell.row] if config.is_stream else 'all-tasks'}"


def _group_names(outcome: Outcome, row: int) -> dict[str | None, str]:
    """Key of an adapter -> the group it stood for in that row of the matrix; joint training has one row of groups."""
    groups = outcome.prepared.plan.groups
    known = groups[min(row, len(groups) - 1)] if groups and row != ZERO_SHOT else {}
    return {key: f"g{group}" for group, key in known.items()}


# The page -------------------------------------------------------------------------------------------------------


def _page(one: Known, store: Store) -> RunReport:
    outcome = one.outcome
    plan, config = outcome.prepared.plan, outcome.config
    return RunReport(
        name=config.name,
        matrix=outcome.matrix,
        normalised=outcome.scores["normalised"],
        config=config.model_dump(mode="json", by_alias=True),
        steps=tuple(_steps(stage, outcome.trainings[stage.key]) for stage in plan.trains),
        decisions=decisions.shown(outcome.prepared),
        served=decisions.served(outcome.prepared) if config.grouping.enabled else {},
        predictions=tuple(p for stage in _final(outcome) for p in _examples(outcome, stage, store)),
        seconds=dict(_seconds(outcome)),
        notes={_named(stage): outcome.trainings[stage.key].notes for stage in plan.trains},
        answers=one.answers,
        signs=one.signs,
        rounds=_rounds(outcome),
        beside=outcome.beside,
    )


def _seconds(outcome: Outcome) -> Iterator[tuple[str, float]]:
    """Of every stage by what it did; trainings first."""
    plan = outcome.prepared.plan
    for train in plan.trains:
        yield _named(train), outcome.trainings[train.key].seconds
    for stage in plan.evals:
        if (seconds := outcome.answers[stage.key].result["seconds"]) is not None:
            yield f"answers to {stage.task} ({stage.key[:6]})", seconds


def _named(stage: TrainStage) -> str:
    return f"{stage.label} ({stage.key[:6]})"


def _steps(stage: TrainStage, training: TrainResult) -> StageSteps:
    strategy = stage.strategy
    bounds = (strategy.beta_min, strategy.beta_max) if isinstance(strategy, AverageSection) else None
    return StageSteps(stage.label, training.steps, bounds)


def _examples(outcome: Outcome, stage: EvaluateStage, store: Store) -> list[Prediction]:
    """The first answers of a task, with their first image."""
    answers = outcome.answers[stage.key]
    scores, groups = answers.scores[outcome.config.evaluation.scoring], _group_names(outcome, outcome.last)
    samples = Rows([store.files(stage.shards)]).take([record["row"] for record in answers.examples])
    return [
        Prediction(stage.task, r["id"], r["question"], tuple(r["references"]), r["prediction"], score,
                   groups.get(r["adapter"], "base"), s.images[0] if s.images else None)
        for r, score, s in zip(answers.examples, scores[: len(samples)].tolist(), samples, strict=True)
    ]  # fmt: skip


def _counts(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    rows = {label: counts for outcome in outcomes for label, counts in outcome.prepared.counts.items()}
    return [{"data": label, "rows": c.rows, "bad rows": c.bad} for label, c in rows.items()]
