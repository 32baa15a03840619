"""Elastic weight consolidation with the Fisher information of a task, taken from its rows at its end.

    loss = CE + pull/2 sum of F (theta - theta_0)^2,      F = decay F + F_t
    F_t = sum over rows of (d log p(y | x) / d theta)^2 / answer tokens

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017, arXiv 1612.00796). y is drawn
from the model (`labels: drawn`, the Fisher information) or that of the data (`data`, the empirical one). As in online
EWC (Schwarz et al., arXiv 1805.06370) there is one sum F and one theta_0, where the last task ended, not a pair for
each task.

`on: factors` takes A and B for theta. `on: product` is EWC-LoRA (ICLR 2026, arXiv 2602.17559): theta is the product,

    pull/2 vec(dW)' F vec(dW),      dW = s (B A - B0 A0) [out, in],      h_B = s P A',  h_A = s B' P  with  P = F * dW

F then has an entry for each of the layer's frozen weights: 4 bytes times out x in per layer, in memory on each worker
(sharded or not) and beside the adapter; 26 GB for all linear layers of a 7B model. The paper merges each task's LoRA
into the base and begins a new one; here one LoRA goes on, so dW is measured from where the last task ended.

`ewc` has another F_t, the mean of the squared gradients of batches while they are trained, which costs no pass at the
end. The pull is added to the gradient after that was clipped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lcia.ema.buffers import wide
from lcia.ema.hooks import Step, attach
from lcia.ema.sharding import local, part_of, whole
from lcia.ema.tracked import Tracked
from lcia.protocols import Look, LookBack, Strategy, Trained, TunedLinear
from lcia.strategies.distillation import answer_labels, answer_scores
from lcia.strategies.kronecker import softened_loss
from lcia.strategies.watch import look_over, one_by_one

FISHER = "diagonal."
"""Prefix of the Fisher information of an adapter's tasks in what a stage keeps for the next one."""


@dataclass(frozen=True)
class RegularEwc:
    """The constants; config.baselines.RegularEwcConfig explains them."""

    pull: float
    on: Literal["factors", "product"]
    labels: Literal["drawn", "data"]
    rows: int
    decay: float


