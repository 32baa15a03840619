"""The rule `kronecker` against matrices that are formed and gradients that autograd takes, in fp64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcia.config.strategies import KroneckerConfig
from lcia.protocols import UNTRAINED, Look, LookBack, Trained, TunedLinear
from lcia.strategies import build
from lcia.strategies.factors import Curvature
from lcia.strategies.kronecker import Kronecker, KroneckerStrategy, curvature, draw
from lcia.strategies.pulls import each, pulls

Scope: TypeAlias = Literal["layer", "global"]
IN, HIDDEN, VOCABULARY, RANK, SCALE = 4, 5, 7, 2, 1.5
RULE = Kronecker(gamma=10.0, rho=1.0, temperature=4.0, rows=8, k=64)


class Lora(nn.Module):
    """y = (W + SCALE up down) x, as peft's layer computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(IN, HIDDEN, bias=False).double().requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, IN, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(HIDDEN, RANK, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + SCALE * F.linear(F.linear(x, self.down), self.up)  # type: ignore[no-any-return]


class Model(nn.Module):
    """A layer with LoRA, and one that is trained as it is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.product, self.head = Lora(), nn.Linear(HIDDEN, VOCABULARY).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.product(x)))  # type: ignore[no-any-return]

    def trained(self, head: bool = True) -> Trained:
        self.head.requires_grad_(head)
        layers = [TunedLinear("product", self.product, self.product.up, self.product.down, scale=SCALE)]
        layers += [TunedLinear("head", self.head, self.head.weight, bias=self.head.bias)] if head else []
        return Trained({n: p for n, p in self.named_parameters() if p.requires_grad}, layers)

    def whole(self) -> dict[str, Tensor]:
        """The effective weights, formed."""
        head = torch.cat([self.head.weight, self.head.bias[:, None]], 1)
        return {"product": self.product.base.weight + SCALE * self.product.up @ self.product.down, "head": head}


def data(rows: int = 6, tokens: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs, and labels of which each row has another number."""
    torch.manual_seed(1)
    labels = torch.randint(0, VOCABULARY, (rows, tokens))
    labels[torch.arange(tokens) < (torch.arange(rows)[:, None] % tokens)] = UNTRAINED
    return torch.randn(rows, tokens, IN, dtype=torch.float64), labels


def looking(model: Callable[[Tensor], Tensor], size: int = 6) -> LookBack:
    """All rows of data(), so many at a time."""
    x, labels = data()

    def look(start: int, size: int) -> Look:
        part = slice(start, start + size)
        seeds = tuple(range(start, min(start + size, len(x))))
        return Look({"labels": labels[part]}, seeds, lambda: model(x[part]))

    def look_back(count: int, alone: bool) -> Iterator[Look]:
        step = 1 if alone else size
        return (look(start, step) for start in range(0, len(x), step))

    return look_back


