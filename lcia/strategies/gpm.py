"""Gradient projection memory: a layer is not changed along the directions that earlier tasks' inputs lie in.

Saha et al., "Gradient Projection Memory for Continual Learning" (ICLR 2021, arXiv 2103.09762; code sahagobinda/GPM).
Each trained matrix is a layer with inputs of its own: of a LoRA pair, A [r, in] has x and B [out, r] has A x.

At a task's end n of its inputs are the columns of R [in, n], and M [in, k] holds the bases so far (none at first):
    R^ = R - M M'R        R^ = U S V'        k' = least with  |M'R|^2 + sum of the first k' S^2 >= threshold |R|^2
    M <- [M, first k' columns of U]
At each step of a later task, with D the gradient, and then the step itself:
    D <- D (I - M M')
The published method steps by SGD, where a step along a projected gradient is a projected step. Adam scales the entries
apart, which leads out of the complement again, so what it did to the weights is projected as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lcia.ema.buffers import wide
from lcia.ema.hooks import Step, attach
from lcia.ema.sharding import is_dtensor, local, whole
from lcia.ema.tracked import Tracked
from lcia.protocols import UNTRAINED, LookBack, Strategy, Trained, TunedLinear
from lcia.strategies.watch import noted

GPM = "gpm."
"""Prefix of the bases in what a stage keeps for the adapter's next one."""
INPUTS, DOWN = ".inputs", ".down"
"""Of the layer's own inputs, and of what its A makes of them: [in, k] and [r, k]."""


@dataclass(frozen=True)
class Gpm:
    """The constants of the rule; config.strategies.GpmConfig explains them."""

    threshold: float
    matrices: Literal["both", "down"]
    rows: int
    tokens: int


