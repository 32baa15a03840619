"""What happened to each tensor's balance weight, counted on the device and read only on request."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

QUANTILES = {"beta_q05": 0.05, "beta_q25": 0.25, "beta_q50": 0.5, "beta_q75": 0.75, "beta_q95": 0.95}


class Tally:
    """Counters [tensors] in fp64: exact up to 2^53 and summable without a host sync."""

    def __init__(self, tensors: int, device: torch.device) -> None:
        self.counts = torch.zeros(tensors, 6, dtype=torch.float64, device=device)
        self.beta = torch.ones(tensors, dtype=torch.float64, device=device)
        self.retain = torch.ones(tensors, dtype=torch.float64, device=device)
        self.steps = torch.zeros(2, dtype=torch.float64, device=device)

    def record(self, beta: Tensor, events: Tensor, made: Tensor) -> None:
        """Adds one step: `beta` [tensors]; `events` [tensors, 6], whether it was applied, a fallback, at its lower or
        upper bound, whether the gradient was missing or not finite; `made` 0-dim is 0 where the device skipped it."""
        applied = events[:, 0]
        self.counts += events
        self.beta = torch.where(applied, beta, self.beta)
        self.retain *= torch.where(applied, beta, 1.0)
        self.steps += torch.stack([made, 1 - made])

    def summary(self) -> dict[str, float]:
        """Quantiles of the last betas over the tensors, mean retain, and shares of all uses so far."""
        counts = self.counts.sum(0)
        at = torch.tensor(list(QUANTILES.values()), dtype=torch.float64, device=self.beta.device)
        means = torch.stack([self.beta.mean(), self.retain.mean()])
        shares = counts[1:4] / counts[0].clamp(min=1)
        names = [*QUANTILES, "beta", "retain", "fallback", "at_beta_min", "at_beta_max", "missing", "steps", "skipped"]
        # One transfer, so one wait for the device.
        figures = torch.cat([torch.quantile(self.beta, at), means, shares, counts[4:5], self.steps])
        return dict(zip(names, figures.tolist(), strict=True))

    def broken(self) -> list[int]:
        """Places of tensors that met a gradient that is not finite (waits for the device)."""
        return torch.nonzero(self.counts[:, 5]).flatten().tolist()

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "beta": self.beta, "retain": self.retain, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            value.copy_(state[name])
