"""The average stays exact under what loops do: accumulation, clipping, loss scaling, odd precisions, ties, restarts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from lcia.ema import Curvature, DynamicEma, Fixed, Official, Options, Paper, Proximal
from lcia.ema.curvature import CurvatureAverage
from lcia.ema.hooks import Step
from lcia.ema.scalar import ScalarAverage

pytestmark = pytest.mark.numeric

PAPER = Paper(lagrange=1.0, fallback=0.99, reduction="sum")
RULES: list[Any] = [
    Fixed(0.9),
    PAPER,
    Official(factor=0.05, fallback_alpha=0.01, reduction="sum"),
    Proximal("relative", 20.0),
    Curvature(0.5, 0.9, 0.1),
]
named = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__.lower())


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two of its tensors have 80 entries and are handled together, the others one by one."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 5)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = model(x)
    return (out - x.cumsum(1)).pow(2).mean()


def averaged(model: nn.Module, rule: Any, options: Options | None = None) -> tuple[DynamicEma, torch.optim.Optimizer]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    old = {name: torch.full_like(p, 0.01) for name, p in model.named_parameters()}
    old_curvature = old if isinstance(rule, Curvature) else None
    return DynamicEma(model.named_parameters(), rule, options or Options(), old_curvature).attach(optimizer), optimizer


def scalar(average: DynamicEma) -> ScalarAverage:
    assert isinstance(average.engine, ScalarAverage)
    return average.engine


def train(rule: Any, steps: int = 8, to_none: bool = True, pieces: int = 1, clip: float | None = None) -> DynamicEma:
    model = network()
    average, optimizer = averaged(model, rule)
    for step in range(steps):
        for piece in batch(step).chunk(pieces):
            (loss_of(model, piece) / pieces).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=to_none)
    return average


def close(a: DynamicEma, b: DynamicEma, rtol: float = 1e-12) -> None:
    assert a.weights().keys() == b.weights().keys() == dict(network().named_parameters()).keys()
    for name, value in a.weights().items():
        torch.testing.assert_close(value, b.weights()[name], rtol=rtol, atol=rtol)


@named
def test_accumulated_gradients_weigh_like_those_of_the_whole_batch(rule: Any) -> None:
    close(train(rule, pieces=4), train(rule, pieces=1), rtol=1e-10)


def test_rules_see_the_clipped_gradient() -> None:
    """Clipping to half the norm is the same as halving the loss, for an optimizer that scales gradients away."""
    model, halved = network(), network()
    pairs = [averaged(m, PAPER, Options()) for m in (model, halved)]
    seen = []
    for step in range(6):
        loss_of(model, batch(step)).backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
        nn.utils.clip_grad_norm_(model.parameters(), norm / 2, foreach=False)
        (loss_of(halved, batch(step)) / (2 * (norm + 1e-6) / norm)).backward()
        for _, optimizer in pairs:
            optimizer.step()
            optimizer.zero_grad()
        betas = [scalar(average).tally.beta.clone() for average, _ in pairs]
        torch.testing.assert_close(betas[0], betas[1], rtol=1e-5, atol=0)
        seen.append(betas[0])
    assert (torch.stack(seen[1:]) < 0.989).double().mean() > 0.5


@named
def test_gradients_that_are_zeroed_in_place_weigh_like_dropped_ones(rule: Any) -> None:
    close(train(rule), train(rule, to_none=False), rtol=0)


def test_a_loop_may_start_to_zero_in_place() -> None:
    ends = []
    for drops in (4, 8):
        model = network()
        average, optimizer = averaged(model, PAPER)
        for step in range(8):
            loss_of(model, batch(step)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=step < drops)
        ends.append(average)
    close(*ends, rtol=0)


def test_the_gradients_may_be_held_in_bf16() -> None:
    model, exact = network(), network()
    pairs = [averaged(model, PAPER, Options(previous_gradient="bfloat16")), averaged(exact, PAPER)]
    for step in range(5):
        for net, (_, optimizer) in zip((model, exact), pairs, strict=True):
            loss_of(net, batch(step)).backward()
            optimizer.step()
            optimizer.zero_grad()
    betas = [scalar(average).tally.beta for average, _ in pairs]
    torch.testing.assert_close(betas[0], betas[1], rtol=2e-3, atol=0)
    assert not torch.equal(betas[0], betas[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@named
def test_the_average_of_half_precision_weights_is_kept_in_fp32(rule: Any, dtype: torch.dtype) -> None:
    """Told in fp64 from the same rounded weights and gradients, the story has the same end."""
    tellers = [network(dtype), network(torch.float64)]
    tellers[1].load_state_dict(tellers[0].state_dict())
    source, pairs = network(torch.float64), []
    for model in tellers:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        pairs.append((DynamicEma(model.named_parameters(), rule).attach(optimizer), optimizer))
    descent = torch.optim.AdamW(source.parameters(), lr=0.02)
    for step in range(6):
        loss_of(source, batch(step)).backward()
        descent.step()
        for model, (_, optimizer) in zip(tellers, pairs, strict=True):
            for mine, told in zip(model.parameters(), source.parameters(), strict=True):
                assert told.grad is not None
                mine.data.copy_(told.data.to(dtype))
                mine.grad = told.grad.to(dtype).to(mine.dtype)
            optimizer.step()
            optimizer.zero_grad()
        descent.zero_grad()
    for found, expected in zip(pairs[0][0].weights().values(), pairs[1][0].weights().values(), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@named
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_loss_scaler_skips_is_no_update(rule: Any, fused: bool) -> None:
    def run(overflows: tuple[int, ...]) -> tuple[DynamicEma, list[Tensor]]:
        model = network(torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, fused=fused)
        average = DynamicEma(model.named_parameters(), rule).attach(optimizer)
        scaler, step = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000), 0
        for event in range(6 + len(overflows)):
            bad = event in overflows
            scaler.scale(loss_of(model, batch(step, torch.float32)) * (float("inf") if bad else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            step += not bad
        return average, [p.detach() for p in model.parameters()]

    (skipped, weights), (plain, same) = run((0, 3, 4)), run(())
    # Scales are powers of two, by which every product and quotient is exact.
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    close(skipped, plain, rtol=0)
    figures = skipped.statistics()
    assert figures["steps"] == 6
    assert figures["skipped"] == (3 if fused else 0)
    assert figures["beta"] == plain.statistics()["beta"]


def test_tied_parameters_count_once() -> None:
    shared = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([shared], lr=0.5)
    average = DynamicEma({"embed": shared, "head": shared}, Fixed(0.5)).attach(optimizer)
    (shared * torch.arange(4.0)).sum().backward()
    optimizer.step()
    assert list(average.weights()) == ["embed"]
    torch.testing.assert_close(average.weights()["embed"], 1 - 0.25 * torch.arange(4.0))


@named
def test_parameter_groups_change_nothing(rule: Any) -> None:
    results = []
    for grouped in (False, True):
        model = network()
        groups = [{"params": [p]} for p in reversed(list(model.parameters()))] if grouped else model.parameters()
        optimizer = torch.optim.SGD(groups, lr=0.05)
        average = DynamicEma(model.named_parameters(), rule).attach(optimizer)
        for step in range(5):
            loss_of(model, batch(step)).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(average)
    close(*results, rtol=0)


def partial_model(missing: str, rule: Any = PAPER, size: int = 30) -> tuple[DynamicEma, Callable[[bool], None]]:
    """`rare` has 20 entries; `used` as many (then they are handled together) or another number."""
    used, rare = nn.Parameter(torch.linspace(1, 2, size).double()), nn.Parameter(torch.linspace(1, 2, 20).double())
    optimizer = torch.optim.SGD([used, rare], lr=0.1)
    options = Options(missing_gradient=missing)  # type: ignore[arg-type]
    average = DynamicEma({"used": used, "rare": rare}, rule, options).attach(optimizer)

    def step(with_rare: bool) -> None:
        (used.pow(3).sum() + (rare.pow(3).sum() if with_rare else 0)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return average, step


def test_a_missing_gradient_is_an_error_unless_it_is_configured() -> None:
    _, step = partial_model("error")
    with pytest.raises(RuntimeError, match="rare"):
        step(False)


@pytest.mark.parametrize("missing", ["skip", "zero"])
def test_a_missing_gradient_is_counted(missing: str) -> None:
    average, step = partial_model(missing)
    for with_rare in (True, True, False, True, False):
        step(with_rare)
    assert average.statistics()["missing"] == 2


@pytest.mark.parametrize("rule", RULES[:4], ids=lambda rule: type(rule).__name__.lower())
def test_it_does_not_matter_whether_tensors_are_handled_together(rule: Any) -> None:
    """With gaps in the gradients of one of them; its weights and gradients wait for the next step that has one."""
    ends = []
    for size in (30, 20):
        average, step = partial_model("skip", rule, size)
        for with_rare in (True, True, False, True, False, True, True):
            step(with_rare)
        assert len(scalar(average).buffers) == (1 if size == 20 else 2)
        ends.append(average.weights()["rare"])
    torch.testing.assert_close(*ends, rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [30, 20])
def test_skipping_leaves_the_average_of_a_parameter_without_gradient_alone(size: int) -> None:
    average, step = partial_model("skip", Fixed(0.9), size)
    step(True)
    before = average.weights()["rare"].clone()
    step(False)
    assert torch.equal(average.weights()["rare"], before)


def test_a_zero_gradient_moves_the_average_of_a_parameter_that_rests() -> None:
    average, step = partial_model("zero", Fixed(0.9))
    step(True)
    before = average.weights()["rare"].clone()
    step(False)
    assert not torch.equal(average.weights()["rare"], before)


def test_a_gradient_that_is_not_finite_is_named_and_leaves_the_average_whole() -> None:
    model = network()
    average, optimizer = averaged(model, PAPER)
    loss_of(model, batch(0)).backward()
    optimizer.step()
    optimizer.zero_grad()
    (loss_of(model, batch(1)) * float("nan")).backward()
    optimizer.step()
    for read in (average.statistics, average.state_dict, average.apply_):
        with pytest.raises(FloatingPointError, match=r"0\.weight"):
            read()
    assert all(torch.isfinite(value).all() for value in average.weights().values())


@pytest.mark.parametrize("rule", [*RULES, Curvature(0.5, 0.9, 0.1, "adam")], ids=str)
@pytest.mark.parametrize("to_none", [True, False])
def test_a_saved_and_reloaded_average_ends_bit_equal(rule: Any, to_none: bool) -> None:
    def run(restart_at: int | None) -> dict[str, Tensor]:
        model = network(torch.float32)
        average, optimizer = averaged(model, rule, Options(start="first_step"))
        for step in range(9):
            if step == restart_at:
                file = save({k: v.contiguous() for k, v in average.state_dict().items()})
                weights, moments = model.state_dict(), optimizer.state_dict()
                model = network(torch.float32)
                average, optimizer = averaged(model, rule, Options(start="first_step"))
                model.load_state_dict(weights)
                optimizer.load_state_dict(moments)
                average.load_state_dict(load(file))
            loss_of(model, batch(step, torch.float32)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
        figures = {key: torch.tensor(value) for key, value in average.statistics().items()}
        return {key: value.clone() for key, value in average.weights().items()} | figures

    whole = run(None)
    for restart_at in (0, 1, 5):
        again = run(restart_at)
        assert [key for key, value in whole.items() if not torch.equal(value, again[key])] == []


@named
def test_inside_swapped_the_model_holds_the_average_and_afterwards_its_own_weights(rule: Any) -> None:
    model = network()
    average, optimizer = averaged(model, rule)
    for step in range(3):
        loss_of(model, batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    fast = {name: p.detach().clone() for name, p in model.named_parameters()}
    with contextlib.suppress(KeyError), average.swapped():
        assert all(torch.equal(p.detach(), average.weights()[name]) for name, p in model.named_parameters())
        raise KeyError("evaluation failed")
    assert all(torch.equal(p.detach(), fast[name]) for name, p in model.named_parameters())
    stars = {name: value.clone() for name, value in average.weights().items()}
    average.apply_()
    assert all(torch.equal(p.detach(), stars[name]) for name, p in model.named_parameters())


def test_parameters_of_another_optimizer_are_refused() -> None:
    mine, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="does not hold 1 of the parameters"):
        DynamicEma({"w": mine}, Fixed(0.9)).attach(torch.optim.SGD([other], lr=0.1))


def test_an_optimizer_that_steps_flat_copies_is_refused_with_the_alternative() -> None:
    """As DeepSpeed's does: its wrapper holds a torch optimizer over flattened copies."""

    class Wrapper:
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.optimizer = inner

    parameter = nn.Parameter(torch.ones(4))
    flat_copy = torch.optim.SGD([nn.Parameter(parameter.detach().clone())], lr=0.1)
    with pytest.raises(ValueError, match=r"DeepSpeed ZeRO .* use DDP or FSDP2"):
        DynamicEma({"w": parameter}, Fixed(0.9)).attach(Wrapper(flat_copy))
    with pytest.raises(ValueError, match="not a torch optimizer"):
        DynamicEma({"w": parameter}, Fixed(0.9)).attach(object())


