"""Learning without forgetting: the model stays near what it said before the task, on the task's own rows.

    loss = CE + weight T^2 mean over answer tokens of KL(p0 || p),      p = softmax(z / T), p0 that of the task's start

Li & Hoiem, "Learning without Forgetting" (ECCV 2016, arXiv 1606.09282), whose old classes are the vocabulary here; T^2
keeps the gradient's size whatever T is (Hinton et al., arXiv 1503.02531). With `mask_target` ("Mask the Target", arXiv
2605.29498) the label y_j is taken out of both distributions before they are compared, so that the teacher does not
speak against what is being learnt: KL(p0(. | not y_j) || p(. | not y_j)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lcia.ema.tracked import Tracked
from lcia.protocols import Batch, LookBack, Strategy, Trained
from lcia.strategies.distillation import LastStep, answer_labels, answer_scores, divergence, without


@dataclass(frozen=True)
class Lwf:
    """The constants; config.baselines.LwfConfig explains them."""

    weight: float
    temperature: float
    mask_target: bool


class LwfStrategy(Strategy):
    """Costs a forward pass for each micro-batch, and a copy of what is trained."""

    def __init__(self, rule: Lwf) -> None:
        self.rule = rule

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.logits_at = trained.logits_at
        self.teacher = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
        self.apart = LastStep(Tracked(trained.parameters), optimizer)

    def penalty(self, logits: Tensor, batch: Batch) -> Tensor:
        teacher = answer_scores(self.logits_at(batch, self.teacher), batch)
        student = answer_scores(logits, batch)
        if self.rule.mask_target:
            teacher, student = (without(scores, answer_labels(batch)) for scores in (teacher, student))
        apart = divergence(teacher, student, self.rule.temperature)
        self.apart.add(apart.detach())
        return self.rule.weight * self.rule.temperature**2 * apart.sum()

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self.apart.handles:
            handle.remove()
        return {}

    def statistics(self) -> dict[str, float]:
        """`teacher_kl`: KL(p0 || p) in the last step, nats per answer token."""
        return {"teacher_kl": self.apart.mean()}
