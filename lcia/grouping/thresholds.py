"""The threshold of instruction grouping: a number, a name of the paper's, or one chosen from the data.

`auto` reads instructions of training data only, and only those of tasks that the stream has reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lcia.config.grouping import THRESHOLDS, GroupingConfig


@dataclass(frozen=True, slots=True)
class Threshold:
    """`gap`: the two neighbouring similarities that `auto` chose the middle of; None where the value was given."""

    value: float
    gap: tuple[float, float] | None = None


def given(config: GroupingConfig) -> Threshold | None:
    """The configured number, or the one behind the configured name; None for `auto`."""
    if config.threshold == "auto":
        return None
    return Threshold(THRESHOLDS[config.threshold] if isinstance(config.threshold, str) else config.threshold)


def widest_gap(between: Sequence[float], within: Sequence[float], limits: tuple[float, float]) -> Threshold:
    """The middle of the widest gap between neighbouring similarities; of equally wide gaps the lowest.

    `between`: similarity of each pair of different tasks; `within`: of each task to itself, below 1 where it has
    paraphrases. `limits` = (what unrelated instructions reach, what paraphrases of one task reach): both count as
    similarities, and what lies beyond them is moved onto them. So one task alone, or tasks that are all equal, give the
    middle of the limits. No task's own paraphrases count as more similar than the least similar paraphrases of all
    tasks.
    """
    low, high = limits
    same = max(low, min(high, *within))
    values = sorted({low, same, *(min(max(value, low), same) for value in between)})
    if len(values) == 1:
        return Threshold(low, (low, low))
    gap = max(pairwise(values), key=lambda pair: round(pair[1] - pair[0], 9))
    return Threshold((gap[0] + gap[1]) / 2, gap)
