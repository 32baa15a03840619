"""A pull towards old weights along the curvature of the product of LoRA's two matrices (docs/method.md 2).

At a task's end some of its rows are seen once more, and the Kronecker factors of their curvature are kept beside the
adapter. At every step of a later task the gradient of q, the predicted rise of the old tasks' loss, is added to the
task's own, in each layer with a weight that keeps it no longer than the task's gradient there has been on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lcia.ema.buffers import wide
from lcia.ema.hooks import Step, attach
from lcia.ema.sharding import local, part_of
from lcia.ema.tracked import Tracked
from lcia.protocols import UNTRAINED, Look, LookBack, Strategy, Trained, TunedLinear
from lcia.strategies.factors import Curvature, named, stored
from lcia.strategies.pulls import Force, each, pulls
from lcia.strategies.watch import look_over, one_by_one

KRONECKER = "kronecker."
"""Prefix of the curvature of an adapter's tasks in what a stage keeps for the next one."""

SUMS = ("steps", "c", "capped", "q")
"""What is added up over the steps of a stage, of c and capped the mean over the layers; of q the last one is kept."""


@dataclass(frozen=True)
class Kronecker:
    """The constants of the rule; config.strategies.KroneckerConfig explains them."""

    gamma: float
    rho: float
    temperature: float
    rows: int
    k: int
    scope: Literal["layer", "global"] = "layer"


