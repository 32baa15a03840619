"""Key entries and what holds them, against autograd in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcia.config.baselines import RegLoraConfig
from lcia.strategies import build
from lcia.strategies.reg_lora import RegLoraStrategy, key_entries
from tests.unit.strategies.test_kronecker import SCALE, Model, looking, moved


def change(model: Model, origin: dict[str, Tensor]) -> Tensor:
    return SCALE * (model.product.up @ model.product.down - origin["product.up"] @ origin["product.down"])


def weights(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.trained().parameters.items()}


def begun(model: Model, kept: dict[str, Tensor], weight: float = 3.0) -> tuple[RegLoraStrategy, torch.optim.Optimizer]:
    strategy = RegLoraStrategy(weight, share=0.2)
    optimizer = torch.optim.SGD(list(model.trained().parameters.values()), lr=0.0)
    strategy.start(model.trained(), optimizer, kept)
    return strategy, optimizer


def test_key_entries_are_those_of_the_largest_magnitude() -> None:
    matrix = torch.tensor([[0.1, -9.0, 2.0], [3.0, 0.0, -4.0]])
    assert key_entries(matrix, 0.5).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert int(key_entries(matrix, 0.001).sum()) == 1


def test_each_task_counts_its_own_change_and_the_penalty_holds_what_earlier_ones_changed_most() -> None:
    model = Model()
    origin = weights(model)
    strategy, optimizer = begun(model, {})
    assert not optimizer._optimizer_step_pre_hooks, "a first task is plain tuning"
    moved(model)
    kept = strategy.finish(looking(model))
    count = key_entries(change(model, origin).detach(), 0.2)
    assert torch.equal(kept["key_entries.product"], count)

    origin = weights(model)
    strategy, optimizer = begun(model, kept)
    moved(model)
    parameters = model.trained().parameters
    own = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = own[name].clone()
    wanted = change(model, origin)[count.bool()].abs().mean()
    up, down = torch.autograd.grad(3.0 * wanted, [model.product.up, model.product.down])
    optimizer.step()
    found = {name: parameter.grad - own[name] for name, parameter in parameters.items() if parameter.grad is not None}
    torch.testing.assert_close(found["product.up"], up, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(found["product.down"], down, rtol=1e-11, atol=1e-14)
    assert not found["head.weight"].any()
    assert strategy.statistics()["key_drift"] == pytest.approx(float(wanted.detach()), rel=1e-12)

    again = strategy.finish(looking(model))
    both = count + key_entries(change(model, origin).detach(), 0.2)
    assert torch.equal(again["key_entries.product"], both)
    assert not optimizer._optimizer_step_pre_hooks


def test_the_first_task_of_an_adapter_is_the_same_whatever_the_weight() -> None:
    first = RegLoraConfig(kind="reg_lora", weight=7).first()
    assert first == RegLoraConfig(kind="reg_lora").first()
    assert isinstance(build(first, 5), RegLoraStrategy)
