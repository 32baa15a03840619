"""How far tuning has moved the model on the data that it was tuned on: a sign of forgetting that needs no old data.

Shenfeld et al., "RL's Razor" (arXiv 2509.04259): of models that have learnt a new task equally well, those forget least
that are closest, in KL divergence on that task, to the model they began as.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lcia.ema.sharding import local
from lcia.protocols import LookBack
from lcia.strategies.distillation import answer_scores, divergence
from lcia.training.elsewhere import holding

ROWS = 16
"""Of a stage that are looked at: two forward passes over them take less than an optimizer step with as many rows."""


class Start:
    """The weights that a stage starts from: this worker's part of each, in host memory."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = list(parameters.values())
        self._aside = [local(parameter).to("cpu", copy=True) for parameter in self._parameters]

    def kl(self, module: nn.Module, look_back: LookBack) -> float:
        """Mean KL(tuned || start) over the answer tokens of ROWS of the stage's rows, in nats per token; the same on
        all workers. A collective call, after which `module` is as it was."""
        sums = torch.zeros(2, dtype=torch.float64, device=local(self._parameters[0]).device)
        with torch.no_grad():
            for look in look_back(ROWS, False):
                tuned = answer_scores(look.logits(), look.batch)
                with holding(module, self._parameters, self._aside):
                    started = answer_scores(look.logits(), look.batch)
                sums[0] += divergence(tuned, started).sum().double()
                sums[1] += len(tuned)
        if dist.is_initialized():
            dist.all_reduce(sums)
        return float(sums[0] / sums[1].clamp_min(1))