def test_an_average_follows_one_optimizer_and_only_until_it_is_detached() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    average = DynamicEma({"w": parameter}, Fixed(0.5)).attach(optimizer)
    with pytest.raises(ValueError, match="detach"):
        average.attach(optimizer)
    average.detach()
    parameter.sum().backward()
    optimizer.step()
    assert average.weights()["w"].item() == 1.0


def test_only_what_is_trained_is_averaged() -> None:
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        DynamicEma({"w": frozen}, Fixed(0.9))


@named
def test_a_compiled_model_is_averaged_like_a_plain_one(rule: Any) -> None:
    results = []
    for compiled in (False, True):
        model = network()
        forward = torch.compile(model, backend="aot_eager") if compiled else model
        average, optimizer = averaged(model, rule)
        for step in range(4):
            loss_of(forward, batch(step)).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(average)
    close(*results, rtol=1e-10)


def test_a_gradient_that_is_missing_in_a_step_that_the_device_skips_is_not_counted() -> None:
    used, rare = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([used, rare], lr=0.1, fused=True)
    average = DynamicEma({"used": used, "rare": rare}, PAPER, Options(missing_gradient="skip")).attach(optimizer)
    for skipped in (False, True, False):
        used.grad, rare.grad = torch.ones(3), None
        optimizer.grad_scale, optimizer.found_inf = torch.ones(1), torch.full((1,), float(skipped))  # type: ignore[attr-defined]
        optimizer.step()
    figures = average.statistics()
    assert (figures["missing"], figures["steps"], figures["skipped"]) == (2, 2, 1)