class KroneckerStrategy(Strategy):
    """theta* is theta; the step goes along g + c h with h = grad q and c = min(gamma, rho m / |h|), where m is the mean
    of |g| over the steps of the stage so far; c, m, |g| and |h| are those of each layer, or of all."""

    def __init__(self, rule: Kronecker) -> None:
        self.rule = rule
        self.trained = Trained({})
        self.old: dict[str, Curvature] = {}
        self._handles: list[RemovableHandle] = []

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.trained, self.tracked = trained, Tracked(trained.parameters)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.tracked.device)
        self.norms = self.sums.new_zeros(0)
        found = {key.removeprefix(KRONECKER): value for key, value in kept.items() if key.startswith(KRONECKER)}
        if not found:
            return
        # Added to nothing, so that a curvature of another k is refused before the stage is trained.
        self.old = {
            layer.name: Curvature.zeros(layer.shape, self.rule.k, _like(layer))
            + stored(found, layer.name, _like(layer))
            for layer in trained.layers
        }
        if self.rule.gamma:
            self.pulls = pulls(trained.layers, self.old)
            self._layers = self._layer_of_each()
            self.norms = self.sums.new_zeros(sum(act.count for act in self.pulls) if self.rule.scope == "layer" else 1)
            self._handles = attach(optimizer, self.tracked, self.before, None)

    def _layer_of_each(self) -> Tensor:
        """For each tracked tensor the number of its layer, counted over the pulls in turn, [tensors]."""
        layers, first = dict[int, int](), 0
        for act in self.pulls:
            layers |= {id(parameter): first + place for place, parameter in act.members()}
            first += act.count
        return torch.tensor([layers[id(p)] for p in self.tracked.parameters], device=self.tracked.device)

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Adds c h to the gradient that the optimizer is about to step with."""
        gradients, _ = self.tracked.gradients("error")
        found = [act() for act in self.pulls]
        weights = self._weights([g for g in gradients if g is not None], [forces for _, forces in found])
        parts = torch.split(weights, [act.count for act in self.pulls])
        for act, (_, forces), part in zip(self.pulls, found, parts, strict=True):
            act.weigh(forces, part)
        pairs = [(p.grad, part_of(h, p)) for _, forces in found for force in forces for p, h in each(force)]
        mine = [local(gradient) for gradient, _ in pairs if gradient is not None]
        torch._foreach_add_(mine, [h.view(g.shape) for (_, h), g in zip(pairs, mine, strict=True)])
        self.sums[1:3] += torch.stack([weights.mean(), (weights < self.rule.gamma).to(weights).mean()])
        self.sums[3] = torch.stack([q for q, _ in found]).sum()

    def _weights(self, gradients: list[Tensor], forces: list[list[Force]]) -> Tensor:
        """c of each layer, [layers]; the means of |g| go on by one step."""
        squares = self.tracked.add_over_shards(_squares(gradients))[:, 0]
        lengths = pulled = torch.cat([act.lengths(mine) for act, mine in zip(self.pulls, forces, strict=True)])
        own = torch.zeros_like(lengths).index_add_(0, self._layers, squares).sqrt()
        if self.rule.scope == "global":
            own, pulled = own.norm()[None], lengths.norm()[None]
        self.norms += own
        self.sums[0] += 1
        most = self.rule.rho * self.norms / self.sums[0] / pulled
        # 0 / 0, a pull of nothing: any weight will do.
        return most.nan_to_num(self.rule.gamma).clamp(max=self.rule.gamma).expand_as(lengths)

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self._handles:
            handle.remove()
        new = curvature(self.trained, self.rule, look_back)
        total = {name: found + self.old[name] if name in self.old else found for name, found in new.items()}
        return dict(pair for name, found in total.items() for pair in named(found, KRONECKER + name))

    def statistics(self) -> dict[str, float]:
        """`old_loss_rise`: q before the last step, in nats per answer token, summed over the adapter's old tasks;
        `pull_weight`: mean of c over layers and steps so far; `pull_capped`: share of them in which the cap bound."""
        if not self._handles:
            return {}
        steps, weight, capped, rise = self.sums.tolist()
        return {"old_loss_rise": rise, "pull_weight": weight / max(steps, 1), "pull_capped": capped / max(steps, 1)}

    def state_dict(self) -> dict[str, Any]:
        """The sums behind m and statistics(). theta_0 and the curvature are the last stage's and given at the start."""
        return {"sums": self.sums, "norms": self.norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums.copy_(state["sums"])
        self.norms.copy_(state["norms"])


def _like(layer: TunedLinear) -> Tensor:
    """Device and precision of what is computed for a layer."""
    mine = local(layer.up)
    return mine.new_empty(0, dtype=wide(mine.dtype))


def _squares(tensors: list[Tensor]) -> Tensor:
    """Sum of the squared entries of each tensor, [tensors, 1]."""
    return torch.stack(torch._foreach_norm(tensors)).double().square()[:, None]


# The curvature ----------------------------------------------------------------------------------------------------


def curvature(trained: Trained, rule: Kronecker, look_back: LookBack) -> dict[str, Curvature]:
    """The curvature of the stage's rows at the weights as they are, per answer token, by the names of the layers; the
    same on all workers.

    The Fisher matrix of the softened model: labels are drawn from softmax(z / T), and a row's loss is T times their
    cross-entropy under it.

    Raises:
        FloatingPointError: it is not finite, on all workers.
    """
    sums = {layer.name: Curvature.zeros(layer.shape, rule.k, _like(layer)) for layer in trained.layers}

    def see(layer: TunedLinear, x: Tensor, g: Tensor) -> None:
        x, g = one_by_one(trained, x), one_by_one(trained, g)
        sums[layer.name].add(F.pad(x, (0, 1), value=1.0) if layer.bias is not None else x, g)

    tokens = look_over(trained, rule.rows, look_back, partial(softened_loss, temperature=rule.temperature), see)
    _over_workers(sums, tokens)
    return sums


def _over_workers(sums: Mapping[str, Curvature], tokens: Tensor) -> None:
    """Adds the workers' sums up and divides them by the number of answer tokens."""
    for tensor in _tensors(sums):
        if dist.is_initialized():
            dist.all_reduce(tensor)
    for layer in sums.values():
        layer.scale_(1 / tokens.clamp_min(1).to(layer.trace.dtype))
    broken = [name for name, layer in sums.items() if not bool(torch.isfinite(layer.trace))]
    if broken:
        raise FloatingPointError(f"the curvature of {broken[0]} is not finite")


def _tensors(sums: Mapping[str, Curvature]) -> Iterator[Tensor]:
    return (tensor for layer in sums.values() for tensor in layer.tensors)


def softened_loss(look: Look, temperature: float) -> tuple[Tensor, Tensor]:
    """T times the summed cross-entropy of drawn labels under softmax(z / T), and the number of answer tokens."""
    scores = look.logits()[:, :-1]
    answers = look.batch["labels"][:, 1:].to(scores.device) != UNTRAINED
    softened = scores[answers].to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    labels = draw(softened.detach(), look.seeds, answers.sum(1))
    loss = temperature * F.cross_entropy(softened, labels, reduction="sum")
    # A batch without answers still goes backward: other workers may wait for it.
    return loss + 0.0 * scores.sum(), answers.sum()


def draw(scores: Tensor, seeds: tuple[int, ...], counts: Tensor) -> Tensor:
    """A label [tokens] for each answer token from the softmax of its scores [tokens, vocabulary]; `counts` says how
    many of the tokens belong to each row, and a row's draws follow from its seed alone."""
    uniform = [
        torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed, count in zip(seeds, counts.tolist(), strict=True)
    ]
    steps = scores.double().softmax(-1).cumsum(-1)
    labels = torch.searchsorted(steps, torch.cat(uniform).to(steps.device)[:, None]).squeeze(1)
    return labels.clamp(max=scores.shape[-1] - 1)
