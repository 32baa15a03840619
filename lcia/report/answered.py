"""Reads from the stored answers of a run what each of its tasks is told of in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lcia.report.learnt import TaskAnswers
from lcia.run import Outcome, scored
from lcia.stage import EvalStage
from lcia.store.folders import Store

MOST = 5
"""Answers that are named with their counts."""


def tell(outcome: Outcome, store: Store) -> tuple[TaskAnswers, ...]:
    """Every task of a finished run, in the order of the stream."""
    return tuple(_tell(outcome, store))


def _tell(outcome: Outcome, store: Store) -> Iterator[TaskAnswers]:
    cells = {(cell.row, cell.column): cell.stage for cell in outcome.prepared.plan.cells}
    last = len(outcome.matrix.tasks) - 1
    for column, task in enumerate(outcome.matrix.tasks):
        learnt, final = cells.get((_trained(outcome, column), column)), cells.get((last, column))
        known = {stage.key: _records(outcome, stage, store) for stage in (learnt, final) if stage}
        if not known:
            continue
        records = known[final.key] if final else next(iter(known.values()))
        majority = _majority(records)
        yield TaskAnswers(
            task, len(records), majority, _constant(outcome, task, records, majority),
            _mean(outcome, known.get(learnt.key)) if learnt else None,
            _mean(outcome, known.get(final.key)) if final else None,
            _most(known[learnt.key]) if learnt else (), _most(known[final.key]) if final else (),
        )  # fmt: skip


def _trained(outcome: Outcome, column: int) -> int:
    """The row in which a task was trained: its own; with all tasks at once the last; -2: it was not trained."""
    last = len(outcome.matrix.tasks) - 1
    if outcome.config.is_stream:
        return column
    return last if outcome.config.trains else -2


def _records(outcome: Outcome, stage: EvalStage, store: Store) -> Sequence[Mapping[str, Any]]:
    return scored(outcome.prepared, stage, store)


def _majority(records: Sequence[Mapping[str, Any]]) -> str:
    """The reference that most samples have; of a sample with several references each counts once."""
    counts = Counter(answer for record in records for answer in dict.fromkeys(record["references"]))
    return counts.most_common(1)[0][0] if counts else ""


def _constant(outcome: Outcome, task: str, records: Sequence[Mapping[str, Any]], answer: str) -> float:
    """Percent that always giving `answer` scores."""
    spec = outcome.prepared.benchmark[task]
    scorer = spec.strict if outcome.config.evaluation.scoring == "strict" else spec.legacy
    return 100 * sum(scorer(answer, record["references"]) for record in records) / len(records)


def _mean(outcome: Outcome, records: Sequence[Mapping[str, Any]] | None) -> float | None:
    scoring = outcome.config.evaluation.scoring
    return 100 * sum(record[scoring] for record in records) / len(records) if records else None


def _most(records: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(record["prediction"].strip() for record in records).most_common(MOST))