def oracle(model: Model, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """S_x, S_g and the trace of one layer, row by row from gradients of the formed weights."""
    x, labels = data()
    answers = labels[:, 1:] != UNTRAINED
    s_x: Tensor | float = 0.0
    s_g: Tensor | float = 0.0
    trace: Tensor | float = 0.0
    for row in range(len(x)):
        weights = {key: value.detach().requires_grad_() for key, value in model.whole().items()}
        hidden = torch.tanh(x[row] @ weights["product"].T)
        scores = (F.pad(hidden, (0, 1), value=1.0) @ weights["head"].T)[:-1][answers[row]] / RULE.temperature
        drawn = draw(scores.detach(), (row,), answers[row].sum()[None])
        loss = RULE.temperature * F.cross_entropy(scores, drawn, reduction="sum")
        (m,) = torch.autograd.grad(loss, weights[name])
        s_x, s_g, trace = s_x + m.T @ m, s_g + m @ m.T, trace + m.square().sum()
    assert isinstance(s_x, Tensor)
    assert isinstance(s_g, Tensor)
    assert isinstance(trace, Tensor)
    tokens = answers.sum()
    return s_x / tokens, s_g / tokens, trace / tokens


def moved(model: Model) -> None:
    with torch.no_grad():
        for parameter in model.trained(model.head.weight.requires_grad).parameters.values():
            parameter += 0.1 * torch.randn_like(parameter)


def risen(model: Model, before: dict[str, Tensor], known: dict[str, Curvature]) -> Tensor:
    """q through a formed dW."""
    total = torch.zeros((), dtype=torch.float64)
    for name, weights in model.whole().items():
        if name in known:
            change = weights - before[name]
            product = known[name].outputs.product @ change @ known[name].inputs.product
            total = total + (change * product).sum() / known[name].trace / 2
    return total


@pytest.mark.parametrize("head", [True, False])
def test_the_factors_are_those_of_every_rows_own_gradient_of_the_whole_weights(head: bool) -> None:
    model = Model()
    found = curvature(model.trained(head), RULE, looking(model))
    assert sorted(found) == (["head", "product"] if head else ["product"])
    for name, layer in found.items():
        s_x, s_g, trace = oracle(model, name)
        torch.testing.assert_close(layer.inputs.product, s_x, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(layer.outputs.product, s_g, rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(layer.trace, trace, rtol=1e-11, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_how_many_rows_are_seen_at_a_time_changes_nothing(size: int) -> None:
    model = Model()
    one, other = (curvature(model.trained(False), RULE, looking(model, each)) for each in (6, size))
    for mine, theirs in zip(one["product"].tensors, other["product"].tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-14)


def test_looking_back_leaves_weights_and_gradients_as_they_should_be() -> None:
    model = Model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    curvature(model.trained(), RULE, looking(model))
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_curvature_that_is_not_finite_is_an_error() -> None:
    model = Model()
    with pytest.raises(FloatingPointError, match="the curvature of product is not finite"):
        curvature(model.trained(), RULE, looking(lambda x: model(x) * float("inf")))


def test_rise_and_pull_are_those_of_a_formed_change() -> None:
    model = Model()
    known = curvature(model.trained(), RULE, looking(model))
    before = {name: weights.detach() for name, weights in model.whole().items()}
    acts = pulls(model.trained().layers, known)
    moved(model)
    wanted = risen(model, before, known)
    wanted.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = [act() for act in acts]
    torch.testing.assert_close(torch.stack([q for q, _ in found]).sum(), wanted, rtol=1e-11, atol=0)
    forces = [pair for _, mine in found for force in mine for pair in each(force)]
    assert len(forces) == 4
    for parameter, force in forces:
        torch.testing.assert_close(force, parameter.grad, rtol=1e-10, atol=1e-13)


def product_rise(origin: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor], scale: float, known: Curvature) -> float:
    """q of a layer that was at `origin` (up, down) and is at `now`."""
    up, down = (nn.Parameter(part.clone()) for part in origin)
    [act] = pulls([TunedLinear("l", nn.Identity(), up, down, scale=scale)], {"l": known})
    with torch.no_grad():
        up.copy_(now[0])
        down.copy_(now[1])
        q, _ = act()
    return float(q)


def test_the_rise_does_not_depend_on_basis_rank_or_alpha() -> None:
    model = Model()
    known = curvature(model.trained(False), RULE, looking(model))["product"]
    origin = (model.product.up.detach().clone(), model.product.down.detach().clone())
    moved(model)
    now = (model.product.up.detach(), model.product.down.detach())
    wanted = product_rise(origin, now, SCALE, known)
    mix = torch.randn(RANK, RANK, dtype=torch.float64)
    turned = [(up @ mix, torch.linalg.solve(mix, down)) for up, down in (origin, now)]
    padded = [(F.pad(up, (0, 3)), F.pad(down, (0, 0, 0, 3))) for up, down in (origin, now)]
    halved = [(up / 2, down) for up, down in (origin, now)]
    assert wanted > 0
    assert product_rise(*turned, SCALE, known) == pytest.approx(wanted, rel=1e-9)
    assert product_rise(*padded, SCALE, known) == pytest.approx(wanted, rel=1e-9)
    assert product_rise(*halved, 2 * SCALE, known) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("k", [2, 64])
@pytest.mark.parametrize(("together", "groups"), [(1, 5), (2 * RANK * 12, 3), (1 << 20, 2)])
def test_layers_that_act_together_act_as_each_does_alone(
    monkeypatch: pytest.MonkeyPatch, k: int, together: int, groups: int
) -> None:
    shapes = [(7, 5), (7, 5), (5, 7), (7, 5), (7, 5)]
    double = torch.zeros(0, dtype=torch.float64)
    layers, known = [], {}
    for number, (out, into) in enumerate(shapes):
        up, down = (nn.Parameter(torch.randn(*size, dtype=torch.float64)) for size in ((out, RANK), (RANK, into)))
        layers.append(TunedLinear(f"l{number}", nn.Identity(), up, down, scale=1.0 + number))
        known[f"l{number}"] = Curvature.zeros((out, into), k, double)
        if number != 1:  # of which old tasks know nothing
            known[f"l{number}"].add(torch.randn(3, 4, into).double(), torch.randn(3, 4, out).double())
    monkeypatch.setattr("lcia.strategies.pulls.TOGETHER", together)
    alone, stacked = [pulls([layer], known)[0] for layer in layers], pulls(layers, known)
    assert len(stacked) == groups
    with torch.no_grad():
        for layer in layers:
            for parameter in (layer.up, layer.down):
                assert parameter is not None
                parameter.add_(torch.randn_like(parameter))
        wanted, found = [act() for act in alone], [act() for act in stacked]
    torch.testing.assert_close(sum(q for q, _ in found), sum(q for q, _ in wanted), rtol=1e-12, atol=0)
    forces = {id(p): h for _, mine in found for force in mine for p, h in each(force)}
    pairs = [pair for _, mine in wanted for force in mine for pair in each(force)]
    assert len(forces) == len(pairs) == 10
    for parameter, force in pairs:
        torch.testing.assert_close(forces[id(parameter)], force, rtol=1e-12, atol=1e-14)


def test_old_tasks_that_never_needed_a_layer_do_not_hold_it() -> None:
    nothing = Curvature.zeros((HIDDEN, IN), 64, torch.zeros(0, dtype=torch.float64))
    origin = (torch.ones(HIDDEN, RANK).double(), torch.ones(RANK, IN).double())
    assert product_rise(origin, (2 * origin[0], origin[1]), 1.0, nothing) == 0


def second_stage(rule: Kronecker) -> tuple[Model, KroneckerStrategy, torch.optim.Optimizer]:
    """The second task of an adapter before its first step."""
    model = Model()
    kept = KroneckerStrategy(rule)
    kept.start(model.trained(), torch.optim.SGD(model.parameters(), lr=0.0), {})
    old = kept.finish(looking(model))
    strategy, optimizer = KroneckerStrategy(rule), torch.optim.SGD(list(model.trained().parameters.values()), lr=0.0)
    strategy.start(model.trained(), optimizer, old)
    return model, strategy, optimizer


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("gamma", [1e-3, 0.1, 1e9])
def test_a_step_goes_along_the_gradient_and_the_pull_that_is_never_longer(gamma: float, scope: Scope) -> None:
    rule = Kronecker(gamma, 0.5, 4.0, 8, 64, scope)
    model, strategy, optimizer = second_stage(rule)
    moved(model)
    parameters = list(model.trained().parameters.values())
    own = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, own, strict=True):
        parameter.grad = gradient.clone()
    with torch.no_grad():
        forces = {id(p): h for act in strategy.pulls for force in act()[1] for p, h in each(force)}
    optimizer.step()
    # LoRA's two matrices are one layer, the weights and the bias of the head the other.
    layers = [[0, 1], [2, 3]]
    weights = []
    for places in layers if scope == "layer" else [[*layers[0], *layers[1]]]:
        pulled = flat([forces[id(parameters[place])] for place in places])
        weight = min(gamma, 0.5 * float(flat([own[place] for place in places]).norm() / pulled.norm()))
        added = flat([torch.zeros(0) if (p := parameters[at]).grad is None else p.grad - own[at] for at in places])
        torch.testing.assert_close(added, weight * pulled, rtol=1e-10, atol=1e-12)
        weights.append(weight)
    figures = strategy.statistics()
    assert figures["pull_weight"] == pytest.approx(sum(weights) / len(weights))
    assert figures["pull_capped"] == sum(weight < gamma for weight in weights) / len(weights)
    assert figures["old_loss_rise"] > 0


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_cap_is_the_mean_gradient_of_the_stage_so_far(scope: Scope) -> None:
    model, strategy, optimizer = second_stage(Kronecker(1e9, 1.0, 4.0, 8, 64, scope))
    moved(model)
    parameters = list(model.trained().parameters.values())
    lengths = (6.0, 2.0, 0.0)
    for length in lengths:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        parameters[0].grad = torch.zeros_like(parameters[0])
        parameters[0].grad.view(-1)[0] = length
        optimizer.step()
        added = [p.grad.clone() for p in parameters if p.grad is not None]
        added[0].view(-1)[0] -= length
    # After gradients of 6, 2 and 0 the pull is as long as their mean: in the only layer that has any, or over both.
    held = added[:2] if scope == "layer" else added
    assert float(flat(held).norm()) == pytest.approx(sum(lengths) / 3)
    assert bool(flat(added[2:]).any()) == (scope == "global")
    assert strategy.statistics()["pull_capped"] == 1.0


def test_before_anything_has_moved_nothing_pulls() -> None:
    model, strategy, optimizer = second_stage(RULE)
    parameters = list(model.trained().parameters.values())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(p.grad is not None and torch.equal(p.grad, torch.ones_like(p)) for p in parameters)
    assert strategy.statistics() == {"old_loss_rise": 0.0, "pull_weight": 10.0, "pull_capped": 0.0}


def test_what_an_adapter_keeps_is_the_sum_over_its_tasks() -> None:
    model, strategy, _ = second_stage(RULE)
    first = {name: layer.inputs.product.clone() for name, layer in strategy.old.items()}
    moved(model)
    kept = strategy.finish(looking(model))
    second = curvature(model.trained(), RULE, looking(model))
    for name, before in first.items():
        torch.testing.assert_close(kept[f"kronecker.{name}.inputs"], before + second[name].inputs.product)


def test_the_first_task_of_an_adapter_is_plain_tuning_and_has_no_figures() -> None:
    config = KroneckerConfig(kind="kronecker", gamma=3, rho=2).first()
    assert config == KroneckerConfig(kind="kronecker", gamma=30).first()
    strategy, model = build(config, 5), Model()
    optimizer = torch.optim.SGD(list(model.trained().parameters.values()), lr=0.0)
    strategy.start(model.trained(), optimizer, {})
    assert strategy.statistics() == {}
    assert not optimizer._optimizer_step_pre_hooks


def test_a_gradient_that_is_missing_is_an_error() -> None:
    _, _, optimizer = second_stage(RULE)
    with pytest.raises(RuntimeError, match="got no gradient"):
        optimizer.step()


def test_a_curvature_of_another_k_is_refused_before_the_stage_is_trained() -> None:
    model, strategy, _ = second_stage(RULE)
    kept = strategy.finish(looking(model))
    other = KroneckerStrategy(replace(RULE, k=2))
    with pytest.raises(ValueError, match=r"strategy\.k must be the same"):
        other.start(model.trained(), torch.optim.SGD(model.parameters(), lr=0.0), kept)


def test_counters_survive() -> None:
    model, strategy, optimizer = second_stage(RULE)
    moved(model)
    for parameter in model.trained().parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    _, other, _ = second_stage(RULE)
    other.load_state_dict(strategy.state_dict())
    assert other.statistics() == strategy.statistics()


def test_labels_follow_the_softmax() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0]).double().expand(20_000, 3)
    counts = draw(scores, (5,), torch.tensor([20_000])).bincount(minlength=3) / 20_000
    torch.testing.assert_close(counts.double(), scores[0].softmax(-1), atol=0.015, rtol=0)


def test_a_rows_labels_follow_from_its_seed_alone() -> None:
    scores = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)).double()
    together = draw(scores, (1, 2), torch.tensor([4, 3]))
    apart = torch.cat([draw(scores[:4], (1,), torch.tensor([4])), draw(scores[4:], (2,), torch.tensor([3]))])
    assert torch.equal(together, apart)
    assert not torch.equal(together[:3], draw(scores[:3], (2,), torch.tensor([3])))
