"""RegLoRA: the largest entries of what each task added to a layer are not to be moved by later ones.

    loss = CE + weight sum over layers of the mean of |dW| over the key entries,      dW = s (B A - B0 A0)
    key entries: those of the `share` largest |dW| at each earlier task's end

SEFE (ICML 2025), the part of it that is a regulariser, as its code has it: share 0.02, weight 2,500, and an entry that
is key to two tasks counts twice in the mean. There each task trains a LoRA of its own, without its scale s; here one
LoRA goes on, so dW is measured from where the last task ended. The gradient, weight sign(dW) / n on the key entries, is
added after the task's own was clipped. A layer without LoRA is tuned plainly.

The counts take a byte for each of the base's weights that has LoRA, on each worker and beside the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lcia.ema.hooks import Step, attach
from lcia.ema.sharding import local, part_of
from lcia.ema.tracked import Tracked
from lcia.protocols import LookBack, Strategy, Trained
from lcia.strategies.regular_ewc import OfProduct, diagonals

KEY = "key_entries."
"""Prefix of the counts of a layer's entries in what a stage keeps for the next one."""


def key_entries(moved: Tensor, share: float) -> Tensor:
    """1 at the `share` of largest magnitude of a matrix, at least one entry, else 0; uint8 in its shape."""
    count = max(1, int(share * moved.numel()))
    found = torch.zeros(moved.numel(), dtype=torch.uint8, device=moved.device)
    found[moved.abs().flatten().topk(count).indices] = 1
    return found.view(moved.shape)


class RegLoraStrategy(Strategy):
    """theta* is theta."""

    def __init__(self, weight: float, share: float) -> None:
        self.weight, self.share = weight, share
        self._handles: list[RemovableHandle] = []

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.anchors = [each for each in diagonals(trained, "product") if isinstance(each, OfProduct)]
        found = {each.name: kept.get(KEY + each.name) for each in self.anchors}
        self.keys = {
            each.name: count.to(each.origin["up"].device)
            for each in self.anchors
            if (count := found[each.name]) is not None
        }
        if self.weight and self.keys:
            self._handles = attach(optimizer, Tracked(trained.parameters), self.before, None)

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Adds the gradient of the penalty to that which the optimizer is about to step with."""
        for anchor in self.anchors:
            moved, count = anchor.moved()["product"], self.keys[anchor.name].to(anchor.origin["up"].dtype)
            pulls = {"product": self.weight / count.sum() * count * moved.sign()}
            for part, force in anchor.forces(pulls).items():
                gradient = anchor.parameters[part].grad
                assert gradient is not None, "a layer that is trained has a gradient"
                mine = local(gradient)
                mine.add_(part_of(force, gradient).view(mine.shape))

    @torch.no_grad()
    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self._handles:
            handle.remove()
        kept = {}
        for anchor in self.anchors:
            new = key_entries(anchor.moved()["product"], self.share)
            kept[KEY + anchor.name] = new + self.keys[anchor.name] if anchor.name in self.keys else new
        return kept

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """`key_drift`: the mean of |dW| over the key entries, summed over layers."""
        if not self._handles:
            return {}
        means = []
        for anchor in self.anchors:
            count = self.keys[anchor.name].double()
            means.append((anchor.moved()["product"].abs() * count).sum() / count.sum())
        return {"key_drift": float(torch.stack(means).sum())}
