"""How far tuning has moved the model on the data that it was tuned on: a sign of forgetting that needs no old data.

Shenfeld et al., "RL's Razor" (arXiv 2509.04259): of models that have learnt a new task equally well, those forget least
that are closest, in KL divergence on that task, to the model they began as.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from lcia.ema.sharding import local
from lcia.protocols import UNTRAINED, Look, LookBack

ROWS = 16
"""Of a stage that are looked at: two forward passes over them take less than an optimizer step with as many rows."""


class Start:
    """The weights that a stage starts from: this worker's part of each, in host memory."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._live = [local(parameter) for parameter in parameters.values()]
        self._aside = [part.to("cpu", copy=True) for part in self._live]

    def kl(self, look_back: LookBack) -> float:
        """Mean KL(tuned || start) over the answer tokens of ROWS of the stage's rows, in nats per token; the same on
        all workers. A collective call, after which the weights are as they were."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._live[0].device)
        with torch.no_grad():
            for look in look_back(ROWS, False):
                tuned = _log_probabilities(look)
                self._swap()
                started = _log_probabilities(look)
                self._swap()
                sums[0] += (tuned.exp() * (tuned - started)).sum().double()
                sums[1] += len(tuned)
        if dist.is_initialized():
            dist.all_reduce(sums)
        return float(sums[0] / sums[1].clamp_min(1))

    def _swap(self) -> None:
        """Exchanges the weights in the module with those that were laid aside."""
        for live, aside in zip(self._live, self._aside, strict=True):
            before = live.to("cpu", copy=True)
            live.copy_(aside)
            aside.copy_(before)


def _log_probabilities(look: Look) -> Tensor:
    """[answer tokens, vocabulary]."""
    scores = look.logits()[:, :-1]
    answers = look.batch["labels"][:, 1:].to(scores.device) != UNTRAINED
    return scores[answers].to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
