"""Signs of failure in a finished run: what is watched of every training, and the groups that tasks do not fit.

Figures are measured whatever they are; config.watch says from where on they are warned of (docs/watch.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcia.config.strategies import AverageSection
from lcia.config.watch import WatchConfig
from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import LEVEL, paired
from lcia.run import Outcome
from lcia.stage import TrainStage
from lcia.training.result import TrainResult


@dataclass(frozen=True, slots=True)
class StageSigns:
    """One task's training; None where a figure is not known.

    `first`: its adapter had learnt nothing before. `fell`: points that the tasks before it lost on average meanwhile.
    `score`: of the task itself, afterwards, in percent. `gain`: share of the mean loss of the first half of its steps
    that the second half took off. `at_bound`: mean share of tensors whose beta lay at a bound or came from the
    fallback. `kl`: training.drift.
    """

    task: str
    first: bool
    fell: float | None
    score: float | None
    gain: float | None
    at_bound: float | None
    kl: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class FitSigns:
    """What every group's adapter scores on a task's validation rows, in percent, by the group's number; `home`: the
    group that the task was put into. `better`: a group that answers them better than chance explains."""

    task: str
    home: int
    scores: tuple[float, ...]
    better: int | None

    @property
    def margin(self) -> float:
        """Points that the better group is ahead by; 0: there is none."""
        return 0.0 if self.better is None else self.scores[self.better] - self.scores[self.home]


@dataclass(frozen=True, slots=True)
class Signs:
    """What was watched in a run. `members[g]`: the tasks of group g."""

    stages: tuple[StageSigns, ...]
    fits: tuple[FitSigns, ...] = ()
    members: tuple[tuple[str, ...], ...] = ()


NOTHING_WATCHED = Signs(())

# What is watched --------------------------------------------------------------------------------------------------


def watch(outcome: Outcome) -> Signs:
    """Everything that is watched, of a finished run; of joint training nothing falls."""
    plan = outcome.prepared.plan
    falls = falls_of(outcome.matrix) if outcome.config.is_stream else {}
    stages = tuple(_stage(stage, outcome.trainings[stage.key], falls) for stage in plan.trains)
    members: dict[int, list[str]] = {}
    for placement in plan.placements:
        members.setdefault(placement.group, []).append(placement.task)
    return Signs(stages, tuple(_fits(outcome)), tuple(tuple(members[group]) for group in sorted(members)))


def falls_of(matrix: AccuracyMatrix) -> dict[str, tuple[float | None, float | None]]:
    """For each task: points that those before it lost on average while it was learnt, and its own score then."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for row, task in enumerate(matrix.tasks):
        lost = matrix.scores[row - 1, :row] - matrix.scores[row, :row] if row else np.array([])
        own = matrix.scores[row, row]
        known = len(lost) and not np.isnan(lost).any()
        found[task] = (float(lost.mean()) if known else None, None if np.isnan(own) else float(own))
    return found


def _stage(
    stage: TrainStage, training: TrainResult, falls: Mapping[str, tuple[float | None, float | None]]
) -> StageSigns:
    task = stage.tasks[0] if len(stage.tasks) == 1 else stage.label
    fell, score = falls.get(task, (None, None))
    gain = gain_of(_column(training.steps, "loss"))
    bound = at_bound(training.steps, isinstance(stage.strategy, AverageSection))
    return StageSigns(task, stage.first, fell, score, gain, bound, training.kl_from_start, training.seconds)


