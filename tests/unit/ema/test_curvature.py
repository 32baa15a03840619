"""The elementwise average against a naive oracle: F_t, F_old, theta-bar and the pull, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lcia.config.strategies import CurvatureConfig, EwcConfig
from lcia.ema import Curvature, DynamicEma, Options, buffers
from lcia.protocols import Look, Strategy, Trained
from lcia.strategies import build

pytestmark = pytest.mark.numeric

SIZE, STEPS, RATE = 12, 9, 0.1


def no_rows(count: int, alone: bool) -> Iterator[Look]:
    return iter(())


class Task(NamedTuple):
    """A quadratic loss 1/2 sum a (theta - goal)^2 with a drawn input scale in each step."""

    scale: Tensor
    goal: Tensor


def draw_task(seed: int) -> Task:
    random = torch.Generator().manual_seed(seed)
    scale = torch.rand(STEPS, SIZE, generator=random, dtype=torch.float64) * torch.tensor([0.0, 1, 4]).repeat(4)
    return Task(scale, torch.randn(SIZE, generator=random, dtype=torch.float64))


class Figures(NamedTuple):
    theta: list[float]
    star: list[float]
    fisher: list[float]
    beta: list[float]


def oracle(start: list[float], old: list[float], task: Task, rule: Curvature) -> Figures:
    """docs/method.md 2, one entry after another, with plain gradient steps."""
    result: list[tuple[float, float, float, float]] = []
    for i in range(SIZE):
        theta = short = start[i]
        squares = 0.0
        for t in range(STEPS):
            gradient = task.scale[t, i].item() * (theta - task.goal[i].item())
            squares += gradient**2
            theta -= RATE * (gradient + rule.pull * old[i] * (theta - start[i]))
            short = rule.short_average * short + (1 - rule.short_average) * theta
        fisher = squares / STEPS
        bottom = rule.lambda_ * old[i] + fisher
        beta = rule.lambda_ * old[i] / bottom if bottom > 0 else 0.0
        result.append((theta, beta * start[i] + (1 - beta) * short, old[i] + fisher, beta))
    return Figures(*(list(column) for column in zip(*result, strict=True)))


def descend(parameter: Tensor, optimizer: torch.optim.Optimizer, task: Task) -> None:
    for scale in task.scale:
        (scale / 2 * (parameter - task.goal) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("piece", [5, SIZE])
@pytest.mark.parametrize("pull", [0.0, 0.7])
@pytest.mark.parametrize("lambda_", [0.3, 1.0])
def test_two_tasks_equal_the_oracle(lambda_: float, pull: float, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "CHUNK", piece)
    first, rule = Curvature(0.0, 0.9, 0.0), Curvature(lambda_, 0.9, pull)
    start = [0.1 * i for i in range(SIZE)]
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=RATE)

    average = DynamicEma({"w": parameter}, first).attach(optimizer)
    descend(parameter, optimizer, draw_task(0))
    learnt = oracle(start, [0.0] * SIZE, draw_task(0), first)
    close(average.weights()["w"], learnt.star)
    close(average.curvature()["w"], learnt.fisher)
    average.apply_()
    average.detach()

    kept = {"w": average.curvature()["w"].clone()}
    second = DynamicEma({"w": parameter}, rule, old_curvature=kept).attach(optimizer)
    descend(parameter, optimizer, draw_task(1))
    expected = oracle(learnt.star, learnt.fisher, draw_task(1), rule)
    assert sum(0 < beta < 1 for beta in expected.beta) >= SIZE / 2
    close(parameter, expected.theta)
    close(second.weights()["w"], expected.star)
    close(second.curvature()["w"], expected.fisher)
    assert second.statistics()["beta"] == pytest.approx(sum(expected.beta) / SIZE, rel=1e-12)


def test_quantiles_of_an_elementwise_beta_are_right_to_a_thousandth() -> None:
    parameter = nn.Parameter(torch.zeros(1001, dtype=torch.float64))
    old = torch.linspace(0, 1, 1001, dtype=torch.float64)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    average = DynamicEma({"w": parameter}, Curvature(1.0, 0.9, 0.0), old_curvature={"w": old}).attach(optimizer)
    parameter.grad = (1 - old).sqrt()  # so beta = old / (old + 1 - old) = old
    optimizer.step()
    figures = average.statistics()
    for name, share in (("beta_q05", 0.05), ("beta_q25", 0.25), ("beta_q50", 0.5), ("beta_q95", 0.95)):
        assert figures[name] == pytest.approx(share, abs=2e-3)
    assert figures["at_beta_min"] == pytest.approx(1 / 1001)
    assert figures["at_beta_max"] == pytest.approx(1 / 1001)


def test_the_kept_curvature_must_belong_to_the_parameters() -> None:
    with pytest.raises(ValueError, match="not trained here"):
        DynamicEma({"w": nn.Parameter(torch.ones(2))}, Curvature(1, 0.9, 0), old_curvature={"v": torch.ones(2)})


def test_a_closure_is_refused_because_it_would_hide_the_gradient() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    DynamicEma({"w": parameter}, Curvature(1, 0.9, 0)).attach(optimizer)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_a_loss_scale_on_fused_gradients_changes_neither_curvature_nor_pull() -> None:
    def train(scale: float) -> tuple[Tensor, Tensor]:
        parameter = nn.Parameter(torch.linspace(0.5, 1, SIZE))
        optimizer = torch.optim.SGD([parameter], lr=RATE, fused=True)
        rule, old = Curvature(0.5, 0.9, 0.4), {"w": torch.linspace(0, 2, SIZE)}
        average = DynamicEma({"w": parameter}, rule, old_curvature=old).attach(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        for row in draw_task(3).scale.float():
            scaler.scale((row / 2 * (parameter - 1.5) ** 2).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return parameter.detach(), average.curvature()["w"]

    for scaled, plain in zip(train(1024.0), train(1.0), strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-7)


def test_a_gradient_that_does_not_lie_in_one_piece_is_pulled_as_any_other() -> None:
    def pulled(gradient: Tensor) -> Tensor:
        parameter = nn.Parameter(torch.ones(3, 4))
        optimizer = torch.optim.SGD([parameter], lr=RATE)
        average = DynamicEma({"w": parameter}, Curvature(0.5, 0.9, 0.4), old_curvature={"w": torch.ones(3, 4)})
        average.attach(optimizer)
        for _ in range(2):
            parameter.grad = gradient.clone(memory_format=torch.preserve_format)
            optimizer.step()
        return parameter.detach()

    gradient = torch.arange(12.0).view(4, 3).T
    assert not gradient.is_contiguous()
    torch.testing.assert_close(pulled(gradient), pulled(gradient.contiguous()), rtol=0, atol=0)


def stage(strategy: Strategy, parameter: nn.Parameter, kept: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD([parameter], lr=RATE)
    strategy.start(Trained({"w": parameter}), optimizer, kept)
    descend(parameter, optimizer, task)
    return strategy.finish(no_rows)


def test_the_strategy_hands_the_sum_of_all_tasks_curvatures_on() -> None:
    config = CurvatureConfig(lambda_=0.5, pull=0.2)
    parameter = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
    kept = stage(build(config.first(), STEPS), parameter, {}, draw_task(0))
    learnt = oracle([0.0] * SIZE, [0.0] * SIZE, draw_task(0), Curvature(0.0, 0.9, 0.0))
    close(parameter, learnt.star)
    start, old = learnt.star, learnt.fisher
    for seed in (1, 2):
        kept = stage(build(config, STEPS), parameter, kept, draw_task(seed))
        expected = oracle(start, old, draw_task(seed), Curvature(0.5, 0.9, 0.2))
        close(parameter, expected.star)
        close(kept["fisher.w"], expected.fisher)
        start, old = expected.star, expected.fisher


def test_adams_moment_is_its_running_mean_of_squares_without_the_bias() -> None:
    task, start = draw_task(6), torch.ones(SIZE, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([parameter], lr=RATE, betas=(0.9, 0.7), weight_decay=0.0)
    average = DynamicEma({"w": parameter}, Curvature(0.5, 0.9, 0.0, "adam")).attach(optimizer)
    running, expected = [0.0] * SIZE, list[float]()
    for t in range(STEPS):
        gradient = task.scale[t] * (parameter.detach() - task.goal)
        running = [0.7 * v + 0.3 * g * g for v, g in zip(running, gradient.tolist(), strict=True)]
        descend(parameter, optimizer, Task(task.scale[t : t + 1], task.goal))
        expected = [v / (1 - 0.7 ** (t + 1)) for v in running]
    close(average.curvature()["w"], expected)


def test_before_the_first_step_adams_moment_is_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    average = DynamicEma({"w": parameter}, Curvature(0.5, 0.9, 0.0, "adam")).attach(torch.optim.Adam([parameter]))
    assert average.curvature()["w"].tolist() == [0, 0, 0]


def test_an_optimizer_without_a_second_moment_is_refused() -> None:
    parameter = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="SGD does not keep: use moment='own'"):
        DynamicEma({"w": parameter}, Curvature(0.5, 0.9, 0.0, "adam")).attach(torch.optim.SGD([parameter], lr=0.1))


def test_a_configuration_chooses_whose_moment_it_is_and_the_default_leaves_no_trace_in_the_key() -> None:
    assert "moment" not in CurvatureConfig().model_dump(mode="json")
    chosen = CurvatureConfig(moment="adam")
    assert chosen.model_dump(mode="json")["moment"] == "adam"
    assert chosen.first().moment == "adam"  # type: ignore[union-attr]
    strategy = build(chosen, 10)
    assert strategy.rule.moment == "adam"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["curvature", "ewc"])
def test_the_pull_is_reported_beside_the_tasks_own_gradient(kind: str) -> None:
    old, rate, pull = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64), 0.1, 0.7
    config = CurvatureConfig(pull=pull) if kind == "curvature" else EwcConfig(kind="ewc", pull=pull)
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    strategy, optimizer = build(config, 3), torch.optim.SGD([parameter], lr=rate)
    strategy.start(Trained({"w": parameter}), optimizer, {"fisher.w": old})
    theta, squares, gradients = [1.0] * 3, [0.0] * 3, ([3.0, -1.0, 2.0], [1.0, 4.0, 0.0], [2.0, 2.0, 1.0])
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        theta = [t - rate * (g + pull * f * (t - 1)) for t, g, f in zip(theta, gradient, old.tolist(), strict=True)]
        squares = [s + g * g for s, g in zip(squares, gradient, strict=True)]
    found = strategy.statistics()
    norm = sum((pull * f * (t - 1)) ** 2 for t, f in zip(theta, old.tolist(), strict=True)) ** 0.5
    assert found["pull_norm"] == pytest.approx(norm, rel=1e-12)
    assert found["pull_ratio"] == pytest.approx(norm / (sum(squares) / 3) ** 0.5, rel=1e-12)


def test_where_nothing_pulls_its_size_is_nought_before_and_after_a_step() -> None:
    parameter = nn.Parameter(torch.ones(3))
    strategy, optimizer = build(CurvatureConfig().first(), 3), torch.optim.SGD([parameter], lr=0.1)
    strategy.start(Trained({"w": parameter}), optimizer, {})
    for _ in range(2):
        assert (strategy.statistics()["pull_norm"], strategy.statistics()["pull_ratio"]) == (0, 0)
        parameter.grad = torch.ones(3)
        optimizer.step()


@pytest.mark.parametrize("missing", ["skip", "zero"])
def test_missing_gradients_and_made_steps_are_counted(missing: Any) -> None:
    used, rare = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([used, rare], lr=RATE)
    options = Options(missing_gradient=missing)
    average = DynamicEma({"used": used, "rare": rare}, Curvature(0.5, 0.9, 0.1), options).attach(optimizer)
    assert average.statistics()["missing"] == 0
    for with_rare in (True, False, False, True):
        (used.sum() + (rare.sum() if with_rare else 0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    figures = average.statistics()
    assert (figures["missing"], figures["steps"], figures["skipped"], figures["fallback"]) == (2, 4, 0, 0)


def test_a_gradient_that_is_missing_adds_nothing_and_moves_nothing() -> None:
    used, rare = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = torch.optim.SGD([used, rare], lr=RATE)
    old = {"rare": torch.ones(3, dtype=torch.float64)}
    options = Options(missing_gradient="skip")
    average = DynamicEma({"used": used, "rare": rare}, Curvature(0.5, 0.9, 0.1), options, old).attach(optimizer)
    used.sum().backward()
    optimizer.step()
    assert torch.equal(average.curvature()["rare"], old["rare"])
    assert torch.equal(rare.detach(), torch.ones(3, dtype=torch.float64))
