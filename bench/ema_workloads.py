"""What the average is measured on: LoRA tensors of LLaVA-7B's shapes, the authors' loop, and two models to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RANK, HIDDEN, MLP, HEADS = 128, 4096, 11008, 32


def lora_shapes(layers: int) -> list[tuple[int, int]]:
    """A and B of the seven linear layers of each decoder block: 14 tensors, 10 M entries a layer."""
    widths = [(HIDDEN, HIDDEN)] * 4 + [(HIDDEN, MLP)] * 2 + [(MLP, HIDDEN)]
    return [shape for into, out in widths * layers for shape in ((RANK, into), (out, RANK))]


@dataclass
class Tensors:
    """Parameters with two sets of gradients, handed out in turn as a loop that drops its gradients would."""

    parameters: list[nn.Parameter]
    gradients: tuple[list[Tensor], list[Tensor]]
    turn: int = 0

    @classmethod
    def make(cls, shapes: list[tuple[int, int]], device: str) -> Tensors:
        random = torch.Generator().manual_seed(0)
        draw = [[torch.randn(s, generator=random).mul_(0.01).to(device) for s in shapes] for _ in range(3)]
        return cls([nn.Parameter(weight) for weight in draw[0]], (draw[1], draw[2]))

    def next_gradients(self) -> None:
        self.turn = 1 - self.turn
        for parameter, gradient in zip(self.parameters, self.gradients[self.turn], strict=True):
            parameter.grad = gradient

    def entries(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)


def authors_loop(tensors: Tensors) -> Callable[[], None]:
    """One step of the published implementation, rebuilt: per tensor three L1 norms, one
    `float()` that waits for the device, and deep copies of the weights and of the gradient."""
    stars = [p.detach().clone() for p in tensors.parameters]
    last = [torch.zeros_like(p) for p in tensors.parameters]

    @torch.no_grad()
    def step() -> None:
        for place, parameter in enumerate(tensors.parameters):
            assert parameter.grad is not None
            theta, gradient = parameter.detach().clone(), parameter.grad.clone()
            drift, change = torch.norm(theta - stars[place], p=1), torch.norm(gradient - last[place], p=1)
            alpha = float(2 * (1 + torch.norm(gradient, p=1)) / (drift * change))
            alpha = alpha if 0 < alpha < 1 else 0.01
            stars[place] = (1 - alpha) * stars[place] + alpha * theta
            last[place] = gradient

    return step


class Lora(nn.Module):
    """A frozen linear layer with a trainable low-rank update."""

    def __init__(self, into: int, out: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(out, into) / into**0.5, requires_grad=False)
        self.a = nn.Parameter(torch.randn(rank, into) / into**0.5)
        self.b = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base) + F.linear(F.linear(x, self.a), self.b)


class Block(nn.Module):
    """A Llama decoder block without rotary positions, whose cost is nothing beside the matrices."""

    def __init__(self, hidden: int, mlp: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_out = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.q, self.k, self.v, self.o = (Lora(hidden, hidden, rank) for _ in range(4))
        self.gate, self.up, self.down = Lora(hidden, mlp, rank), Lora(hidden, mlp, rank), Lora(mlp, hidden, rank)
        for norm in (self.norm_in, self.norm_out):
            norm.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_in(x)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.norm_out(x)
        result: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return result


@dataclass
class Training:
    """A model with its input [batch, tokens, hidden]; a frozen tower with its own, which only looks forward."""

    model: nn.Module
    inputs: Tensor
    tower: nn.Module | None = None

    def backward(self) -> None:
        if self.tower is not None:
            with torch.no_grad():
                self.tower(self.inputs[:, :17])
        torch.autograd.backward(self.model(self.inputs).pow(2).mean())


def _blocks(number: int) -> nn.Sequential:
    return nn.Sequential(*(Block(96, 192, 4, 8) for _ in range(number)))


def tiny_training(device: str) -> Training:
    """The shipped tiny LLaVA without its vocabulary: towers of three blocks of 96, LoRA r 8, 16 samples of 40 tokens,
    of which 16 are image patches."""
    return Training(_blocks(3).to(device), torch.randn(16, 40, 96, device=device), _blocks(3).to(device))


def block_training(device: str, batch: tuple[int, int] | None = None) -> Training:
    """One block of LLaVA-7B with LoRA r 128. `batch`: rows and tokens of each; else one row of 128 on a CPU (a fraction
    of a real batch), 8 of 1024 on a GPU."""
    rows, tokens = batch or ((1, 128) if device == "cpu" else (8, 1024))
    return Training(Block(HIDDEN, MLP, HEADS, RANK).to(device), torch.randn(rows, tokens, HIDDEN, device=device))
