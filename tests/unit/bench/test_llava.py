"""bench.llava at a small shape on the CPU: every part measures, and its arithmetic is torch's own count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu import Clock, Day
from bench.gpu_model import training_batch
from bench.llava import NAMES, SHAPES, Bench, config_of, flops, logits_at, measure, table, trained_of
from lcia.strategies import build


@pytest.fixture(scope="module")
def bench() -> Bench:
    day = Day(SHAPES["tiny"], "cpu", 1)
    return Bench(day, training_batch(day.shape, "cpu"), Clock(False))


@pytest.fixture(scope="module")
def found(bench: Bench) -> dict[str, Any]:
    written: list[Any] = []
    result = measure(bench, ["paper", "moelora", "kronecker"], lambda found: written.append(len(found["training"])))
    assert written == [1, 2, 3, 4, 4]
    return result


def test_a_plain_step_and_each_strategy_are_measured(found: dict[str, Any]) -> None:
    assert found["errors"] == {}
    assert list(found["training"]) == ["sequential", "paper", "kronecker", "moelora"]
    assert all(each["step_ms"] > 0 and each["end_ms"] > 0 for each in found["training"].values())
    assert found["training"]["sequential"]["added"] == 0


def test_the_fastest_of_several_rounds_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 5.0, 2.0, 6.0])
    told = {"end_ms": 1.0, "trained": 1, "peak_gb": 1.0, "held_gb": 1.0, "stored_mb": 0.0}
    monkeypatch.setattr("bench.llava.under", lambda *_: {"step_ms": next(times), **told})
    found = measure(bench, ["paper"], lambda _: None, rounds=2)
    assert [each["step_ms"] for each in found["training"].values()] == [2.0, 5.0]
    assert found["training"]["paper"]["added"] == 1.5


def test_routers_of_experts_are_trained_too(found: dict[str, Any]) -> None:
    trained = {name: each["trained"] for name, each in found["training"].items()}
    # Of each of two layers of width 96 seven linear layers are tuned, one of them from width 192: four experts each.
    assert trained["moelora"] - trained["sequential"] == 2 * 4 * (6 * 96 + 192)


def test_memory_is_what_the_process_holds_and_held_at_its_peak(found: dict[str, Any]) -> None:
    assert all(each["peak_gb"] >= each["held_gb"] > 0.1 for each in found["training"].values())


def test_what_is_stored_beside_an_adapter_is_counted(found: dict[str, Any]) -> None:
    stored = {kind: each["stored_mb"] for kind, each in found["training"].items()}
    assert (stored["sequential"], stored["paper"]) == (0, 0)
    assert stored["kronecker"] > 0


def test_speed_is_told_of_steps_and_of_answers(found: dict[str, Any]) -> None:
    assert found["speed"]["tokens_per_second"] > 0
    assert found["speed"]["peak_from"] == "a measured product"
    assert min(found["generation"]["beside"], found["generation"]["merged"]) > 0


def test_the_table_has_a_line_for_each_strategy(found: dict[str, Any]) -> None:
    lines = list(table({"machine": {"device": "cpu"}, **found}))
    assert [line.split()[0] for line in lines[2:6]] == ["sequential", "paper", "kronecker", "moelora"]


def test_a_step_s_arithmetic_is_what_torch_counts(bench: Bench) -> None:
    bench.day.model.get_base_model().gradient_checkpointing_disable()
    bench.day.model.train()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(bench.loss_and_logits()[0])
    # Torch counts whole squares of attention where we count halves, and the projector's two layers, which we leave out.
    assert flops(bench) == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_has_a_configuration_and_is_built(name: str) -> None:
    assert build(config_of(name, 4), 3)
    assert build(config_of(name, 4).first(), 1)


def test_scores_at_other_weights_leave_the_weights_alone(bench: Bench) -> None:
    trained = trained_of(bench.day.model)
    before = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
    moved = logits_at(bench, trained, {name: weight + 0.1 for name, weight in before.items()})
    assert not torch.equal(moved, logits_at(bench, trained, before))
    assert all(torch.equal(parameter, before[name]) for name, parameter in trained.parameters.items())


def test_a_7b_step_is_that_of_the_paper() -> None:
    shape = SHAPES["7b"]
    assert (shape.rank, shape.batch, shape.tokens) == (128, 16, 2048)
    assert replace(shape, batch=8).tokens == 2048
