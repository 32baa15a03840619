"""How long stages will take, from how long stages like them have taken: what this store has measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from lcia.stage import EvaluateStage, TrainStage
from lcia.store.folders import RECORD, Store
from lcia.training.result import RESULT, TrainResult
from lcia.training.sampling import total_steps

Seconds = dict[tuple[str, str], list[float]]
"""(base, task) -> seconds of each measured stage, per sample that it trained on or answered."""


@dataclass(frozen=True)
class Measured:
    """Of training per sample and step, and of answers per sample."""

    trained: Seconds = field(default_factory=dict)
    answered: Seconds = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> Measured:
        """All stages that a store holds and that say how long they took."""
        found = cls()
        for key in store.held():
            match _stage(store.glance(key, RECORD)):
                case TrainStage() as stage:
                    result = TrainResult(Path(), (), {"steps": 0, "seconds": 0.0, **store.glance(key, RESULT)})
                    samples = result.steps_timed * stage.training.batch_size
                    for task in stage.tasks if samples else ():
                        found.trained.setdefault((stage.base_key, task), []).append(result.seconds / samples)
                case EvaluateStage() as stage:
                    answers = store.glance(key, RESULT)
                    if answers.get("seconds"):
                        seconds = answers["seconds"] / answers["samples"]
                        found.answered.setdefault((stage.base_key, stage.task), []).append(seconds)
        return found

    def training(self, stages: Iterable[TrainStage], rows: Mapping[str, int]) -> float | None:
        """Seconds of these trainings, one after the other; `rows` by the keys of shards. None where nothing of their
        base was ever measured."""
        return _sum(
            _likely(self.trained, stage.base_key, stage.tasks)
            * total_steps(stage.training, stage.rows(rows))
            * stage.training.batch_size
            for stage in stages
        )

    def answering(self, stages: Iterable[EvaluateStage], rows: Mapping[str, int]) -> float | None:
        """The same of answers, by one actor."""
        return _sum(_likely(self.answered, stage.base_key, (stage.task,)) * rows[stage.shards] for stage in stages)


def _stage(record: Mapping[str, object]) -> TrainStage | EvaluateStage | None:
    """What a record describes; None: another kind of stage, or one that this version cannot read."""
    kinds: dict[object, type[TrainStage | EvaluateStage]] = {"train": TrainStage, "eval": EvaluateStage}
    kind = kinds.get(record.get("kind"))
    try:
        return kind.model_validate(record) if kind else None
    except ValidationError:
        return None


def _likely(measured: Seconds, base: str, tasks: Iterable[str]) -> float:
    """The mean of what was measured of these tasks on this base, else of all tasks on it; NaN: of none."""
    own = [seconds for task in tasks for seconds in measured.get((base, task), [])]
    known = own or [seconds for (other, _), found in measured.items() if other == base for seconds in found]
    return fmean(known) if known else float("nan")


def _sum(seconds: Iterable[float]) -> float | None:
    total = sum(seconds)
    return total if total == total else None