@dataclass(frozen=True, eq=False)
class Guarded:
    """Parameters whose columns lie side by side (a weight and its bias), and M [columns, k] of their inputs."""

    parameters: Sequence[nn.Parameter]
    bases: Tensor

    def project(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Takes away, in place, what lies along the bases; `parts` are this process's rows of each parameter's change.
        Returns the squared length before and after, of this process's part."""
        table = torch.cat([part.view(len(part), -1) for part in parts], 1).to(self.bases.dtype)
        free = table - (table @ self.bases) @ self.bases.T
        for part, new in zip(parts, torch.split(free, [p[:1].numel() for p in parts], 1), strict=True):
            part.copy_(new.reshape(part.shape))
        return table.double().square().sum(), free.double().square().sum()


class GpmStrategy(Strategy):
    """theta* is theta; gradients and steps lie in the complement of what earlier tasks' inputs span."""

    def __init__(self, rule: Gpm) -> None:
        self.rule = rule
        self.trained = Trained({})
        self.old: dict[str, Tensor] = {}
        self.guarded: list[Guarded] = []
        self._before: list[list[Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        self.trained = trained
        self.old = {key.removeprefix(GPM): value for key, value in kept.items() if key.startswith(GPM)}
        tracked = Tracked(trained.parameters)
        self.squares = torch.zeros(2, dtype=torch.float64, device=tracked.device)
        self.guarded = [each for layer in trained.layers for each in self._guarded(layer)]
        if self.guarded:
            self._handles = attach(optimizer, tracked, self.before, self.after)

    def _guarded(self, layer: TunedLinear) -> Iterator[Guarded]:
        """The matrices of a layer that earlier tasks left something of."""
        own = [layer.up] + ([layer.bias] if layer.bias is not None else [])
        matrices = {INPUTS: own} if layer.down is None else {INPUTS: [layer.down], DOWN: [layer.up]}
        for side, parameters in matrices.items():
            if (found := self.old.get(layer.name + side)) is not None and found.shape[1]:
                for parameter in parameters:
                    _check_rows_whole(parameter)
                like = local(parameters[0])
                yield Guarded(parameters, found.to(like.device, wide(like.dtype)))

    @torch.no_grad()
    def before(self, step: Step) -> None:
        """Projects the gradient that the optimizer is about to step with, and remembers where the weights are."""
        found = [each.project([_gradient(p) for p in each.parameters]) for each in self.guarded]
        self.squares = torch.stack([torch.stack(pair) for pair in found]).sum(0)
        self._before = [[local(p).clone() for p in each.parameters] for each in self.guarded]

    @torch.no_grad()
    def after(self, step: Step) -> None:
        """Projects what the optimizer did to the weights."""
        for each, origins in zip(self.guarded, self._before, strict=True):
            live = [local(parameter) for parameter in each.parameters]
            moves = [now - origin for now, origin in zip(live, origins, strict=True)]
            each.project(moves)
            for now, origin, move in zip(live, origins, moves, strict=True):
                now.copy_(origin + move)
        self._before = []

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        for handle in self._handles:
            handle.remove()
        kept: dict[str, Tensor] = {}
        for layer, columns in inputs_of(self.trained.layers, self.rule, look_back):
            kept[GPM + layer.name + INPUTS] = self._grown(layer.name + INPUTS, columns)
            if layer.down is not None and self.rule.matrices == "both":
                down = whole(layer.down.detach()).to(columns)
                kept[GPM + layer.name + DOWN] = self._grown(layer.name + DOWN, down @ columns)
        return kept

    def _grown(self, name: str, columns: Tensor) -> Tensor:
        old = self.old.get(name, columns.new_zeros(len(columns), 0))
        return grow(old.to(columns), columns, self.rule.threshold).to(wide(columns.dtype)).contiguous()

    def statistics(self) -> dict[str, float]:
        """`guarded_directions`: share of the input directions that are closed, mean over the matrices; `gradient_kept`:
        length of the last step's projected gradient over that of the gradient."""
        if not self.guarded:
            return {}
        total = self.squares.clone()
        if dist.is_initialized() and is_dtensor(self.guarded[0].parameters[0]):
            dist.all_reduce(total)
        before, after = total.tolist()
        shares = [each.bases.shape[1] / each.bases.shape[0] for each in self.guarded]
        kept = (after / before) ** 0.5 if before else 1.0
        return {"guarded_directions": sum(shares) / len(shares), "gradient_kept": kept}

    def state_dict(self) -> dict[str, Any]:
        """What statistics() tells of the last step. The bases are the last stage's and given at the start."""
        return {"squares": self.squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.squares.copy_(state["squares"])


def _gradient(parameter: nn.Parameter) -> Tensor:
    """This process's rows of a gradient."""
    if parameter.grad is None:
        raise RuntimeError("a guarded parameter got no gradient in this step: do not train it")
    return local(parameter.grad)


def _check_rows_whole(parameter: Tensor) -> None:
    """A projection acts on each row by itself, so a process needs no other's rows, but all of its own."""
    if is_dtensor(parameter):
        assert not any(each.is_shard() and not each.is_shard(0) for each in parameter.placements)


# The bases --------------------------------------------------------------------------------------------------------


def grow(bases: Tensor, columns: Tensor, threshold: float) -> Tensor:
    """M [in, k] with as many more directions of R [in, n] as hold `threshold` of R's energy; in R's precision."""
    old, found = bases.double(), columns.double()
    rest = found - old @ (old.T @ found)
    energy = found.square().sum()
    # The smaller of both products; its eigenvalues are the squared singular values of the rest.
    gram = rest @ rest.T if len(rest) <= rest.shape[1] else rest.T @ rest
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    held = energy - rest.square().sum() + torch.cat([values.new_zeros(1), values.cumsum(0)])
    # At least rank one is above rounding wherever more is wanted.
    wanted = int((held < threshold * energy).sum())
    wanted = min(wanted, int((values > energy * 1e-12).sum()), len(rest) - old.shape[1])
    new = vectors[:, :wanted] if len(rest) <= rest.shape[1] else rest @ vectors[:, :wanted]
    together, _ = torch.linalg.qr(torch.cat([old, new], 1))
    added = together[:, old.shape[1] :]
    # The sign of a basis vector is arbitrary: its largest entry is positive.
    signs = torch.gather(added, 0, added.abs().argmax(0, keepdim=True)).sign()
    return torch.cat([old, added * signs], 1).to(columns.dtype)


def inputs_of(layers: Sequence[TunedLinear], rule: Gpm, look_back: LookBack) -> Iterator[tuple[TunedLinear, Tensor]]:
    """R [in, n] of each layer, the same on all workers: of each of `rows` rows `tokens` inputs, drawn by the row's
    seed. A worker's idle rows and what a short row lacks are zeros."""
    columns: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    # Rows come alone: padding has inputs too, and how the pictures of a batch belong to rows is the model's affair.
    with torch.no_grad():
        for look in look_back(rule.rows, True):
            meant = bool((look.batch["labels"] != UNTRAINED).any())
            with noted(layers) as inputs:
                look.logits()
            for layer in layers:
                drawn = _drawn(inputs.get(layer.name), layer, rule.tokens, look.seeds[0])
                # In host memory: the columns of all layers at once are larger than the adapter.
                columns[layer.name].append((drawn if meant else torch.zeros_like(drawn)).cpu())
    for layer in layers:
        mine = torch.stack(columns.pop(layer.name)).to(local(layer.up).device)
        yield layer, _of_all_workers(mine).flatten(0, 1).T


def _drawn(inputs: Tensor | None, layer: TunedLinear, tokens: int, seed: int) -> Tensor:
    """[tokens, in] of a row's inputs [all tokens, in]; None: the row does not come to the layer."""
    width = layer.shape[1]
    like = local(layer.up)
    found = torch.zeros(tokens, width, dtype=wide(like.dtype), device=like.device)
    if inputs is not None:
        count = min(tokens, len(inputs))
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:count]
        chosen = inputs[order.to(inputs.device)].to(found)
        found[:count] = F.pad(chosen, (0, 1), value=1.0) if layer.bias is not None else chosen
    return found


def _of_all_workers(mine: Tensor) -> Tensor:
    """[rows, ...] of every worker, in the order in which one worker would have seen them; each has as many."""
    if not dist.is_initialized():
        return mine
    world, rank = dist.get_world_size(), dist.get_rank()
    every = mine.new_zeros(len(mine), world, *mine.shape[1:])
    every[:, rank] = mine
    dist.all_reduce(every)
    return every.flatten(0, 1)
