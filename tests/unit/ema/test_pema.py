"""The rule with a matrix for its weight, against numpy's inverse in fp64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcia.config.baselines import SequentialConfig
from lcia.config.strategies import PemaConfig
from lcia.ema import DynamicEma, Options, Pema
from lcia.ema.pema import pema_beta
from lcia.strategies import build
from lcia.strategies.average import EmaStrategy

pytestmark = pytest.mark.numeric
Array = NDArray[np.float64]
EPSILON = 0.5


def formula(g: Array, d: Array, epsilon: float) -> Array:
    beta: Array = (g + 1) @ np.linalg.inv(d.T @ g**2 + epsilon * np.eye(g.shape[1]))
    return beta


@pytest.mark.parametrize("shape", [(5, 2), (2, 5), (3, 3), (4, 1)])
def test_the_weight_is_that_of_the_inverse_whatever_the_shape(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    g, d = generator.normal(size=shape), generator.normal(size=shape)
    found = pema_beta(torch.from_numpy(g), torch.from_numpy(d), EPSILON)
    np.testing.assert_allclose(found.numpy(), formula(g, d, EPSILON), rtol=1e-9)


def test_without_an_inverse_there_is_no_weight() -> None:
    g, d = torch.tensor([[1.0]]), torch.tensor([[-0.5]])
    assert bool(pema_beta(g, d, 0.5).isnan().all())


def model() -> nn.ParameterDict:
    torch.manual_seed(0)
    shapes = {"A": (2, 6), "B": (5, 2), "bias": (4,)}
    return nn.ParameterDict({name: nn.Parameter(torch.randn(shape).double()) for name, shape in shapes.items()})


def loss(parameters: nn.ParameterDict) -> Tensor:
    return torch.stack([(parameter + 0.3).cos().sum() for parameter in parameters.values()]).sum()


def follow(rule: Pema, steps: int = 4) -> tuple[nn.ParameterDict, DynamicEma, torch.optim.Optimizer]:
    parameters = model()
    optimizer = torch.optim.SGD(parameters.parameters(), lr=0.2)
    average = DynamicEma(dict(parameters.items()), rule).attach(optimizer)
    go_on(parameters, optimizer, steps)
    return parameters, average, optimizer


def go_on(parameters: nn.ParameterDict, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss(parameters).backward()
        optimizer.step()


def test_steps_follow_the_formula_and_fall_back_entry_by_entry() -> None:
    rule = Pema(fallback=0.9, epsilon=1.5)
    _, average, _ = follow(rule)
    reference = model()
    expected = {name: parameter.detach().numpy().copy() for name, parameter in reference.items()}
    outside, means = [], []
    for _ in range(4):
        gradients = torch.autograd.grad(loss(reference), list(reference.values()))
        for (name, parameter), gradient in zip(reference.items(), gradients, strict=True):
            parameter.data -= 0.2 * gradient
            theta, g = (value.numpy().reshape(len(value), -1) for value in (parameter.data, gradient))
            star = expected[name].reshape(theta.shape)
            beta = formula(g, theta - star, rule.epsilon)
            inside = (beta > 0) & (beta < 1)
            beta = np.where(inside, beta, rule.fallback)
            expected[name] = (beta * star + (1 - beta) * theta).reshape(parameter.shape)
            outside.append(1 - inside.mean())
            means.append(beta.mean())
    for name, value in average.weights().items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-9)
    figures = average.statistics()
    assert figures["fallback"] == pytest.approx(np.mean(outside))
    assert 0.05 < figures["fallback"] < 0.95, "both the formula and the fallback have decided"
    assert figures["beta"] == pytest.approx(np.mean(means[-3:]))
    assert figures["steps"] == 4


def test_a_resumed_average_has_the_same_bits() -> None:
    rule = Pema(0.9, 1.5)
    _, whole, _ = follow(rule, 5)
    parameters, first, _ = follow(rule, 3)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    first.detach()
    optimizer = torch.optim.SGD(parameters.parameters(), lr=0.2)
    second = DynamicEma(dict(parameters.items()), rule).attach(optimizer)
    second.load_state_dict(state)
    go_on(parameters, optimizer, 2)
    assert all(torch.equal(value, whole.weights()[name]) for name, value in second.weights().items())
    assert second.statistics() == whole.statistics()


@pytest.mark.parametrize("missing", ["skip", "zero"])
def test_a_missing_gradient_is_counted(missing: Any) -> None:
    parameters = model()
    optimizer = torch.optim.SGD(parameters.parameters(), lr=0.2)
    average = DynamicEma(dict(parameters.items()), Pema(0.9, 1.5), Options(missing_gradient=missing)).attach(optimizer)
    before = parameters["bias"].detach().clone()
    (parameters["A"].sum() + parameters["B"].sum()).backward()
    optimizer.step()
    assert average.statistics()["missing"] == 1
    assert torch.equal(average.weights()["bias"], before)


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    parameters, average, optimizer = follow(Pema(0.9, 1.5), 1)
    optimizer.zero_grad()
    (loss(parameters) * float("nan")).backward()
    optimizer.step()
    with pytest.raises(FloatingPointError, match="A, B, bias"):
        average.apply_()
    assert all(bool(value.isfinite().all()) for value in average.weights().values())


def test_the_configuration_builds_the_rule_and_leaves_a_first_task_alone() -> None:
    config = PemaConfig(kind="pema")
    strategy = build(config, 3)
    assert isinstance(strategy, EmaStrategy)
    assert strategy.rule == Pema(0.99, 1e-5)
    assert config.first() == SequentialConfig()
