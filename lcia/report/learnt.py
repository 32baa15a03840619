"""A task's answers beside one constant answer: whether the task was learnt, and what is said most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lcia.run import Outcome


@dataclass(frozen=True, slots=True)
class TaskAnswers:
    """One task of a run; scores in percent under the run's scoring, None where it was not evaluated.

    `majority` is the most frequent reference of the evaluated samples, `majority_score` what always giving it scores.
    `learnt_normalised` and `final_normalised` are the same scores without a look at case, articles and punctuation.
    `learnt_counts` and `final_counts` are the most frequent predictions, right after the task was trained and at the
    end. `interval` is that of `final` over new samples (evaluation.scored).
    """

    task: str
    samples: int
    majority: str
    majority_score: float
    learnt: float | None
    final: float | None
    learnt_counts: tuple[tuple[str, int], ...]
    final_counts: tuple[tuple[str, int], ...]
    interval: tuple[float, float] | None = None
    learnt_normalised: float | None = None
    final_normalised: float | None = None

    @property
    def bar(self) -> float:
        """The score in percent from which the task counts as learnt.

        Two standard errors above the constant answer. One sample more on either side (Laplace) keeps the error of a
        share of 0 or 1 above zero.
        """
        share = (self.majority_score / 100 * self.samples + 1) / (self.samples + 2)
        return self.majority_score + 200 * math.sqrt(share * (1 - share) / self.samples)

    @property
    def warning(self) -> str:
        """Empty where the task was learnt, or was not trained."""
        # Where no score could be clearly better than the constant answer, it is enough not to be worse.
        if self.learnt is None or self.learnt >= (self.bar if self.bar <= 100 else self.majority_score):
            return ""
        most = f"; {self.learnt_counts[0][1]} of {self.samples} answers are {self.learnt_counts[0][0]!r}"
        return (
            f"{self.task} was not learnt: its score right after training is {self.learnt:.1f} %, and always answering "
            f"{self.majority!r} scores {self.majority_score:.1f} %{most if self.learnt_counts else ''}"
        )


def tell(outcome: Outcome) -> tuple[TaskAnswers, ...]:
    """Every evaluated task of a finished run, in the order of the stream."""
    return tuple(_tell(outcome))


def _tell(outcome: Outcome) -> Iterator[TaskAnswers]:
    answers = {(cell.row, cell.column): outcome.answers[cell.stage.key] for cell in outcome.prepared.plan.cells}
    scoring = outcome.config.evaluation.scoring
    for column, task in enumerate(outcome.matrix.tasks):
        learnt, final = answers.get((_trained(outcome, column), column)), answers.get((outcome.last, column))
        if asked := final or learnt:
            yield TaskAnswers(
                task=task,
                samples=asked.result["samples"],
                majority=asked.majority,
                majority_score=asked.constant[scoring],
                learnt=learnt.percent[scoring] if learnt else None,
                final=final.percent[scoring] if final else None,
                learnt_counts=learnt.most_said if learnt else (),
                final_counts=final.most_said if final else (),
                interval=final.intervals[scoring] if final else None,
                learnt_normalised=learnt.percent["normalised"] if learnt else None,
                final_normalised=final.percent["normalised"] if final else None,
            )


def _trained(outcome: Outcome, column: int) -> int:
    """The row in which a task was trained: its own; with all tasks at once the last; -2: it was not trained."""
    if outcome.config.is_stream:
        return column
    return outcome.last if outcome.config.trains else -2


def gather(found: Mapping[str, Sequence[TaskAnswers]]) -> list[str]:
    """The warnings of several runs by name: one per task, however many runs did not learn it."""
    if len(found) == 1:
        return [told.warning for answers in found.values() for told in answers if told.warning]
    missed: dict[str, list[TaskAnswers]] = {}
    for answers in found.values():
        for told in answers:
            if told.warning:
                missed.setdefault(told.task, []).append(told)
    return [_gathered(task, told, len(found)) for task, told in missed.items()]


def _gathered(task: str, told: Sequence[TaskAnswers], runs: int) -> str:
    scores = sorted(one.learnt for one in told if one.learnt is not None)
    between = f"{scores[0]:.1f}" if scores[0] == scores[-1] else f"{scores[0]:.1f} to {scores[-1]:.1f}"
    return (
        f"{task} was not learnt in {len(told)} of {runs} runs: its score right after training is {between} %, "
        f"and always answering {told[0].majority!r} scores {told[0].majority_score:.1f} %"
    )


def to_record(answers: TaskAnswers) -> dict[str, Any]:
    """As JSON, with the verdict."""
    return asdict(answers) | {"not_learnt": bool(answers.warning)}
