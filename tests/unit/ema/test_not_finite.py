"""A gradient that is not finite is told under every rule, wherever it is read; the average is not moved by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.ema import Curvature, DynamicEma, Fixed, Official, Options, Paper, Proximal, Rule
from lcia.ema.scalar import ScalarAverage
from lcia.protocols import Strategy, Trained
from lcia.strategies import build

SCALAR: dict[str, Rule] = {
    "fixed": Fixed(0.9),
    "paper": Paper(lagrange=1.0, fallback=0.99, reduction="sum"),
    "official": Official(factor=2.0, fallback_alpha=0.01, reduction="sum"),
    "proximal": Proximal("relative", 20.0),
}
ELEMENTWISE: dict[str, Rule] = {
    "curvature": Curvature(0.5, 0.9, 0.0),
    "curvature with pull": Curvature(0.5, 0.9, 0.1),
    "curvature of adam": Curvature(0.5, 0.9, 0.1, "adam"),
}
RULES = SCALAR | ELEMENTWISE
READERS: dict[str, Callable[[DynamicEma], object]] = {
    "statistics": DynamicEma.statistics,
    "state_dict": DynamicEma.state_dict,
    "apply_": DynamicEma.apply_,
    "swapped": lambda average: average.swapped().__enter__(),
}
# Two tensors of one size are rows of a matrix, the long one is by itself.
SHAPES = {"a": (4,), "b": (4,), "long": (1 << 14 | 1,)}


def average_of(rule: Rule, old: bool = True) -> tuple[DynamicEma, dict[str, nn.Parameter], torch.optim.Optimizer]:
    held = {name: nn.Parameter(torch.ones(shape)) for name, shape in SHAPES.items()}
    optimizer = torch.optim.Adam(held.values(), lr=0.1)
    kept = {n: torch.ones_like(p) for n, p in held.items()} if old and isinstance(rule, Curvature) else None
    return DynamicEma(held, rule, old_curvature=kept).attach(optimizer), held, optimizer


def step(held: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, bad: dict[str, float]) -> None:
    for name, parameter in held.items():
        parameter.grad = torch.full_like(parameter, 0.5)
        if name in bad:
            parameter.grad[-1] = bad[name]
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_tells_the_first_reader_of_a_gradient_that_is_not_finite(name: str, reader: str) -> None:
    average, held, optimizer = average_of(RULES[name])
    for _ in range(2):
        step(held, optimizer, {})
    READERS[reader](average)
    step(held, optimizer, {"b": float("nan")})
    step(held, optimizer, {})
    with pytest.raises(FloatingPointError, match=r"of 1 parameters were not finite \(b\)"):
        READERS[reader](average)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("tensor", SHAPES)
@pytest.mark.parametrize("name", RULES)
def test_one_entry_of_any_tensor_is_enough(name: str, tensor: str, value: float) -> None:
    average, held, optimizer = average_of(RULES[name], old=False)
    step(held, optimizer, {tensor: value})
    with pytest.raises(FloatingPointError, match=tensor):
        average.statistics()


def test_infinities_that_cancel_are_told_too() -> None:
    average, held, optimizer = average_of(Fixed(0.9))
    for parameter in held.values():
        parameter.grad = torch.zeros_like(parameter)
    held["a"].grad = torch.tensor([float("inf"), float("-inf"), 0, 0])
    optimizer.step()
    with pytest.raises(FloatingPointError, match="a"):
        average.apply_()


@pytest.mark.parametrize("name", SCALAR)
def test_a_scalar_average_is_not_moved_by_a_step_with_such_a_gradient(name: str) -> None:
    average, held, optimizer = average_of(RULES[name])
    step(held, optimizer, {})
    before = {key: value.clone() for key, value in average.weights().items()}
    step(held, optimizer, {key: float("nan") for key in SHAPES})
    assert [key for key, value in average.weights().items() if not torch.equal(value, before[key])] == []


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_curvature_that_is_not_finite_is_never_handed_on(name: str) -> None:
    average, held, optimizer = average_of(RULES[name])
    step(held, optimizer, {"a": float("nan")})
    with pytest.raises(FloatingPointError, match="a"):
        average.curvature()


def test_the_error_counts_all_parameters_and_names_three() -> None:
    held = {name: nn.Parameter(torch.ones(2)) for name in "vwxyz"}
    optimizer = torch.optim.SGD(held.values(), lr=0.1)
    average = DynamicEma(held, Fixed(0.9)).attach(optimizer)
    step(held, optimizer, dict.fromkeys("wxyz", float("nan")))
    with pytest.raises(FloatingPointError, match=r"of 4 parameters were not finite \(w, x, y, \.\.\.\)"):
        average.apply_()


KINDS: list[dict[str, Any]] = [
    {"kind": "fixed", "beta": 0.9},
    {"kind": "paper"},
    {"kind": "official"},
    {"kind": "proximal"},
    {"kind": "curvature"},
    {"kind": "ewc"},
]


STRATEGY_READERS: dict[str, Callable[[Strategy], object]] = {
    "statistics": lambda strategy: strategy.statistics(),
    "state_dict": lambda strategy: strategy.state_dict(),
    "finish": lambda strategy: strategy.finish(lambda count, alone: iter(())),
}


@pytest.mark.parametrize("reader", STRATEGY_READERS)
@pytest.mark.parametrize("strategy", KINDS, ids=lambda strategy: strategy["kind"])
def test_every_strategy_with_a_state_tells_the_loop(strategy: dict[str, Any], reader: str) -> None:
    config = parse(RunConfig, {"strategy": strategy}, "test").strategy
    built, parameter = build(config, 4), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    built.start(Trained({"w": parameter}), optimizer, {})
    parameter.grad = torch.tensor([1.0, float("nan"), 1.0])
    optimizer.step()
    with pytest.raises(FloatingPointError, match="w"):
        STRATEGY_READERS[reader](built)


def test_a_fixed_average_keeps_no_gradient_for_the_check() -> None:
    average, held, optimizer = average_of(Fixed(0.9))
    step(held, optimizer, {})
    assert isinstance(average.engine, ScalarAverage)
    assert [list(buffers.kept) for buffers in average.engine.buffers] == [["average"]] * 2


def test_gradients_in_half_precision_may_add_up_to_more_than_it_can_say() -> None:
    parameter = nn.Parameter(torch.ones(300, dtype=torch.float16))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    average = DynamicEma({"w": parameter}, Fixed(0.9)).attach(optimizer)
    parameter.grad = torch.full_like(parameter, 60_000)
    optimizer.step()
    average.apply_()


# What a step lacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALAR)
def test_a_step_may_lack_the_gradients_of_all_tensors_of_one_size(name: str) -> None:
    held = {"a": nn.Parameter(torch.ones(4)), "b": nn.Parameter(torch.ones(4)), "c": nn.Parameter(torch.ones(7))}
    optimizer = torch.optim.SGD(held.values(), lr=0.1)
    average = DynamicEma(held, RULES[name], Options(missing_gradient="skip")).attach(optimizer)

    def one(names: str) -> dict[str, Tensor]:
        for key in names:
            held[key].grad = torch.full_like(held[key], 0.5)
        optimizer.step()
        optimizer.zero_grad()
        return {key: value.clone() for key, value in average.weights().items()}

    one("abc")
    before, after = one("abc"), one("c")
    assert [key for key in held if torch.equal(before[key], after[key])] == ["a", "b"]
    assert average.statistics()["missing"] == 2


@pytest.mark.parametrize("rule", [*ELEMENTWISE.values(), Fixed(0.9)], ids=[*ELEMENTWISE, "fixed"])
def test_where_every_gradient_was_there_none_is_counted_as_missing(rule: Rule) -> None:
    average, held, optimizer = average_of(rule)
    step(held, optimizer, {})
    assert average.statistics()["missing"] == 0


@pytest.mark.parametrize("rule", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_the_curvature_counts_every_gradient_that_was_missing(rule: Rule) -> None:
    held = {name: nn.Parameter(torch.ones(3)) for name in "ab"}
    optimizer = torch.optim.Adam(held.values(), lr=0.1)
    average = DynamicEma(held, rule, Options(missing_gradient="skip")).attach(optimizer)
    for names in ("ab", "a", "a"):
        for name in names:
            held[name].grad = torch.ones(3)
        optimizer.step()
        optimizer.zero_grad()
    assert average.statistics()["missing"] == 2
