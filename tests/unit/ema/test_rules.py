"""The formulas of docs/method.md 2, each against numbers worked out by hand, and the configuration's rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lcia.config.baselines import SequentialConfig
from lcia.config.strategies import (
    CurvatureConfig,
    EwcConfig,
    FixedConfig,
    OfficialConfig,
    PaperConfig,
    ProximalConfig,
)
from lcia.ema import rules
from lcia.ema.tracked import layer_of, units_of
from lcia.protocols import Strategy
from lcia.strategies import build
from lcia.strategies.average import EmaStrategy
from lcia.strategies.ewc import EwcStrategy

pytestmark = pytest.mark.numeric

positive = st.floats(1e-6, 1e6)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_papers_rule_by_hand() -> None:
    # (1/2 + 3) * 4 / (7 * 8)
    beta = rules.paper_beta(column(3), change=column(8), step=column(4), drift=column(7), lagrange=2.0)
    assert beta.item() == pytest.approx(0.25, rel=1e-15)


def test_the_authors_rule_by_hand() -> None:
    # 2 * (1 + 3) / (4 * 10)
    alpha = rules.official_alpha(column(3), change=column(10), drift=column(4), factor=2.0)
    assert alpha.item() == pytest.approx(0.2, rel=1e-15)


def test_the_proximal_rule_by_hand() -> None:
    # (2 - 1/4) / (2 + 1/2)
    beta = rules.proximal_beta(column(4), slope=column(-1), curvature=column(0.5), stability=2.0)
    assert beta.item() == pytest.approx(0.7, rel=1e-15)


def test_the_proximal_rule_minimises_the_local_model() -> None:
    drift_sq, slope, curvature, stability = 1.7, -0.4, 0.9, 2.5

    def model(b: float) -> float:
        return stability / 2 * (1 - b) ** 2 * drift_sq - b * slope + b * b * curvature / 2 * drift_sq

    beta = rules.proximal_beta(column(drift_sq), column(slope), column(curvature), stability).item()
    assert model(beta) <= min(model(beta - 1e-4), model(beta + 1e-4))


def test_negative_secant_curvature_counts_as_flat() -> None:
    assert rules.secant_curvature(column(-3, 6), column(2, 2)).tolist() == [0, 3]


def test_an_entry_that_nobody_knows_stays_free() -> None:
    weight = rules.curvature_weight(column(0, 1, 3), column(0, 0, 1), lambda_=1.0)
    assert weight.tolist() == [0, 1, 0.75]


@given(old=positive, new=positive, lambda_=st.floats(0, 100))
def test_the_elementwise_weight_lies_in_the_unit_interval(old: float, new: float, lambda_: float) -> None:
    weight = rules.curvature_weight(column(old), column(new), lambda_).item()
    assert 0 <= weight <= 1
    assert weight == pytest.approx(lambda_ * old / (lambda_ * old + new), rel=1e-12)


def unit(values: list[float], known: bool = True) -> rules.UnitSums:
    memory = torch.zeros(1, 2, dtype=torch.float64)
    return rules.UnitSums(column(*values)[None], column(10), torch.tensor([known]), memory)


@pytest.mark.parametrize("values", [[0.1, 3, 8, 4], [0, 0, 0, 0], [float("nan")] * 4])
def test_the_papers_rule_falls_back_outside_the_unit_interval(values: list[float]) -> None:
    beta, fallback = rules.Paper(1.0, 0.9, "sum").weigh(unit(values))
    assert (beta.item(), fallback.item()) == (0.9, True)


def test_a_rule_falls_back_while_it_knows_no_last_gradient() -> None:
    beta, fallback = rules.Official(2.0, 0.25, "sum").weigh(unit([4, 3, 10, 0], known=False))
    assert (beta.item(), fallback.item()) == (0.75, True)


def test_the_mean_reduction_divides_every_norm_by_the_entries() -> None:
    beta, fallback = rules.Official(2.0, 0.25, "mean").weigh(unit([40, 30, 100, 0]))
    assert (beta.item(), fallback.item()) == (pytest.approx(1 - 0.2), False)


def test_relative_stability_follows_the_mean_of_all_curvatures_so_far() -> None:
    rule, first = rules.Proximal("relative", 3.0), unit([4, -1, 2, 2])
    rule.weigh(first)
    beta = rule.weigh(rules.UnitSums(column(4, -1, 6, 2)[None], column(10), torch.tensor([True]), first.memory)).beta
    # curvatures 1 and 3, mean 2, s = 6: (6 - 1/4) / (6 + 3)
    assert beta.item() == pytest.approx(5.75 / 9, rel=1e-15)


def test_layers_are_found_by_the_first_number_of_a_name() -> None:
    names = ["model.layers.0.q.lora_A.weight", "model.layers.0.v.lora_A.weight", "model.layers.11.q.w", "head.weight"]
    assert [layer_of(name) for name in names] == ["model.layers.0", "model.layers.0", "model.layers.11", "head"]
    assert units_of(names, "layer") == [0, 0, 1, 2]
    assert units_of(names, "global") == [0, 0, 0, 0]
    assert units_of(names, "tensor") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (FixedConfig(kind="fixed", beta=0.9), rules.Fixed(0.9)),
        (FixedConfig(kind="fixed", retain=0.25), rules.Fixed(0.5)),
        (PaperConfig(kind="paper"), rules.Paper(1.0, 0.99, "sum")),
        (OfficialConfig(kind="official"), rules.Official(2.0, 0.01, "sum")),
        (ProximalConfig(kind="proximal", rho=7), rules.Proximal("relative", 7)),
        (CurvatureConfig(pull=5.0), rules.Curvature(0.3, 0.9, 5.0)),
        (CurvatureConfig(pull=5.0).first(), rules.Curvature(0.0, 0.9, 0.0)),
    ],
)
def test_a_configured_rule_is_the_rule(config: object, rule: object) -> None:
    strategy = build(config, steps=2)  # type: ignore[arg-type]
    assert isinstance(strategy, EmaStrategy)
    assert strategy.rule == rule


def test_sequential_tuning_needs_no_strategy_and_ewc_no_average() -> None:
    assert type(build(SequentialConfig(), 3)) is Strategy
    ewc = build(EwcConfig(kind="ewc", pull=4.0), 3)
    assert isinstance(ewc, EwcStrategy)
    assert ewc.pull == 4.0


def test_bounds_scope_and_start_reach_the_average() -> None:
    config = PaperConfig(
        kind="paper", beta_min=0.2, beta_max=0.8, scope="layer", start="first_step", missing_gradient="skip"
    )
    strategy = build(config, steps=2)
    assert isinstance(strategy, EmaStrategy)
    options = strategy.options
    found = (options.beta_min, options.beta_max, options.scope, options.start, options.missing_gradient)
    assert found == (0.2, 0.8, "layer", "first_step", "skip")


@pytest.mark.parametrize(("value", "fallback"), [(0.0, True), (0.5, False), (1.0, True)])
def test_a_rule_falls_back_at_the_very_ends_of_the_unit_interval(value: float, fallback: bool) -> None:
    """beta = (1/1 + 0) step / (1 * 1) = step, and alpha = 1 * (1 + 0) / (1 * change) = 1 / change."""
    one = torch.ones(1, dtype=torch.float64)
    paper = rules.Norms(drift=one, gradient=0 * one, change=one, step=value * one)
    official = rules.Norms(drift=one, gradient=0 * one, change=one / value, step=one)
    for rule, norms in ((rules.Paper(1, 0.99, "sum"), paper), (rules.Official(1, 0.01, "sum"), official)):
        sums = rules.UnitSums(torch.stack(norms, dim=1), one, torch.ones(1, dtype=torch.bool), torch.zeros(1, 2))
        weighed = rule.weigh(sums)
        assert weighed.fallback.tolist() == [fallback]
        assert weighed.beta.item() == (0.99 if fallback else 0.5)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, 1.5])
def test_a_rule_of_norms_falls_back_at_the_ends_of_the_unit_interval_and_beyond(value: float) -> None:
    # With |d| = |g_t - g_t-1| = 1 and lambda = 1, beta is (1 + |g|) |theta_t - theta_t-1|: here the last factor.
    beta, fallback = rules.Paper(1.0, 0.9, "sum").weigh(unit([1, 0, 1, value]))
    assert (beta.item(), fallback.item()) == (0.9, True)


def test_a_proximal_rule_with_absolute_stability_by_hand() -> None:
    # <d,d> = 4, <g,d> = -1, h = 2/4, s = 2: (2 - 1/4) / (2 + 1/2)
    beta, fallback = rules.Proximal("absolute", 2.0).weigh(unit([4, -1, 2, 4]))
    assert (beta.item(), fallback.item()) == (pytest.approx(0.7, rel=1e-15), False)


@pytest.mark.parametrize(("stability", "beta"), [("relative", 3 / 4), ("absolute", 1.0)])
def test_a_proximal_rule_takes_a_flat_slope_and_the_mean_curvature_before_the_first_secant(
    stability: Any, beta: float
) -> None:
    weighed = rules.Proximal(stability, 3.0).weigh(unit([4, -1, 2, 2], known=False))
    assert (weighed.beta.item(), weighed.fallback.item()) == (beta, True)


def test_a_step_that_moved_nothing_adds_no_curvature_to_the_mean() -> None:
    rule, still = rules.Proximal("relative", 3.0), unit([4, -1, 0, 0])
    assert rule.weigh(still).fallback.item()
    assert still.memory.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("rule", "kind", "needs_step"),
    [
        (rules.Fixed(0.5), "none", False),
        (rules.Paper(1.0, 0.9, "sum"), "norms", True),
        (rules.Official(2.0, 0.1, "sum"), "norms", False),
        (rules.Proximal("absolute", 1.0), "products", True),
    ],
)
def test_a_rule_asks_for_no_more_than_its_formula_holds(rule: Any, kind: str, needs_step: bool) -> None:
    """What it asks for costs a copy of weights or gradients."""
    assert (rule.kind, rule.needs_step) == (kind, needs_step)


def test_a_fixed_rule_never_falls_back() -> None:
    beta, fallback = rules.Fixed(0.25).weigh(unit([1, 1, 1, 1], known=False))
    assert (beta.item(), fallback.item()) == (0.25, False)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (PaperConfig(kind="paper"), {"lagrange": 1.0, "fallback": 0.99, "reduction": "sum", "beta_min": 0.0}),
        (OfficialConfig(kind="official"), {"factor": 2.0, "fallback_alpha": 0.01, "reduction": "sum"}),
        (ProximalConfig(kind="proximal"), {"rho": 60.0, "beta_min": 0.97, "beta_max": 1.0, "stability": "relative"}),
        (CurvatureConfig(), {"lambda_": 0.3, "pull": 10_000.0, "short_average": 0.9, "missing_gradient": "error"}),
        (EwcConfig(kind="ewc"), {"pull": 10_000.0, "missing_gradient": "error"}),
    ],
)
def test_the_defaults_are_the_vetted_settings(config: Any, values: dict[str, object]) -> None:
    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize("values", [{}, {"beta": 0.5, "retain": 0.5}])
def test_a_fixed_rule_wants_one_of_beta_and_retain(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="exactly one of beta and retain"):
        FixedConfig(kind="fixed", **values)


def test_bounds_may_meet_and_not_cross() -> None:
    assert PaperConfig(kind="paper", beta_min=0.5, beta_max=0.5).beta_min == 0.5
    with pytest.raises(ValueError, match=r"beta_min 0\.6 lies above beta_max 0\.5"):
        PaperConfig(kind="paper", beta_min=0.6, beta_max=0.5)