@named
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_reads_no_value_from_the_device(rule: Any, scaled: bool) -> None:
    """Tensors of the device `meta` have none: whatever asks for one, as a wait for a GPU does, is an error."""
    parameters = {name: nn.Parameter(p.to("meta")) for name, p in network(torch.bfloat16).named_parameters()}
    old = dict(parameters) if isinstance(rule, Curvature) else None
    average = DynamicEma(parameters, rule, Options(start="first_step"), old)
    step = Step(torch.zeros(1, device="meta"), torch.ones(1, device="meta")) if scaled else Step()
    for _ in range(2):
        for parameter in parameters.values():
            parameter.grad = torch.empty_like(parameter)
        if isinstance(average.engine, CurvatureAverage):
            average.engine.consolidation.before(step)
        average.engine.after(step)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        average.statistics()


@pytest.mark.parametrize("rule", [PAPER, RULES[2], RULES[3], Fixed(0.9)], ids=lambda rule: type(rule).__name__.lower())
def test_no_more_is_kept_than_the_rule_needs(rule: Any) -> None:
    model = network()
    average, optimizer = averaged(model, rule)
    for step in range(2):
        loss_of(model, batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = {key.partition(".")[0] for key in average.state_dict() if not key.startswith(("tally", "memory", "seen"))}
    expected = {"average"} | ({"previous_gradient"} if rule.kind != "none" else set())
    assert kept == expected | ({"previous_weights"} if rule.needs_step else set())


@pytest.mark.parametrize("rule", [PAPER, RULES[3], Curvature(0.5, 0.9, 0.1)], ids=lambda r: type(r).__name__.lower())
def test_a_missing_gradient_that_counts_as_zero_is_a_gradient_of_zeros(rule: Any) -> None:
    ends = []
    for written in (False, True):
        used, rare = (nn.Parameter(torch.linspace(1, 2, size).double()) for size in (30, 20))
        optimizer = torch.optim.SGD([used, rare], lr=0.1)
        average = DynamicEma({"used": used, "rare": rare}, rule, Options(missing_gradient="zero")).attach(optimizer)
        for with_rare in (True, True, False, False, True):
            (used.pow(3).sum() + (rare.pow(3).sum() if with_rare else 0)).backward()
            if written and not with_rare:
                rare.grad = torch.zeros_like(rare)
            optimizer.step()
            optimizer.zero_grad()
        figures = average.statistics()
        ends.append((average.weights()["rare"], {name: figures[name] for name in ("beta", "retain", "steps")}))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