class Diagonal(ABC):
    """The entries of a layer that are held at the weights that it has when this is made."""

    def __init__(self, layer: TunedLinear, parameters: dict[str, Parameter]) -> None:
        self.name, self.scale, self.parameters = layer.name, layer.scale, parameters
        self.origin = self.now()

    def now(self) -> dict[str, Tensor]:
        """The weights as they are; a collective call where they are sharded."""
        return {part: _wide(parameter) for part, parameter in self.parameters.items()}

    @abstractmethod
    def gradients(self, x: Tensor, g: Tensor) -> dict[str, Tensor]:
        """Of one row's loss, by what is held; x [tokens, in], g [tokens, out]. The weights are those of the origin."""

    def moved(self) -> dict[str, Tensor]:
        """How far what is held has moved; a collective call where weights are sharded."""
        return {part: value - self.origin[part] for part, value in self.now().items()}

    def forces(self, pulls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients by the parameters, given those by what is held; collective as moved() is."""
        return dict(pulls)


class OfFactors(Diagonal):
    """A and B."""

    def gradients(self, x: Tensor, g: Tensor) -> dict[str, Tensor]:
        up, down = self.origin["up"], self.origin["down"]
        return {"up": self.scale * g.T @ (x @ down.T), "down": self.scale * (g @ up).T @ x}


class OfProduct(Diagonal):
    """s B A."""

    def gradients(self, x: Tensor, g: Tensor) -> dict[str, Tensor]:
        return {"product": g.T @ x}

    def moved(self) -> dict[str, Tensor]:
        now, then = self.now(), self.origin
        return {"product": self.scale * (now["up"] @ now["down"] - then["up"] @ then["down"])}

    def forces(self, pulls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        now, pull = self.now(), self.scale * pulls["product"]
        return {"up": pull @ now["down"].T, "down": now["up"].T @ pull}


class OfWhole(Diagonal):
    """The weights of a layer that is trained as it is, and its bias, if it has one."""

    def gradients(self, x: Tensor, g: Tensor) -> dict[str, Tensor]:
        found = {"up": g.T @ x, "bias": g.sum(0)}
        return {part: found[part] for part in self.parameters}


def diagonals(trained: Trained, on: Literal["factors", "product"]) -> list[Diagonal]:
    """One for each layer."""
    return [_diagonal(layer, on) for layer in trained.layers]


def _diagonal(layer: TunedLinear, on: Literal["factors", "product"]) -> Diagonal:
    if layer.down is None:
        return OfWhole(layer, {"up": layer.up} | ({} if layer.bias is None else {"bias": layer.bias}))
    kind = OfFactors if on == "factors" else OfProduct
    return kind(layer, {"up": layer.up, "down": layer.down})


class RegularEwcStrategy(Strategy):
    """theta* is theta."""

    def __init__(self, rule: RegularEwc) -> None:
        self.rule = rule
        self._handles: list[RemovableHandle] = []

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.trained = trained
        like = _wide(next(iter(trained.parameters.values())))
        found = {key.removeprefix(FISHER): value for key, value in kept.items() if key.startswith(FISHER)}
        self.old = {key: value.to(like) for key, value in found.items()}
        self.anchors = diagonals(trained, self.rule.on) if self.old and self.rule.pull else []
        if self.anchors:
            self._handles = attach(optimizer, Tracked(trained.parameters), self.before, None)

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Adds the pull to the gradient that the optimizer is about to step with."""
        for anchor in self.anchors:
            moved = anchor.moved()
            pulls = {part: self.rule.pull * self.old[_key(anchor, part)] * value for part, value in moved.items()}
            for part, force in anchor.forces(pulls).items():
                gradient = anchor.parameters[part].grad
                assert gradient is not None, "a layer that is trained has a gradient"
                mine = local(gradient)
                mine.add_(part_of(force, gradient).view(mine.shape))

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self._handles:
            handle.remove()
        new = fisher(self.trained, self.rule, look_back)
        total = {name: self.rule.decay * self.old[name] + f if name in self.old else f for name, f in new.items()}
        return {FISHER + name: value.contiguous() for name, value in total.items()}

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """`old_loss_rise`: 1/2 sum of F (theta - theta_0)^2, in nats per answer token, summed over the old tasks."""
        if not self.anchors:
            return {}
        rises = [
            (self.old[_key(anchor, part)] * moved.square()).sum().double() / 2
            for anchor in self.anchors
            for part, moved in anchor.moved().items()
        ]
        return {"old_loss_rise": float(torch.stack(rises).sum())}


def fisher(trained: Trained, rule: RegularEwc, look_back: LookBack) -> dict[str, Tensor]:
    """F_t of the stage's rows at the weights as they are, by the names of layers and parts; the same on all workers.

    Raises:
        FloatingPointError: it is not finite, on all workers.
    """
    found = {each.name: each for each in diagonals(trained, rule.on)}
    sums = {_key(held, part): torch.zeros_like(each) for held in found.values() for part, each in held.moved().items()}

    def see(layer: TunedLinear, x: Tensor, g: Tensor) -> None:
        held = found[layer.name]
        for row in zip(one_by_one(trained, x), one_by_one(trained, g), strict=True):
            # Row by row: the gradient of one is as large as the layer of the base.
            for part, gradient in held.gradients(*(each.to(wide(each.dtype)) for each in row)).items():
                sums[_key(held, part)].addcmul_(gradient, gradient)

    tokens = look_over(trained, rule.rows, look_back, _loss(rule), see)
    for value in sums.values():
        if dist.is_initialized():
            dist.all_reduce(value)
        value /= tokens.clamp_min(1).to(value.dtype)
    broken = [name for name, value in sums.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise FloatingPointError(f"the Fisher information of {broken[0]} is not finite")
    return sums


def _key(held: Diagonal, part: str) -> str:
    return f"{held.name}.{part}"


def _loss(rule: RegularEwc) -> Callable[[Look], tuple[Tensor, Tensor]]:
    return partial(softened_loss, temperature=1.0) if rule.labels == "drawn" else labelled_loss


def labelled_loss(look: Look) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of the data's own labels, and the number of answer tokens."""
    logits = look.logits()
    scores, labels = answer_scores(logits, look.batch), answer_labels(look.batch).to(logits.device)
    # A batch without answers still goes backward: other workers may wait for it.
    loss = F.cross_entropy(scores, labels, reduction="sum") + 0.0 * logits.sum()
    return loss, torch.tensor(len(labels), device=logits.device)


def _wide(parameter: Tensor) -> Tensor:
    """A whole copy in the precision of sums; a collective call where it is sharded."""
    return whole(parameter.detach()).to(wide(parameter.dtype), copy=True)
