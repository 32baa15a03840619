"""Gradient projection memory against singular value decompositions and projections that are formed, in fp64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcia.config.strategies import GpmConfig
from lcia.protocols import UNTRAINED, Look, LookBack, Trained, TunedLinear
from lcia.strategies import build
from lcia.strategies.gpm import GpmStrategy, grow
from lcia.strategies.watch import noted

IN, OUT, RANK, SCALE, ROWS, TOKENS = 10, 6, 4, 1.5, 6, 3
SGD, ADAM = torch.optim.SGD, torch.optim.AdamW


class Model(nn.Module):
    """A layer with LoRA, and one that is trained as it is, with a bias."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = nn.Linear(IN, OUT, bias=False).double().requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, IN, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(OUT, RANK, dtype=torch.float64))
        self.lora, self.head = _Lora(self), nn.Linear(OUT, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.lora(x)))  # type: ignore[no-any-return]

    def trained(self) -> Trained:
        layers = (
            TunedLinear("lora", self.lora, self.up, self.down, scale=SCALE),
            TunedLinear("head", self.head, cast(nn.Parameter, self.head.weight), bias=self.head.bias),
        )
        return Trained({n: p for n, p in self.named_parameters() if p.requires_grad}, layers)


class _Lora(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self._of = [model]

    def forward(self, x: Tensor) -> Tensor:
        [model] = self._of
        return model.base(x) + SCALE * F.linear(F.linear(x, model.down), model.up)  # type: ignore[no-any-return]


def rows(seed: int, directions: int = 3) -> Tensor:
    """[ROWS, TOKENS, IN] inputs that lie in a few directions only."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(directions, IN, dtype=torch.float64, generator=generator)
    return torch.randn(ROWS, TOKENS, directions, dtype=torch.float64, generator=generator) @ basis


def looking(model: Model, x: Tensor, idle: int = 0) -> LookBack:
    """All rows one at a time, then idle ones without answers."""

    def look(number: int) -> Look:
        row = x[number % len(x)][None]
        labels = torch.full((1, TOKENS), UNTRAINED if number >= len(x) else 1)
        return Look({"labels": labels}, (number,), lambda: model(row))

    def look_back(count: int, alone: bool) -> Iterator[Look]:
        assert alone, "padding has inputs too"
        return (look(number) for number in range(len(x) + idle))

    return look_back


def config(**values: Any) -> GpmConfig:
    return GpmConfig.model_validate({"kind": "gpm", "rows": ROWS, "tokens": TOKENS, **values})


def learn(model: Model, x: Tensor, kept: dict[str, Tensor], optimizer: Any, **values: Any) -> dict[str, Tensor]:
    """A stage of five steps; returns what it keeps."""
    strategy = build(config(**values), steps=5)
    trained = model.trained()
    stepping = optimizer(trained.parameters.values(), lr=0.05)
    strategy.start(trained, stepping, kept)
    for _ in range(5):
        model(x).square().sum().backward()
        stepping.step()
        stepping.zero_grad()
    return strategy.finish(looking(model, x))


@pytest.mark.parametrize("shape", [(10, 40), (40, 10)])
def test_first_bases_are_the_fewest_singular_vectors_that_hold_the_energy(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    columns = torch.randn(*shape, dtype=torch.float64) @ torch.diag(0.8 ** torch.arange(shape[1]).double())
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    held = values.square().cumsum(0) / values.square().sum()
    for threshold in (0.3, 0.9, 0.999):
        k = int((held < threshold).sum()) + 1
        found = grow(columns.new_zeros(shape[0], 0), columns, threshold)
        assert found.shape[1] == k
        torch.testing.assert_close(found @ found.T, left[:, :k] @ left[:, :k].T, rtol=0, atol=1e-10)


def test_later_bases_add_what_is_missing_to_the_energy_and_keep_the_old_ones() -> None:
    old = grow(torch.zeros(IN, 0).double(), rows(0).flatten(0, 1).T, 0.99)
    columns = rows(1).flatten(0, 1).T
    found = grow(old, columns, 0.99)
    torch.testing.assert_close(found[:, : old.shape[1]], old, rtol=0, atol=0)
    torch.testing.assert_close(found.T @ found, torch.eye(found.shape[1]).double(), rtol=0, atol=1e-12)
    held = (found.T @ columns).square().sum() / columns.square().sum()
    fewer = found[:, :-1]
    assert (fewer.T @ columns).square().sum() / columns.square().sum() < 0.99 <= held
    assert grow(found, columns, 0.99).shape == found.shape, "what is held already adds nothing"
    assert grow(old, columns, 0.0).shape == old.shape


def test_a_space_that_is_full_takes_no_more_and_all_energy_is_held_by_as_many_as_there_are() -> None:
    torch.manual_seed(0)
    whole = grow(torch.zeros(4, 0).double(), torch.randn(4, 50, dtype=torch.float64), 1.0)
    assert whole.shape == (4, 4)
    assert grow(whole, torch.randn(4, 50, dtype=torch.float64), 1.0).shape == (4, 4)
    assert grow(torch.zeros(IN, 0).double(), rows(0).flatten(0, 1).T, 1.0).shape == (IN, 3)


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_what_old_inputs_give_stays_whatever_the_optimizer(optimizer: Any) -> None:
    """Both matrices and the head are guarded, and the threshold leaves nothing out."""
    model, old = Model(), rows(0)
    # Of the rank of A, one direction is left to B, so that it learns as well.
    kept = learn(model, old, {}, optimizer, threshold=1.0)
    before, weights = model.lora(old).detach(), [p.detach().clone() for p in model.trained().parameters.values()]
    answers = model(old).detach()
    learn(model, rows(1, directions=8), kept, optimizer, threshold=1.0)
    torch.testing.assert_close(model.lora(old), before, rtol=0, atol=1e-11)
    torch.testing.assert_close(model(old), answers, rtol=0, atol=1e-10)
    moved = [(p - w).abs().max() for p, w in zip(model.trained().parameters.values(), weights, strict=True)]
    assert min(moved[:2]) > 1e-6, "and yet A and B learn something; the few inputs of the head fill its space"


def test_the_first_matrix_alone_keeps_what_it_makes_of_old_inputs_and_not_what_comes_of_that() -> None:
    model, old = Model(), rows(0)
    kept = learn(model, old, {}, ADAM, threshold=1.0, matrices="down")
    assert not [name for name in kept if name.endswith(".down")]
    inner, before = F.linear(old, model.down).detach(), model.lora(old).detach()
    learn(model, rows(1), kept, ADAM, threshold=1.0, matrices="down")
    torch.testing.assert_close(F.linear(old, model.down), inner, rtol=0, atol=1e-11)
    assert (model.lora(old) - before).abs().max() > 1e-3


def test_a_step_is_that_of_the_projected_gradient() -> None:
    model, kept = Model(), learn(Model(), rows(0), {}, SGD)
    model.load_state_dict(Model(1).state_dict())
    x, rate = rows(1), 0.05
    trained = model.trained()
    gradients = dict(
        zip(
            trained.parameters,
            torch.autograd.grad(model(x).square().sum(), list(trained.parameters.values())),
            strict=True,
        )
    )
    m_in, m_down, m_head = (kept[f"gpm.{name}"] for name in ("lora.inputs", "lora.down", "head.inputs"))
    head = torch.cat([gradients["head.weight"], gradients["head.bias"][:, None]], 1)
    head = head - head @ m_head @ m_head.T
    expected = {
        "down": gradients["down"] - gradients["down"] @ m_in @ m_in.T,
        "up": gradients["up"] - gradients["up"] @ m_down @ m_down.T,
        "head.weight": head[:, :-1],
        "head.bias": head[:, -1],
    }
    before = {name: p.detach().clone() for name, p in trained.parameters.items()}
    optimizer, strategy = SGD(trained.parameters.values(), lr=rate), GpmStrategy(build(config(), 1).rule)  # type: ignore[attr-defined]
    strategy.start(trained, optimizer, kept)
    model(x).square().sum().backward()
    optimizer.step()
    for name, parameter in trained.parameters.items():
        torch.testing.assert_close(parameter, before[name] - rate * expected[name], rtol=0, atol=1e-12)
    told = strategy.statistics()
    sums = [sum(g.square().sum() for g in each.values()) for each in (expected, gradients)]
    assert told["gradient_kept"] == pytest.approx(float((sums[0] / sums[1]) ** 0.5), rel=1e-10)
    sizes = [m.shape[1] / m.shape[0] for m in (m_in, m_down, m_head)]
    assert told["guarded_directions"] == pytest.approx(sum(sizes) / 3)


def test_the_first_stage_of_an_adapter_is_plain_tuning() -> None:
    plain, guarded, x = Model(), Model(), rows(0)
    learn(guarded, x, {}, ADAM)
    optimizer = ADAM(plain.trained().parameters.values(), lr=0.05)
    for _ in range(5):
        plain(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), guarded.parameters(), strict=True))


def test_idle_rows_add_nothing_to_the_bases() -> None:
    model, x = Model(), rows(0)
    strategies = [build(config(threshold=0.9), steps=1) for _ in range(2)]
    for strategy in strategies:
        strategy.start(model.trained(), SGD(model.trained().parameters.values(), lr=0.1), {})
    one, other = (s.finish(looking(model, x, idle)) for s, idle in zip(strategies, (0, 2), strict=True))
    for name, bases in one.items():
        torch.testing.assert_close(bases @ bases.T, other[name] @ other[name].T, rtol=0, atol=1e-12)


def test_inputs_are_drawn_by_the_rows_seed_and_all_that_a_short_row_has() -> None:
    model, x = Model(), rows(0, directions=IN)
    few = _bases(model, x, tokens=1)
    assert few.shape[1] <= ROWS
    torch.testing.assert_close(few, _bases(model, x, tokens=1), rtol=0, atol=0)
    # More than a row has: the same as exactly what it has.
    every, more = (_bases(model, x, tokens=tokens) for tokens in (TOKENS, 3 * TOKENS))
    torch.testing.assert_close(every @ every.T, more @ more.T, rtol=0, atol=1e-12)


def _bases(model: Model, x: Tensor, tokens: int) -> Tensor:
    strategy = build(config(tokens=tokens, threshold=0.95), steps=1)
    strategy.start(model.trained(), SGD(model.trained().parameters.values(), lr=0.1), {})
    return strategy.finish(looking(model, x))["gpm.lora.inputs"]


def test_a_layer_that_a_row_does_not_come_to_has_no_inputs_and_one_that_is_called_twice_has_all() -> None:
    model = Model()
    with noted(model.trained().layers) as inputs:
        model.head(torch.ones(2, OUT).double())
        model.head(torch.zeros(3, OUT).double())
    assert "lora" not in inputs
    assert inputs["head"].shape == (5, OUT)
    model(rows(0))
    assert inputs["head"].shape == (5, OUT), "nothing is noted any more"


def test_a_finished_stage_leaves_the_optimizer_alone() -> None:
    model = Model()
    kept = learn(model, rows(0), {}, SGD)
    strategy, optimizer = build(config(), steps=1), SGD(model.trained().parameters.values(), lr=0.1)
    strategy.start(model.trained(), optimizer, kept)
    strategy.finish(looking(model, rows(0)))
    before = model.down.detach().clone()
    for parameter in model.trained().parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.down, before - 0.1, rtol=0, atol=1e-15)
