"""Orthogonal low-rank pairs: the pull against autograd, and the stored sum against the model that was trained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcia.config.baselines import OLoraConfig, SequentialConfig
from lcia.protocols import Look, Strategy, Trained, TunedLinear
from lcia.strategies import build

IN, OUT, RANK, SCALE = 6, 5, 2, 1.5


def no_rows(count: int, alone: bool) -> Iterator[Look]:
    return iter(())


class Lora(nn.Module):
    """y = (W + SCALE up down) x"""

    def __init__(self, seed: int, rank: int = RANK) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(IN, OUT, bias=False).double().requires_grad_(False)
        torch.manual_seed(seed)
        self.down = nn.Parameter(torch.randn(rank, IN, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(OUT, rank, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + SCALE * F.linear(F.linear(x, self.down), self.up)  # type: ignore[no-any-return]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {"down": self.down.detach(), "up": self.up.detach()}

    def trained(self, parent: dict[str, Tensor]) -> Trained:
        layer = TunedLinear("l", self, self.up, self.down, scale=SCALE)
        return Trained({"down": self.down, "up": self.up}, [layer], parent=parent)


def started(weight: float = 0.3, rank: int = 4) -> tuple[Lora, Lora, Strategy, torch.optim.Optimizer]:
    """A fresh pair beside an adapter of `rank`."""
    parent, model = Lora(1, rank), Lora(2)
    strategy = build(OLoraConfig(kind="olora", weight=weight), steps=1)
    optimizer = torch.optim.SGD([model.down, model.up], lr=0.1)
    strategy.start(model.trained(parent.weights), optimizer, {})
    return parent, model, strategy, optimizer


def test_earlier_pairs_take_part_and_are_not_trained() -> None:
    parent, model, _, _ = started()
    x = torch.randn(3, IN, dtype=torch.float64)
    weights = model.base.weight + SCALE * (parent.up @ parent.down + model.up @ model.down)
    torch.testing.assert_close(model(x), x @ weights.T, rtol=1e-12, atol=1e-12)
    model(x).sum().backward()
    assert parent.down.grad is None


def test_a_step_follows_the_gradient_of_the_loss_and_of_the_penalty() -> None:
    weight = 0.3
    parent, model, strategy, optimizer = started(weight)
    x = torch.randn(3, IN, dtype=torch.float64)
    down, up = (parameter.detach().clone().requires_grad_() for parameter in (model.down, model.up))
    task = (x @ (model.base.weight + SCALE * (parent.up.detach() @ parent.down.detach() + up @ down)).T).cos().sum()
    overlap = sum((row @ old).abs() for row in down for old in parent.down.detach())
    assert isinstance(overlap, Tensor)
    assert strategy.statistics()["overlap"] == pytest.approx(float(overlap.detach()), rel=1e-12)
    wanted = torch.autograd.grad(task + weight * overlap, [down, up])
    model(x).cos().sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.down.detach(), down.detach() - 0.1 * wanted[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.up.detach(), up.detach() - 0.1 * wanted[1], rtol=1e-12, atol=1e-12)


def test_what_is_stored_says_what_the_trained_model_said() -> None:
    _, model, strategy, _ = started(rank=4)
    x = torch.randn(3, IN, dtype=torch.float64)
    said = model(x).detach()
    assert strategy.finish(no_rows) == {}
    stored = strategy.stored(model.weights)
    strategy.release()
    assert stored["down"].shape == (4 + RANK, IN)
    assert stored["up"].shape == (OUT, 4 + RANK)
    weights = model.base.weight + SCALE * stored["up"] @ stored["down"]
    torch.testing.assert_close(x @ weights.T, said, rtol=1e-12, atol=1e-12)
    assert (model(x) - said).abs().max() > 0.1, "released, the earlier pairs are gone"


def test_the_pull_makes_the_directions_orthogonal() -> None:
    _, model, strategy, optimizer = started(weight=1.0, rank=3)
    for group in optimizer.param_groups:
        group["lr"] = 2e-3
    before = strategy.statistics()["overlap"]
    for _ in range(1000):
        model.down.grad, model.up.grad = torch.zeros_like(model.down), torch.zeros_like(model.up)
        optimizer.step()
    assert strategy.statistics()["overlap"] < 0.05 * before
    assert model.down.norm() > 0.5, "not by vanishing"


def test_a_finished_stage_leaves_the_optimizer_alone() -> None:
    _, _, strategy, optimizer = started()
    strategy.finish(no_rows)
    assert not optimizer._optimizer_step_pre_hooks


def test_the_first_task_of_an_adapter_is_plain_tuning() -> None:
    assert OLoraConfig(kind="olora").first() == SequentialConfig()
