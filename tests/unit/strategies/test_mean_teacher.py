"""The slow average of a model as its teacher, against a loop of a few lines in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lcia.config.baselines import MeanTeacherConfig, SequentialConfig
from lcia.protocols import Strategy, Trained
from lcia.strategies import build
from tests.unit.strategies.test_lwf import UNTRAINED, VOCABULARY, Student, data, no_rows

DECAY, RATE, WEIGHT = 0.8, 0.5, 2.0


def config(**keys: Any) -> MeanTeacherConfig:
    return MeanTeacherConfig(kind="mean_teacher", weight=WEIGHT, decay=DECAY, **keys)


def started(
    model: Student, given: MeanTeacherConfig, kept: dict[str, Tensor] | None = None
) -> tuple[Strategy, torch.optim.Optimizer]:
    strategy, optimizer = build(given, steps=3), torch.optim.SGD(model.parameters(), lr=RATE)
    strategy.start(Trained(dict(model.named_parameters()), logits_at=model.at), optimizer, kept or {})
    return strategy, optimizer


def step(model: Student, strategy: Strategy, optimizer: torch.optim.Optimizer) -> None:
    batch = data()
    logits = model(batch)
    penalty = strategy.penalty(logits, batch)
    assert penalty is not None
    (logits[..., 0].square().sum() + penalty).backward()
    optimizer.step()
    optimizer.zero_grad()


def by_hand(model: Student, teacher: Student, consistency: str) -> None:
    """The same step, with the teacher as a model of its own."""
    batch = data()
    answers = batch["labels"][:, 1:] != UNTRAINED
    logits = model(batch)
    p, q = (scores[:, :-1][answers].softmax(-1) for scores in (teacher(batch).detach(), logits))
    apart = (p * (p.log() - q.log())).sum() if consistency == "kl" else (p - q).square().sum() / VOCABULARY
    (logits[..., 0].square().sum() + WEIGHT * apart).backward()
    with torch.no_grad():
        for parameter, slow in zip(model.parameters(), teacher.parameters(), strict=True):
            assert parameter.grad is not None
            parameter -= RATE * parameter.grad
            slow.copy_(DECAY * slow + (1 - DECAY) * parameter)
            parameter.grad = None


@pytest.mark.parametrize("stored", ["teacher", "student"])
@pytest.mark.parametrize("consistency", ["kl", "mse"])
def test_three_steps_are_those_of_a_teacher_that_is_a_model_of_its_own(consistency: str, stored: str) -> None:
    model, reference, teacher = Student(), Student(), Student()
    strategy, optimizer = started(model, config(consistency=consistency, stored=stored))
    for _ in range(3):
        step(model, strategy, optimizer)
        by_hand(reference, teacher, consistency)
    assert strategy.statistics()["teacher_apart"] > 0
    kept = strategy.finish(no_rows)
    expected = teacher if stored == "teacher" else reference
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=1e-11, atol=1e-13)
        if stored == "student":
            torch.testing.assert_close(kept[f"teacher.{name}"], teacher.get_parameter(name).data, rtol=1e-11, atol=0)
    assert bool(kept) == (stored == "student")
    assert not optimizer._optimizer_step_post_hooks


def test_a_teacher_that_was_kept_goes_on() -> None:
    model, teacher, batch = Student(), Student(), data()
    with torch.no_grad():
        teacher.head.weight[0] += 1.0
    kept = {f"teacher.{name}": value.detach() for name, value in teacher.named_parameters()}
    strategy, _ = started(model, config(consistency="kl", stored="student"), kept)
    answers = batch["labels"][:, 1:] != UNTRAINED
    p, q = (scores[:, :-1][answers].softmax(-1) for scores in (teacher(batch), model(batch)))
    found = strategy.penalty(model(batch), batch)
    torch.testing.assert_close(found, WEIGHT * (p * (p.log() - q.log())).sum(), rtol=1e-11, atol=0)


def test_a_resumed_stage_ends_with_the_same_bits() -> None:
    def run(interrupt_after: int | None) -> list[Tensor]:
        model = Student()
        strategy, optimizer = started(model, config())
        for number in range(4):
            if number == interrupt_after:
                state = {name: value.clone() for name, value in strategy.state_dict().items()}
                weights = {name: value.clone() for name, value in model.state_dict().items()}
                model = Student()
                strategy, optimizer = started(model, config())
                model.load_state_dict(weights)
                strategy.load_state_dict(state)
            step(model, strategy, optimizer)
        figures = strategy.statistics()
        strategy.finish(no_rows)
        return [*(parameter.detach() for parameter in model.parameters()), torch.tensor(sorted(figures.values()))]

    assert all(torch.equal(one, other) for one, other in zip(run(2), run(None), strict=True))


def test_the_first_task_of_an_adapter_is_plain_tuning() -> None:
    assert config().first() == SequentialConfig()
