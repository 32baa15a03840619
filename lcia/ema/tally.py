"""What happened to each tensor's balance weight, counted on the device and read only on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Outcome:
    """One step: `beta`, and masks that say where it fell back, met a bound, was not applied; all [tensors]."""

    beta: Tensor
    fallback: Tensor
    at_min: Tensor
    at_max: Tensor
    applied: Tensor
    missing: Tensor
    broken: Tensor


class Tally:
    """Counters [tensors] in fp64: exact up to 2^53 and summable without a host sync."""

    names = ("applied", "fallback", "at_min", "at_max", "missing", "broken")

    def __init__(self, tensors: int, device: torch.device) -> None:
        self.counts = torch.zeros(tensors, len(self.names), dtype=torch.float64, device=device)
        self.beta = torch.ones(tensors, dtype=torch.float64, device=device)
        self.retain = torch.ones(tensors, dtype=torch.float64, device=device)
        self.steps = torch.zeros(2, dtype=torch.float64, device=device)

    def record(self, outcome: Outcome, made: Tensor) -> None:
        """Adds one step; `made` 0-dim is 0 where the device skipped it."""
        used = outcome.applied
        masks = (used, outcome.fallback & used, outcome.at_min & used, outcome.at_max & used)
        self.counts += torch.stack([*masks, outcome.missing, outcome.broken], dim=1)
        self.beta = torch.where(outcome.applied, outcome.beta, self.beta)
        self.retain *= torch.where(outcome.applied, outcome.beta, 1.0)
        self.steps += torch.stack([made, 1 - made])

    def summary(self) -> dict[str, float]:
        """Quantiles of the last betas over the tensors, mean retain, and shares of all uses so far."""
        shares = self.counts.sum(0)
        shares[1:4] /= shares[0].clamp(min=1)
        at = torch.tensor(QUANTILES, dtype=torch.float64, device=self.beta.device)
        figures = [torch.quantile(self.beta, at), self.beta.mean()[None], self.retain.mean()[None], shares, self.steps]
        # One transfer, so one wait for the device.
        names = [f"beta_q{round(100 * q):02d}" for q in QUANTILES]
        names += ["beta", "retain", "applied", "fallback", "at_beta_min", "at_beta_max", "missing", "broken"]
        values = dict(zip([*names, "steps", "skipped"], torch.cat(figures).tolist(), strict=True))
        del values["applied"], values["broken"]
        return values

    def broken(self) -> list[int]:
        """Places of tensors that met a gradient that is not finite (waits for the device)."""
        return torch.nonzero(self.counts[:, 5]).flatten().tolist()

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "beta": self.beta, "retain": self.retain, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            value.copy_(state[name])
