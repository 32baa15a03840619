"""Regular EWC and EWC-LoRA against gradients that autograd takes row by row, in fp64."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcia.config.baselines import RegularEwcConfig
from lcia.protocols import UNTRAINED
from lcia.strategies import build
from lcia.strategies.kronecker import draw
from lcia.strategies.regular_ewc import RegularEwc, RegularEwcStrategy, fisher
from tests.unit.strategies.test_kronecker import SCALE, Model, data, looking, moved

On = Literal["factors", "product"]
Labels = Literal["drawn", "data"]


def rule(on: On, labels: Labels = "drawn", pull: float = 3.0, decay: float = 1.0) -> RegularEwc:
    return RegularEwc(pull, on, labels, rows=8, decay=decay)


def row_gradients(model: Model, row: int, labels: Labels) -> dict[str, Tensor]:
    """Of -log p(y | x) of one row, by the weights themselves and by the formed product."""
    x, given = data()
    answers = given[row, 1:] != UNTRAINED
    up, down = (p.detach().clone().requires_grad_() for p in (model.product.up, model.product.down))
    head, bias = (p.detach().clone().requires_grad_() for p in (model.head.weight, model.head.bias))
    product = SCALE * up @ down
    product.retain_grad()
    scores = (torch.tanh(x[row] @ (model.product.base.weight + product).T) @ head.T + bias)[:-1][answers]
    drawn = draw(scores.detach(), (row,), answers.sum()[None])
    F.cross_entropy(scores, drawn if labels == "drawn" else given[row, 1:][answers], reduction="sum").backward()
    found = {"product.up": up.grad, "product.down": down.grad, "product.product": product.grad,
             "head.up": head.grad, "head.bias": bias.grad}  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("labels", ["drawn", "data"])
@pytest.mark.parametrize("on", ["factors", "product"])
@pytest.mark.parametrize("head", [True, False])
def test_the_information_is_the_mean_square_of_every_rows_gradient(head: bool, on: On, labels: Labels) -> None:
    model = Model()
    found = fisher(model.trained(head), rule(on, labels), looking(model))
    rows = [row_gradients(model, row, labels) for row in range(6)]
    tokens = (data()[1][:, 1:] != UNTRAINED).sum()
    names = ["product.up", "product.down"] if on == "factors" else ["product.product"]
    assert sorted(found) == sorted(names + (["head.up", "head.bias"] if head else []))
    for name, value in found.items():
        expected = torch.stack([row[name].square() for row in rows]).sum(0) / tokens
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-15)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_how_many_rows_are_seen_at_a_time_changes_nothing(size: int) -> None:
    model = Model()
    one, other = (fisher(model.trained(False), rule("factors"), looking(model, each)) for each in (6, size))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-11, atol=1e-15)


Second = tuple[Model, RegularEwcStrategy, torch.optim.Optimizer, dict[str, Tensor]]


def second_stage(on: On, decay: float = 1.0) -> Second:
    """The second task of an adapter before its first step."""
    model = Model()
    before = RegularEwcStrategy(rule(on, pull=0.0))
    before.start(model.trained(), torch.optim.SGD(model.parameters(), lr=0.0), {})
    kept = before.finish(looking(model))
    strategy = RegularEwcStrategy(rule(on, decay=decay))
    optimizer = torch.optim.SGD(list(model.trained().parameters.values()), lr=0.0)
    strategy.start(model.trained(), optimizer, kept)
    return model, strategy, optimizer, kept


def penalty(model: Model, on: On, origin: dict[str, Tensor], kept: dict[str, Tensor]) -> Tensor:
    """1/2 vec(d)' F vec(d), formed."""
    up, down = model.product.up, model.product.down
    then_up, then_down = origin["product.up"], origin["product.down"]
    moved = {"head.up": model.head.weight - origin["head.weight"], "head.bias": model.head.bias - origin["head.bias"]}
    if on == "factors":
        moved |= {"product.up": up - then_up, "product.down": down - then_down}
    else:
        moved |= {"product.product": SCALE * (up @ down - then_up @ then_down)}
    assert {f"diagonal.{name}" for name in moved} == set(kept)
    return torch.stack([(kept[f"diagonal.{name}"] * d.square()).sum() for name, d in moved.items()]).sum() / 2


@pytest.mark.parametrize("on", ["factors", "product"])
def test_the_pull_is_the_gradient_of_the_penalty(on: On) -> None:
    model, strategy, optimizer, kept = second_stage(on)
    parameters = model.trained().parameters
    origin = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    moved(model)
    own = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = own[name].clone()
    wanted = penalty(model, on, origin, kept)
    gradients = dict(zip(parameters, torch.autograd.grad(3.0 * wanted, list(parameters.values())), strict=True))
    optimizer.step()
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad - own[name], gradients[name], rtol=1e-10, atol=1e-13)
    assert strategy.statistics()["old_loss_rise"] == pytest.approx(float(wanted.detach()), rel=1e-10)


def test_before_anything_has_moved_nothing_pulls() -> None:
    model, strategy, optimizer, _ = second_stage("product")
    for parameter in model.trained().parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    gradients = [parameter.grad for parameter in model.trained().parameters.values()]
    assert all(gradient is not None and bool((gradient == 1).all()) for gradient in gradients)
    assert strategy.statistics() == {"old_loss_rise": 0.0}


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_what_an_adapter_keeps_is_the_decayed_sum_over_its_tasks(decay: float) -> None:
    model, strategy, optimizer, old = second_stage("factors", decay)
    moved(model)
    kept = strategy.finish(looking(model))
    new = fisher(model.trained(), rule("factors"), looking(model))
    for name, value in new.items():
        torch.testing.assert_close(kept[f"diagonal.{name}"], decay * old[f"diagonal.{name}"] + value)
    assert not optimizer._optimizer_step_pre_hooks


def test_the_first_task_of_an_adapter_only_looks_back_whatever_the_pull() -> None:
    first = RegularEwcConfig(kind="regular_ewc", pull=7, decay=0.5).first()
    assert first == RegularEwcConfig(kind="regular_ewc").first()
    strategy, model = build(first, 5), Model()
    optimizer = torch.optim.SGD(list(model.trained().parameters.values()), lr=0.0)
    strategy.start(model.trained(), optimizer, {})
    assert strategy.statistics() == {}
    assert not optimizer._optimizer_step_pre_hooks


def test_information_that_is_not_finite_is_an_error() -> None:
    model = Model()
    with pytest.raises(FloatingPointError, match="the Fisher information of product"):
        fisher(model.trained(False), rule("product", "data"), looking(lambda x: model(x) * float("inf")))
