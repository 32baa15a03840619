"""The examples of docs/ema.md and README.md do what they say, seen from outside by recording the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

BETA, BATCHES = 0.9, 6


class Net(nn.Module):
    """Answers like a plain module, and like transformers' models when it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        out = self.layer(x)
        return out if labels is None else {"loss": (out - labels).pow(2).mean(), "logits": out}


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def recorded(model: Net) -> Iterator[list[Tensor]]:
    """The weights before training and after every step of any optimizer."""
    weights = [model.layer.weight.detach().clone()]
    handle = register_optimizer_step_post_hook(lambda *_: weights.append(model.layer.weight.detach().clone()))
    yield weights
    handle.remove()


def example(root: Path, heading: str, file: str = "docs/ema.md") -> str:
    text = (root / file).read_text()
    found = re.search(rf"## {heading}\n[^`]*```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def average_of(weights: list[Tensor]) -> Tensor:
    star = weights[0].double()
    for theta in weights[1:]:
        star = BETA * star + (1 - BETA) * theta.double()
    return star.float()


def batches() -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 4, generator=random), torch.randn(4, 2, generator=random)) for _ in range(BATCHES)]


def run(code: str, **names: Any) -> None:
    exec(compile(code, "docs/ema.md", "exec"), {"torch": torch, **names})


def test_the_plain_loop(root: Path, model: Net, recorded: list[Tensor]) -> None:
    seen: list[Tensor] = []
    run(
        example(root, "In a plain loop"),
        model=model,
        batches=batches(),
        evaluate=lambda net: seen.append(net.layer.weight.detach().clone()),
    )
    assert len(recorded) == BATCHES + 1
    for found in (seen[0], model.layer.weight.detach()):
        torch.testing.assert_close(found, average_of(recorded), rtol=1e-6, atol=1e-7)


def test_accelerate_with_accumulation(root: Path, model: Net, recorded: list[Tensor]) -> None:
    run(example(root, "With accelerate"), model=model, batches=batches())
    assert len(recorded) == BATCHES // 2 + 1
    torch.testing.assert_close(model.layer.weight.detach(), average_of(recorded), rtol=1e-6, atol=1e-7)


def test_the_stock_trainer(root: Path, model: Net, recorded: list[Tensor], tmp_path: Path) -> None:
    rows = [{"x": x, "labels": y} for xs, ys in batches() for x, y in zip(xs, ys, strict=True)]
    run(example(root, "In the Trainer of transformers"), model=model, rows=rows, folder=str(tmp_path))
    assert len(recorded) == BATCHES + 1
    torch.testing.assert_close(model.layer.weight.detach(), average_of(recorded), rtol=1e-6, atol=1e-7)


def test_the_trainer_of_the_readme_ends_with_the_average(root: Path, model: Net, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    rows = [{"x": x, "labels": y} for xs, ys in batches() for x, y in zip(xs, ys, strict=True)]
    arguments = TrainingArguments(str(tmp_path), max_steps=BATCHES, use_cpu=True, report_to=[])
    names: dict[str, Any] = {"torch": torch, "model": model, "rows": rows, "arguments": arguments}
    exec(compile(example(root, "The average in a loop of your own", "README.md"), "README.md", "exec"), names)
    average = next(c for c in names["trainer"].callback_handler.callbacks if isinstance(c, names["Average"])).average
    assert average.statistics()["steps"] == BATCHES
    assert torch.equal(model.layer.weight.detach(), average.weights()["layer.weight"])
