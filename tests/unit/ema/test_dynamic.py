"""The average on its own: against a naive oracle in fp64, and exact under everything that a loop may do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lcia.ema import DynamicEma, Fixed, Official, Options, Paper, Proximal, buffers

pytestmark = pytest.mark.numeric

SHAPES = ((7, 9), (40,), (3, 4, 5))
STEPS = 12
PLAIN = Options()
RULES = {
    "fixed": Fixed(0.9),
    "paper": Paper(lagrange=0.8, fallback=0.99, reduction="sum"),
    "paper-mean": Paper(lagrange=40.0, fallback=0.99, reduction="mean"),
    "official": Official(factor=0.7, fallback_alpha=0.01, reduction="sum"),
    "proximal-relative": Proximal("relative", 20.0),
    "proximal-absolute": Proximal("absolute", 15.0),
}


class Scripted(torch.optim.Optimizer):
    """Steps to weights that were written down before, so that the oracle needs no optimizer."""

    def __init__(self, parameters: Sequence[Tensor], script: Sequence[Sequence[Tensor]]) -> None:
        super().__init__(list(parameters), {})
        self.script = iter(script)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter, value in zip(self.param_groups[0]["params"], next(self.script), strict=True):
            parameter.copy_(value)


@dataclass
class Story:
    """weights[0] is the start; gradients[t] leads to weights[t + 1]."""

    weights: list[list[Tensor]]
    gradients: list[list[Tensor]]


def story(seed: int = 0, shapes: Sequence[tuple[int, ...]] = SHAPES, steps: int = STEPS) -> Story:
    """A drifting walk with noisy gradients that point against it, in the regime where most betas are dynamic."""
    random = torch.Generator().manual_seed(seed)

    def draw() -> list[Tensor]:
        return [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]

    weights, goal, gradients = [draw()], draw(), []
    for _ in range(steps):
        slope = [now - end + 0.1 * noise for now, end, noise in zip(weights[-1], goal, draw(), strict=True)]
        gradients.append(slope)
        weights.append([now - 0.15 * g for now, g in zip(weights[-1], slope, strict=True)])
    return Story(weights, gradients)


def total(f: Callable[..., float], *arrays: Tensor) -> float:
    return math.fsum(f(*entries) for entries in zip(*(array.flatten().tolist() for array in arrays), strict=True))


class Seen(NamedTuple):
    """What a rule knows of a tensor at a step."""

    theta: Tensor
    last: Tensor
    star: Tensor
    g: Tensor
    g_last: Tensor


def oracle_beta(rule: Any, seen: Seen, memory: list[float]) -> float:
    """The formulas of docs/method.md 2, entry by entry."""
    theta, last, star, g, g_last = seen
    n = theta.numel() if getattr(rule, "reduction", "sum") == "mean" else 1
    if isinstance(rule, Fixed):
        return rule.beta
    if isinstance(rule, Proximal):
        moved = total(lambda a, b: (a - b) ** 2, theta, last)
        h = max(0.0, total(lambda a, b, c, d: (a - b) * (c - d), g, g_last, theta, last) / moved)
        memory.append(h)
        s = rule.strength * (sum(memory) / len(memory) if rule.stability == "relative" else 1)
        square = total(lambda a, b: (a - b) ** 2, theta, star)
        return (s + total(lambda x, a, b: x * (a - b), g, theta, star) / square) / (s + h)
    norm_g = total(abs, g) / n
    bottom = total(lambda a, b: abs(a - b), theta, star) / n * total(lambda a, b: abs(a - b), g, g_last) / n
    if isinstance(rule, Official):
        alpha = rule.factor * (1 + norm_g) / bottom
        return 1 - (alpha if 0 < alpha < 1 else rule.fallback_alpha)
    beta = (1 / rule.lagrange + norm_g) * (total(lambda a, b: abs(a - b), theta, last) / n) / bottom
    return beta if 0 < beta < 1 else rule.fallback


FIRST = {
    "fixed": 0.9,
    "paper": 0.99,
    "paper-mean": 0.99,
    "official": 0.99,
    "proximal-relative": 20 / 21,
    "proximal-absolute": 1.0,
}


def oracle(name: str, tale: Story, bounds: tuple[float, float] = (0, 1)) -> tuple[list[list[float]], list[Tensor]]:
    """Betas [steps][tensors] and the last theta* of each tensor."""
    rule, stars, betas = RULES[name], [w.clone() for w in tale.weights[0]], []
    memories: list[list[float]] = [[] for _ in stars]
    for t, gradients in enumerate(tale.gradients):
        row = []
        for i, g in enumerate(gradients):
            theta, last = tale.weights[t + 1][i], tale.weights[t][i]
            raw = FIRST[name]
            if t > 0:
                raw = oracle_beta(rule, Seen(theta, last, stars[i], g, tale.gradients[t - 1][i]), memories[i])
            beta = min(max(raw, bounds[0]), bounds[1])
            stars[i] = beta * stars[i] + (1 - beta) * theta
            row.append(beta)
        betas.append(row)
    return betas, stars


def follow(
    tale: Story, rule: Any, options: Options = PLAIN, dtype: torch.dtype = torch.float64
) -> tuple[DynamicEma, Tensor]:
    """Tells the story to an average; its betas are [steps, tensors]."""
    parameters = {f"layers.{i}.w": nn.Parameter(w.to(dtype, copy=True)) for i, w in enumerate(tale.weights[0])}
    optimizer = Scripted(list(parameters.values()), tale.weights[1:])
    average, betas = DynamicEma(parameters, rule, options).attach(optimizer), []
    for gradients in tale.gradients:
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient.to(dtype, copy=True)
        optimizer.step()
        optimizer.zero_grad()
        betas.append(average.engine.tally.beta.clone())  # type: ignore[union-attr]
    return average, torch.stack(betas)


def inside(betas: Sequence[Sequence[float]], bounds: tuple[float, float]) -> float:
    """Share of betas after the first step that neither fell back nor met a bound."""
    values = [beta for row in betas[1:] for beta in row]
    return sum(bounds[0] < beta < bounds[1] and beta not in (0.99, 0.01) for beta in values) / len(values)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.2, 0.97)])
@pytest.mark.parametrize("name", RULES)
def test_beta_and_average_equal_the_oracle_in_fp64(name: str, bounds: tuple[float, float]) -> None:
    tale = story()
    expected, stars = oracle(name, tale, bounds)
    assert inside(expected, bounds) >= 0.5
    average, betas = follow(tale, RULES[name], Options(*bounds))
    torch.testing.assert_close(betas, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    for star, found in zip(stars, average.weights().values(), strict=True):
        torch.testing.assert_close(found, star, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_beta_and_average_equal_the_oracle_in_fp32(name: str) -> None:
    tale = story(1)
    rounded = Story(*([[x.float().double() for x in row] for row in rows] for rows in (tale.weights, tale.gradients)))
    expected, stars = oracle(name, rounded)
    assert inside(expected, (0, 1)) >= 0.5
    average, betas = follow(tale, RULES[name], dtype=torch.float32)
    torch.testing.assert_close(betas, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)
    for star, found in zip(stars, average.weights().values(), strict=True):
        torch.testing.assert_close(found.double(), star, rtol=1e-4, atol=1e-6)


def test_tensors_longer_than_one_sweep_are_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "CHUNK", 64)
    tale = story(2, shapes=((1001,), (64,), (65,)), steps=3)
    for name in ("paper-mean", "proximal-relative"):
        betas = follow(tale, RULES[name])[1]
        expected = torch.tensor(oracle(name, tale)[0], dtype=torch.float64)
        torch.testing.assert_close(betas, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", RULES)
def test_small_tensors_of_equal_size_are_measured_together_and_yet_each_for_itself(name: str) -> None:
    tale = story(9, shapes=((3, 8), (24,), (7,), (8, 3), (7, 1)))
    expected, stars = oracle(name, tale)
    average, betas = follow(tale, RULES[name])
    assert [part.places for part in average.engine.buffers] == [[0, 1, 3], [2, 4]]  # type: ignore[union-attr]
    torch.testing.assert_close(betas, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    for star, found in zip(stars, average.weights().values(), strict=True):
        torch.testing.assert_close(found, star, rtol=1e-12, atol=1e-14)


def test_matrices_that_would_grow_too_large_are_cut_between_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    tale = story(9, shapes=((24,), (24,), (24,)))
    together = follow(tale, RULES["paper"])
    monkeypatch.setattr(buffers, "MATRIX", 50)
    cut = follow(tale, RULES["paper"])
    assert [part.places for part in cut[0].engine.buffers] == [[0, 1], [2]]  # type: ignore[union-attr]
    assert torch.equal(cut[1], together[1])


@pytest.mark.parametrize("name", RULES)
def test_splitting_a_tensor_changes_no_beta_of_its_layer(name: str) -> None:
    tale = story(3, shapes=((60,),))
    cut = (7, 0, 53)
    parts = Story(*([list(row[0].split(cut)) for row in rows] for rows in (tale.weights, tale.gradients)))
    whole_betas = follow(tale, RULES[name], Options(scope="global"))[1]
    part_betas = follow(parts, RULES[name], Options(scope="global"))[1]
    torch.testing.assert_close(part_betas, whole_betas.expand(-1, 3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_the_tensors_changes_nothing(name: str) -> None:
    tale = story(4)
    turned = Story(*([row[::-1] for row in rows] for rows in (tale.weights, tale.gradients)))
    betas, again = follow(tale, RULES[name])[1], follow(turned, RULES[name])[1]
    assert torch.equal(betas, again.flip(1))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(RULES)),
    seed=st.integers(0, 10_000),
    low=st.floats(0, 1),
    width=st.floats(0, 1),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
)
def test_beta_never_leaves_its_bounds(name: str, seed: int, low: float, width: float, scale: float) -> None:
    high = min(1.0, low + width)
    tale = story(seed, shapes=((5,), (2, 2)), steps=4)
    tale = Story(tale.weights, [[scale * g for g in row] for row in tale.gradients])
    betas = follow(tale, RULES[name], Options(low, high))[1]
    assert bool(((betas >= low) & (betas <= high)).all())


def test_a_layer_scope_adds_up_the_sums_of_its_tensors() -> None:
    tale = story(5, shapes=((30,), (20,)))
    joined = Story(*([[torch.cat(row)] for row in rows] for rows in (tale.weights, tale.gradients)))
    parameters = [
        ("layers.0.a", nn.Parameter(tale.weights[0][0].clone())),
        ("layers.0.b", nn.Parameter(tale.weights[0][1].clone())),
    ]
    optimizer = Scripted([p for _, p in parameters], tale.weights[1:])
    average = DynamicEma(parameters, RULES["paper"], Options(scope="layer")).attach(optimizer)
    expected = oracle("paper", joined)[0]
    for t, gradients in enumerate(tale.gradients):
        for (_, parameter), gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert average.statistics()["beta"] == pytest.approx(expected[t][0], rel=1e-12)


def test_a_fixed_rule_is_torchs_averaged_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    average = DynamicEma(model.named_parameters(), Fixed(0.93)).attach(optimizer)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.93))
    reference.update_parameters(model)  # its first call copies: theta* starts from the weights before training
    for _ in range(20):
        model(torch.randn(5, 6)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        reference.update_parameters(model)
    for found, expected in zip(average.weights().values(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)


def test_a_start_after_the_first_step_forgets_the_weights_before_it() -> None:
    tale = story(6)
    average, _ = follow(tale, Fixed(0.9), Options(start="first_step"))
    star = tale.weights[1][0]
    for weights in tale.weights[2:]:
        star = 0.9 * star + 0.1 * weights[0]
    torch.testing.assert_close(average.weights()["layers.0.w"], star, rtol=1e-12, atol=1e-14)
    assert average.statistics()["retain"] == pytest.approx(0.9 ** (STEPS - 1))


def test_statistics_report_quantiles_retain_fallbacks_and_bounds() -> None:
    tale, bounds = story(7), (0.3, 0.95)
    betas = torch.tensor(oracle("paper", tale, bounds)[0], dtype=torch.float64)
    figures = follow(tale, RULES["paper"], Options(*bounds))[0].statistics()
    assert figures["beta_q50"] == pytest.approx(betas[-1].median().item())
    assert figures["beta_q95"] == pytest.approx(betas[-1].quantile(0.95).item())
    assert figures["steps"] == STEPS
    assert figures["at_beta_max"] == pytest.approx((betas == 0.95).double().mean().item())
    assert figures["at_beta_min"] == pytest.approx((betas == 0.3).double().mean().item())
    retain = follow(tale, RULES["paper"], Options(*bounds))[0].engine.tally.retain  # type: ignore[union-attr]
    torch.testing.assert_close(retain, betas.prod(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("beta", "bounds"), [(0.0, ()), (1.0, ()), (0.5, (0.5, 0.9)), (0.9, (0.5, 0.9))])
def test_a_weight_that_equals_a_bound_counts_as_at_it(beta: float, bounds: tuple[float, ...]) -> None:
    """Without bounds of one's own they are 0 and 1."""
    figures = follow(story(7), Fixed(beta), Options(*bounds))[0].statistics()
    lower, upper = bounds or (0.0, 1.0)
    assert (figures["at_beta_min"], figures["at_beta_max"]) == (beta == lower, beta == upper)


