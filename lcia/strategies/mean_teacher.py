"""Mean teacher: the model agrees with a slow average of itself on the task's own rows.

    teacher = decay teacher + (1 - decay) theta            after each step
    loss = CE + weight * consistency                       mean over answer tokens, p = softmax(z) of each model
    consistency = KL(p_teacher || p)   or   |p_teacher - p|^2 / words in the vocabulary

Tarvainen & Valpola, "Mean teachers are better role models" (NeurIPS 2017, arXiv 1703.01780), whose consistency is the
mean square. What is stored is the teacher, which they evaluate, or the student, in which case the teacher is kept
beside it and goes on in the adapter's next task. The teacher answers without dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lcia.ema import DynamicEma
from lcia.ema.rules import Fixed
from lcia.ema.sharding import local, part_of, whole
from lcia.protocols import Batch, LookBack, Strategy, Trained
from lcia.strategies.distillation import LastStep, Scores, answer_scores, divergence

TEACHER = "teacher."
"""Prefix of the teacher's weights in what a stage keeps for the next one."""


@dataclass(frozen=True)
class MeanTeacher:
    """The constants; config.baselines.MeanTeacherConfig explains them."""

    weight: float
    decay: float
    consistency: Literal["kl", "mse"]
    stored: Literal["teacher", "student"]


class MeanTeacherStrategy(Strategy):
    """Costs a forward pass for each micro-batch, and an average in fp32."""

    def __init__(self, rule: MeanTeacher) -> None:
        self.rule = rule

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.logits_at, self.parameters = trained.logits_at, trained.parameters
        self.teacher = DynamicEma(trained.parameters, Fixed(self.rule.decay))
        found = {key.removeprefix(TEACHER): value for key, value in kept.items() if key.startswith(TEACHER)}
        with torch.no_grad():
            for name, average in self.teacher.weights().items() if found else ():
                mine = local(average)
                mine.copy_(part_of(found[name], self.parameters[name]).view(mine.shape))
        self.teacher.attach(optimizer)
        self.apart = LastStep(self.teacher.tracked, optimizer)

    def penalty(self, logits: Tensor, batch: Batch) -> Tensor:
        teacher = answer_scores(self.logits_at(batch, self.teacher.weights()), batch)
        apart = self._apart(teacher, answer_scores(logits, batch))
        self.apart.add(apart.detach())
        return self.rule.weight * apart.sum()

    def _apart(self, teacher: Scores, student: Scores) -> Tensor:
        if self.rule.consistency == "kl":
            return divergence(teacher, student)
        return (teacher.softmax(-1) - student.softmax(-1)).square().mean(-1)

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        self.teacher.detach()
        for handle in self.apart.handles:
            handle.remove()
        if self.rule.stored == "teacher":
            self.teacher.apply_()
            return {}
        return {TEACHER + name: whole(value).contiguous() for name, value in self.teacher.weights().items()}

    def statistics(self) -> dict[str, float]:
        """`teacher_apart`: the consistency in the last step, per answer token; and the figures of the average."""
        return {"teacher_apart": self.apart.mean(), **self.teacher.statistics()}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.teacher.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state)
