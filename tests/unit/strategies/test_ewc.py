"""Elastic weight consolidation: the pull enters the step and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lcia.config.strategies import EwcConfig
from lcia.protocols import Look, Trained
from lcia.strategies import build

pytestmark = pytest.mark.numeric


def no_rows(count: int, alone: bool) -> Iterator[Look]:
    return iter(())


def test_the_pull_is_the_gradient_of_the_penalty_and_stays_out_of_the_kept_curvature() -> None:
    origin, old, pull, rate = torch.tensor([1.0, -2.0, 3.0]).double(), torch.tensor([0.0, 1.0, 2.0]).double(), 0.3, 0.1
    parameter = nn.Parameter(origin.clone())
    optimizer = torch.optim.SGD([parameter], lr=rate)
    strategy = build(EwcConfig(kind="ewc", pull=pull), steps=6)
    strategy.start(Trained({"w": parameter}), optimizer, {"fisher.w": old})
    reference, squares = nn.Parameter(origin.clone()), torch.zeros(3).double()
    for _ in range(6):
        (parameter.cos()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        task = reference.cos().sum()
        squares += torch.autograd.grad(task, reference, retain_graph=True)[0] ** 2
        penalised = task + pull / 2 * (old * (reference - origin) ** 2).sum()
        reference = nn.Parameter((reference - rate * torch.autograd.grad(penalised, reference)[0]).detach())
    kept = strategy.finish(no_rows)
    torch.testing.assert_close(parameter, reference, rtol=1e-13, atol=0)
    torch.testing.assert_close(kept["fisher.w"], old + squares / 6, rtol=1e-13, atol=0)


def test_a_finished_stage_leaves_the_optimizer_alone() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    strategy = build(EwcConfig(kind="ewc", pull=100.0), steps=1)
    strategy.start(Trained({"w": parameter}), optimizer, {"fisher.w": torch.ones(3)})
    for number in range(2):
        if number == 1:
            strategy.finish(no_rows)
            before = parameter.detach().clone()
        parameter.grad = torch.full((3,), 2.0)
        optimizer.step()
    assert torch.equal(parameter, before - 0.1 * 2.0), "nothing pulls any more"


def test_the_first_stage_of_an_adapter_only_measures() -> None:
    torch.manual_seed(0)
    trained, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(trained.state_dict())
    strategy = build(EwcConfig(kind="ewc").first(), steps=3)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1) for model in (trained, plain)]
    strategy.start(Trained(dict(trained.named_parameters())), optimizers[0], {})
    for model, optimizer in zip((trained, plain), optimizers, strict=True):
        for step in range(3):
            model(torch.full((2, 3), 1.0 + step)).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), plain.parameters(), strict=True))
    assert set(strategy.finish(no_rows)) == {"fisher.weight", "fisher.bias"}


def test_a_resumed_stage_ends_as_the_uninterrupted_one() -> None:
    def run(interrupt_after: int | None) -> torch.Tensor:
        parameter = nn.Parameter(torch.tensor([0.3, 0.9]))
        optimizer = torch.optim.SGD([parameter], lr=0.2)
        config, kept = EwcConfig(kind="ewc", pull=2.0), {"fisher.w": torch.tensor([0.5, 1.5])}
        strategy = build(config, steps=5)
        strategy.start(Trained({"w": parameter}), optimizer, kept)
        for step in range(5):
            if step == interrupt_after:
                state = {key: value.clone() for key, value in strategy.state_dict().items()}
                parameter = nn.Parameter(parameter.detach().clone())
                optimizer = torch.optim.SGD([parameter], lr=0.2)
                strategy = build(config, steps=5)
                strategy.start(Trained({"w": parameter}), optimizer, kept)
                strategy.load_state_dict(state)
            parameter.sin().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([parameter.detach(), strategy.finish(no_rows)["fisher.w"]])

    assert torch.equal(run(3), run(None))


def test_a_gradient_that_is_not_finite_stops_the_stage() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    strategy = build(EwcConfig(kind="ewc"), steps=1)
    strategy.start(Trained({"w": parameter}), optimizer, {})
    (parameter * float("nan")).sum().backward()
    optimizer.step()
    with pytest.raises(FloatingPointError, match="w"):
        strategy.finish(no_rows)