def test_every_use_of_the_fallback_is_counted() -> None:
    tale = story(7)
    betas = torch.tensor(oracle("paper", tale)[0], dtype=torch.float64)
    share = (betas == 0.99).double().mean().item()
    assert share > 1 / STEPS
    assert follow(tale, RULES["paper"])[0].statistics()["fallback"] == pytest.approx(share)


def test_the_distance_is_that_between_theta_and_its_average() -> None:
    tale = story(8)
    average, _ = follow(tale, Fixed(0.9))
    stars = oracle("fixed", tale)[1]
    expected = math.sqrt(sum(((a - b) ** 2).sum().item() for a, b in zip(tale.weights[-1], stars, strict=True)))
    assert average.statistics()["distance"] == pytest.approx(expected, rel=1e-12)


def test_two_parameters_of_one_name_are_refused() -> None:
    pair = [("w", torch.nn.Parameter(torch.ones(2))), ("w", torch.nn.Parameter(torch.ones(3)))]
    with pytest.raises(ValueError, match="two parameters have the same name"):
        DynamicEma(pair, Fixed(0.9))


def test_a_parameter_that_fsdp1_has_flattened_is_refused_by_its_name() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter._fsdp_flattened = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"some\.weight is flattened by FSDP1"):
        DynamicEma([("some.weight", parameter)], Fixed(0.9))


