"""The overlap of the answers of a run's tasks, from the stored rows."""

from __future__ import annotations

from functools import cache
from typing import Any

from lcia.data.rows import Rows
from lcia.metrics.overlap import Answers, Overlap, count_answers, overlap
from lcia.run import Prepared
from lcia.store.folders import Store
from lcia.types import Split

MOST_ROWS = 20_000
"""Rows of a split whose answers are looked at: the first ones. Of larger training splits the overlap may be larger."""


class SharedAnswers:
    """Overlaps for the runs of a session; the answers of a split are read once."""

    def __init__(self, store: Store) -> None:
        self._answers = cache(lambda key: _answers(store, key))

    def of(self, prepared: Prepared) -> Overlap:
        """Of the tasks in the order of the stream."""
        tested, trained = self._of_split(prepared, prepared.config.evaluation.split), self._of_split(prepared, "train")
        return overlap(prepared.plan.order, tested, trained)

    def _of_split(self, prepared: Prepared, split: Split) -> dict[str, Answers]:
        shards = prepared.catalog.shards
        return {task: self._answers(shards[task, split]) for task in prepared.plan.order if (task, split) in shards}


def _answers(store: Store, key: str) -> Answers:
    return count_answers(Rows([store.files(key)]).references(MOST_ROWS))


def to_record(found: Overlap) -> dict[str, Any]:
    """As JSON: tested task -> trained task -> per cent."""
    return {task: found.of(task) for task in found.tasks}
