"""The scores of an EvaluateStage's answers. What is kept does not grow with the length of questions and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcia.evaluation.answers import read_answers, read_result
from lcia.metrics.scoring import fitted, normalised
from lcia.metrics.stats import clustered_interval
from lcia.types import TaskSpec

SCORINGS = ("strict", "legacy", "normalised")
"""`normalised`: strict, but for case, articles and punctuation; the gap between the two is forgetting of formats."""
MOST_NAMED = 5
"""Predictions that are named with their counts."""
EXAMPLES = 3
"""Answers that are kept whole."""


@dataclass(frozen=True, eq=False)
class Scored:
    """`scores[strict | legacy | normalised]` [samples], each in [0, 1], in the order of the rows. `percent` is their
    mean, `intervals` its 95 % interval, samples about the same pictures taken together (None: fewer than two pictures).

    `majority` is the most frequent reference, `constant` what always giving it scores, in percent. `most_said` counts
    the most frequent predictions. `examples` are the first answers. `result` is the stage's own record: samples,
    seconds.
    """

    scores: Mapping[str, NDArray[np.float64]]
    percent: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float] | None]
    majority: str
    constant: Mapping[str, float]
    most_said: tuple[tuple[str, int], ...]
    examples: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]


def read_scored(folder: Path, task: TaskSpec) -> Scored:
    """Reads the answers of one stage and scores them."""
    records = read_answers(folder)
    references = [record["references"] for record in records]
    wanted = dict(zip(SCORINGS, (task.strict, task.legacy, normalised(task.strict)), strict=True))
    # Two names often stand for one scorer, which may take long.
    fits = {scorer: fitted(scorer, references) for scorer in set(wanted.values())}
    values = {s: [fit(r["prediction"], r["references"]) for r in records] for s, fit in fits.items()}
    scorers = {name: fits[scorer] for name, scorer in wanted.items()}
    scores = {name: values[scorer] for name, scorer in wanted.items()}
    answer, clusters = _majority(references), _clusters(records)
    return Scored(
        scores={name: np.array(values, dtype=np.float64) for name, values in scores.items()},
        percent={name: 100 * fmean(values) for name, values in scores.items()},
        intervals={name: _percent(clustered_interval(values, clusters)) for name, values in scores.items()},
        majority=answer,
        constant={name: 100 * fmean(scorer(answer, right) for right in references) for name, scorer in scorers.items()},
        most_said=tuple(Counter(record["prediction"].strip() for record in records).most_common(MOST_NAMED)),
        examples=tuple(records[:EXAMPLES]),
        result=read_result(folder),
    )


def _clusters(records: Sequence[Mapping[str, Any]]) -> list[object]:
    """What each sample shares with others: its pictures; one whose pictures are not known stands alone."""
    return [record.get("images") or record["row"] for record in records]


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (max(0.0, 100 * interval[0]), min(100.0, 100 * interval[1]))


def _majority(references: Sequence[Sequence[str]]) -> str:
    """The reference that most samples have; of a sample with several references each counts once."""
    counts = Counter(answer for right in references for answer in dict.fromkeys(right))
    return counts.most_common(1)[0][0] if counts else ""