def test_only_the_rule_curvature_measures_a_curvature() -> None:
    average = DynamicEma([("w", torch.nn.Parameter(torch.ones(2)))], Fixed(0.9))
    with pytest.raises(ValueError, match="only the rule Curvature measures a curvature"):
        average.curvature()


@pytest.mark.parametrize("rule", [Proximal("absolute", 2.0), RULES["paper"], RULES["official"]])
def test_small_tensors_of_one_size_are_averaged_together_as_each_is_alone(rule: Proximal | Paper | Official) -> None:
    """The second one lacks a gradient in the third step, and keeps what it remembers of the second."""

    def stars(names: tuple[str, ...]) -> dict[str, list[float]]:
        weights = {name: torch.nn.Parameter(torch.full((4,), 1.0, dtype=torch.float64)) for name in names}
        optimizer = torch.optim.SGD(weights.values(), lr=0.1)
        options = Options(missing_gradient="skip")
        average = DynamicEma(weights, rule, options).attach(optimizer)
        for step in range(6):
            for name, weight in weights.items():
                gradient = torch.arange(1, 5, dtype=torch.float64) * (10 - step * step / (4 if name == "a" else 3)) / 10
                weight.grad = None if (name, step) == ("b", 2) else gradient
            optimizer.step()
        average.apply_()
        return {name: weight.tolist() for name, weight in weights.items()}

    together = stars(("a", "b"))
    for name in ("a", "b"):
        assert together[name] == pytest.approx(stars((name,))[name], rel=1e-12)