def _column(steps: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    return np.array([line[name] for line in steps if name in line], dtype=np.float64)


def gain_of(losses: NDArray[np.float64]) -> float | None:
    """Share of the mean of the first half that the second half lies below it; None: fewer than eight losses say
    nothing, or there was none to take off."""
    half = len(losses) // 2
    if half < 4 or losses[:half].mean() <= 0:
        return None
    return float(1 - losses[half:].mean() / losses[:half].mean())


def at_bound(steps: Sequence[Mapping[str, float]], bounded: bool) -> float | None:
    """Mean share of tensors whose beta lay at a bound or came from the fallback. Of a rule without bounds 0 and 1 are
    what it computes, so only its fallback counts."""
    fallback = _column(steps, "fallback")
    if not len(fallback):
        return None
    shares = fallback + sum(_column(steps, name) for name in ("at_beta_min", "at_beta_max")) if bounded else fallback
    return float(np.minimum(shares, 1).mean())


def _fits(outcome: Outcome) -> Iterator[FitSigns]:
    scoring, found = outcome.config.evaluation.scoring, dict[str, list[NDArray[np.float64]]]()
    for fit in outcome.prepared.plan.fits:
        found.setdefault(fit.task, []).append(outcome.answers[fit.stage.key].scores[scoring])
    for placement in outcome.prepared.plan.placements:
        if placement.task in found:
            yield fit_of(placement.task, placement.group, found[placement.task])


def fit_of(task: str, home: int, scores: Sequence[NDArray[np.float64]]) -> FitSigns:
    """`scores[g]`: each row's under group g's adapter, the same rows for all.

    A better group is one whose lead over the rows has p < 0.05 in the paired t test, after Bonferroni's correction for
    the number of other groups.
    """
    percent = tuple(100 * float(values.mean()) for values in scores)
    best = max(range(len(scores)), key=lambda group: percent[group])
    compared = paired(scores[best].tolist(), scores[home].tolist())
    certain = compared.t_p is not None and compared.t_p * (len(scores) - 1) < LEVEL
    return FitSigns(task, home, percent, best if certain and percent[best] > percent[home] else None)


# What is warned of ------------------------------------------------------------------------------------------------

KINDS = {
    "fall": "Old tasks fell while a new one was learnt",
    "gain": "Steps brought no gain",
    "bound": "The balance was cut off, not computed",
    "kl": "Tuning moved the model far on the new data itself, which goes with forgetting",
    "misfit": "Another group answers a task better than the task's own",
}
"""Every sign by the key of config.watch that it is warned from, and what it says of any number of runs."""


def shown_by(stage: StageSigns, limits: WatchConfig) -> frozenset[str]:
    """The signs that one training shows."""
    learnt = stage.gain is None or stage.gain > 0
    found = {
        "fall": learnt and stage.fell is not None and stage.fell > limits.fall,
        "gain": stage.gain is not None and stage.gain < limits.gain,
        "bound": stage.at_bound is not None and stage.at_bound > limits.bound,
        # An adapter that has learnt nothing before has nothing to forget.
        "kl": not stage.first and stage.kl is not None and stage.kl > limits.kl,
    }
    return frozenset(kind for kind, is_shown in found.items() if is_shown)


def warnings(signs: Signs, limits: WatchConfig) -> dict[str, str]:
    """A text for each sign that a run shows, by its kind."""
    shown: dict[str, list[StageSigns]] = {kind: [] for kind in KINDS}
    for stage in signs.stages:
        for kind in shown_by(stage, limits):
            shown[kind].append(stage)
    ends = {
        "fall": f"points on average (watch.fall: {limits.fall:g}). Raise strategy.gamma or strategy.pull, or use more "
        "groups",
        "gain": f"is what the second half of their steps took off the loss (watch.gain: {limits.gain:g}). Fewer steps "
        "would do, or the learning rate is too low",
        "bound": f"of beta lay at a bound or came from the fallback (watch.bound: {limits.bound:g}). Move "
        "strategy.beta_min and strategy.beta_max, or choose another rule",
        "kl": f"nats per answer token from the model before (watch.kl: {limits.kl:g}). Lower training.learning_rate, "
        "or protect more",
    }
    told = {
        kind: f"{KINDS[kind]}: {', '.join(_figure(kind, stage) for stage in shown[kind])} {end}"
        for kind, end in ends.items()
        if shown[kind]
    }
    misfits = [fit for fit in signs.fits if fit.margin > limits.misfit]
    if misfits:
        named = "; ".join(_misfit(fit, signs.members) for fit in misfits)
        told["misfit"] = (
            f"{KINDS['misfit']}, on validation rows: {named} (watch.misfit: {limits.misfit:g}). "
            "`lcia group CONFIG --sweep` shows other thresholds"
        )
    return told


def _figure(kind: str, stage: StageSigns) -> str:
    match kind:
        case "fall":
            return f"{stage.task} cost them {stage.fell:.1f}"
        case "kl":
            return f"{stage.task} {stage.kl:.2f}"
        case "gain":
            return f"{stage.task} {100 * (stage.gain or 0.0):.1f} %"
        case _:
            return f"{stage.task} {100 * (stage.at_bound or 0.0):.0f} %"


def _misfit(fit: FitSigns, members: Sequence[Sequence[str]]) -> str:
    assert fit.better is not None
    return (
        f"{fit.task} is in g{fit.home} ({fit.scores[fit.home]:.0f} %), and g{fit.better} "
        f"({', '.join(members[fit.better])}) scores {fit.scores[fit.better]:.0f} %"
    )


def gather(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The warnings of several runs by name and kind: of one run its texts, of more one line for each sign."""
    if len(found) == 1:
        return [text for texts in found.values() for text in texts.values()]
    holders = {kind: [name for name, texts in found.items() if kind in texts] for kind in KINDS}
    return [
        f"{KINDS[kind]}: run {names[0]}" if len(names) == 1 else f"{KINDS[kind]}: {len(names)} of {len(found)} runs"
        for kind, names in holders.items()
        if names
    ]


def to_record(signs: Signs) -> dict[str, Any]:
    """As JSON."""
    return asdict(signs)
