"""Distillation against distributions that are formed word by word, in fp64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from lcia.config.baselines import LwfConfig, SequentialConfig
from lcia.ema.tracked import Tracked
from lcia.protocols import UNTRAINED, Batch, Look, Strategy, Trained
from lcia.strategies import build
from lcia.strategies.distillation import LastStep, answer_labels, answer_scores, divergence, without

VOCABULARY = 5


def no_rows(count: int, alone: bool) -> Iterator[Look]:
    return iter(())


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def softmax(scores: list[float]) -> list[float]:
    weights = [math.exp(score) for score in scores]
    return [weight / sum(weights) for weight in weights]


def data() -> Batch:
    """Two rows of four tokens with two and three answer tokens."""
    labels = torch.tensor([[UNTRAINED, UNTRAINED, 1, 4], [UNTRAINED, 0, 2, 3]])
    torch.manual_seed(3)
    return {"labels": labels, "x": torch.randn(2, 4, 3, dtype=torch.float64)}


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, VOCABULARY).double()

    def forward(self, batch: Batch) -> Tensor:
        return self.head(batch["x"])  # type: ignore[no-any-return]

    def at(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.func.functional_call(self, dict(weights), (batch,))


def oracle(teacher: Tensor, student: Tensor, batch: Batch, temperature: float, masked: bool) -> float:
    """Sum over answer tokens, one after the other, in python's floats."""
    total = 0.0
    for row in range(2):
        for place in range(3):
            label = int(batch["labels"][row, place + 1])
            if label == UNTRAINED:
                continue
            words = [word for word in range(VOCABULARY) if not (masked and word == label)]
            p, q = (softmax([float(z[row, place, word]) / temperature for word in words]) for z in (teacher, student))
            total += kl(p, q)
    return total


def started(model: Student, config: LwfConfig, rate: float = 0.1) -> tuple[Strategy, torch.optim.Optimizer]:
    strategy, optimizer = build(config, steps=3), torch.optim.SGD(model.parameters(), lr=rate)
    strategy.start(Trained(dict(model.named_parameters()), logits_at=model.at), optimizer, {})
    return strategy, optimizer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_penalty_is_the_divergence_from_the_start_summed_over_answer_tokens(
    temperature: float, masked: bool
) -> None:
    model, batch = Student(), data()
    config = LwfConfig(kind="lwf", weight=0.7, temperature=temperature, mask_target=masked)
    strategy, _ = started(model, config)
    before = model(batch).detach()
    with torch.no_grad():
        model.head.weight += 0.3 * torch.randn_like(model.head.weight)
    logits = model(batch)
    found = strategy.penalty(logits, batch)
    expected = oracle(before, logits.detach(), batch, temperature, masked)
    assert float(found.detach()) == pytest.approx(0.7 * temperature**2 * expected, rel=1e-12)
    assert expected > 0.01
    assert strategy.statistics()["teacher_kl"] == pytest.approx(expected / 5, rel=1e-12)


def test_at_the_start_neither_value_nor_gradient() -> None:
    for masked in (False, True):
        model, batch = Student(), data()
        strategy, _ = started(model, LwfConfig(kind="lwf", mask_target=masked))
        penalty = strategy.penalty(model(batch), batch)
        penalty.backward()
        assert float(penalty.detach()) == pytest.approx(0, abs=1e-14)
        assert model.head.weight.grad is not None
        torch.testing.assert_close(model.head.weight.grad, torch.zeros_like(model.head.weight), atol=1e-14, rtol=0)


def test_a_masked_label_has_no_say_in_the_gradient() -> None:
    """The derivative by the scores is p - p0 over the other words, and nothing at the label."""
    torch.manual_seed(1)
    teacher, student = torch.randn(3, VOCABULARY).double(), torch.randn(3, VOCABULARY).double().requires_grad_()
    labels = torch.tensor([0, 4, 2])
    divergence(without(teacher, labels), without(student, labels)).sum().backward()
    others = torch.ones(3, VOCABULARY, dtype=torch.bool).scatter(1, labels[:, None], False)
    expected = torch.zeros(3, VOCABULARY).double()
    p, q = (scores[others].view(3, -1).softmax(-1) for scores in (student.detach(), teacher))
    expected[others] = (p - q).flatten()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected, rtol=1e-12, atol=1e-15)


def test_answers_and_their_scores_are_one_token_apart() -> None:
    batch = data()
    logits = torch.arange(2 * 4 * VOCABULARY).view(2, 4, VOCABULARY).double()
    assert answer_labels(batch).tolist() == [1, 4, 0, 2, 3]
    assert answer_scores(logits, batch)[:, 0].tolist() == [5.0, 10.0, 20.0, 25.0, 30.0]


def test_a_batch_without_answers_adds_nothing_and_still_goes_backward() -> None:
    model = Student()
    batch = dict(data()) | {"labels": torch.full((2, 4), UNTRAINED)}
    strategy, _ = started(model, LwfConfig(kind="lwf", mask_target=True))
    penalty = strategy.penalty(model(batch), batch)
    penalty.backward()
    assert float(penalty.detach()) == 0.0
    assert strategy.statistics() == {"teacher_kl": 0.0}


def test_the_figure_is_of_the_last_step_alone_over_its_micro_batches() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    figure = LastStep(Tracked({"w": parameter}), optimizer)
    for values in ([1.0, 3.0], [8.0]):
        figure.add(torch.tensor(values))
    optimizer.step()
    assert figure.mean() == 4.0
    figure.add(torch.tensor([6.0]))
    assert figure.mean() == 6.0


def test_the_first_task_of_an_adapter_is_plain_tuning() -> None:
    assert LwfConfig(kind="lwf").first() == SequentialConfig()


def test_a_finished_stage_leaves_the_optimizer_alone() -> None:
    model = Student()
    strategy, optimizer = started(model, LwfConfig(kind="lwf"))
    assert strategy.finish(no_rows) == {}
    assert not optimizer._optimizer_step_post_hooks


def test_a_strategy_without_a_model_says_what_it_lacks() -> None:
    model = Student()
    strategy, optimizer = build(LwfConfig(kind="lwf"), 1), torch.optim.SGD(model.parameters(), lr=0.1)
    strategy.start(Trained(dict(model.named_parameters())), optimizer, {})
    with pytest.raises(ValueError, match="give Trained"):
        strategy.penalty(model(data()), data())
