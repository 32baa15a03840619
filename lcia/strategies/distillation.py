"""Scores of answer tokens, and how far two models' distributions over the vocabulary are apart on them."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.hooks import Step, attach
from lcia.ema.tracked import Tracked
from lcia.protocols import UNTRAINED, Batch

Scores: TypeAlias = Tensor
"""[answer tokens, vocabulary] in fp32 or wider."""


def answer_scores(logits: Tensor, batch: Batch) -> Scores:
    """The scores of the answer tokens among logits [batch, tokens, vocabulary], in the order of answer_labels()."""
    scores = logits[:, :-1]
    answers = batch["labels"][:, 1:].to(scores.device) != UNTRAINED
    return scores[answers].to(torch.promote_types(scores.dtype, torch.float32))


def answer_labels(batch: Batch) -> Tensor:
    """[answer tokens]"""
    labels = batch["labels"][:, 1:]
    return labels[labels != UNTRAINED]


def without(scores: Scores, labels: Tensor) -> Scores:
    """Scores under which the labels [answer tokens] have no probability, and the others share all of it as before."""
    return scores.scatter(1, labels.to(scores.device)[:, None], float("-inf"))


def divergence(teacher: Scores, student: Scores, temperature: float = 1.0) -> Tensor:
    """KL(p_teacher || p_student) of each answer token in nats, p = softmax(scores / temperature); [answer tokens]."""
    ours, theirs = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    likely = theirs.exp()
    # A word without probability adds nothing; 0 * (-inf + inf) would be NaN.
    return torch.where(likely > 0, likely * (theirs - ours), 0.0).sum(-1)


class LastStep:
    """The mean of a quantity over the answer tokens of the last optimizer step, over micro-batches and workers."""

    def __init__(self, tracked: Tracked, optimizer: torch.optim.Optimizer) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=tracked.device)
        self._over = False
        self.handles: list[RemovableHandle] = attach(optimizer, tracked, None, self._stepped)

    def _stepped(self, step: Step) -> None:
        self._over = True

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """Of the answer tokens of a micro-batch, [answer tokens]; the first after a step begins the next one."""
        if self._over:
            self._sums.zero_()
        self._over = False
        self._sums += torch.stack([values.sum().double(), torch.full_like(self._sums[0], len(values))])

    def mean(self) -> float:
        """Over all workers: a collective call."""
        sums = self._sums.clone()
        if dist.is_initialized():
            dist.all_reduce(sums)
        return float(sums[0] / sums[1].clamp_min(1))
