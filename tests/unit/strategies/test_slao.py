"""Merging before forgetting: three tasks against the formulas in numpy, and what the next task starts from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lcia.config.baselines import SequentialConfig, SlaoConfig
from lcia.protocols import Look, Strategy, Trained, TunedLinear
from lcia.strategies import build
from lcia.strategies.slao import orthonormal

IN, OUT, RANK = 6, 5, 3


def no_rows(count: int, alone: bool) -> Iterator[Look]:
    return iter(())


class Model(nn.Module):
    """The weights of a layer with LoRA and of a bias that is trained as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Parameter(torch.randn(RANK, IN, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(OUT, RANK, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(OUT, dtype=torch.float64))

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def begin(self, kept: dict[str, Tensor]) -> Strategy:
        strategy = build(SlaoConfig(kind="slao"), steps=1)
        trained = Trained(dict(self.named_parameters()), [TunedLinear("l", self, self.up, self.down)])
        strategy.start(trained, torch.optim.SGD(self.parameters(), lr=0.1), kept)
        return strategy

    def tune(self) -> dict[str, Tensor]:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter))
        return self.weights


def test_three_tasks_are_merged_as_the_formula_says_and_each_starts_from_the_last_tuned_pair() -> None:
    model = Model()
    merged, tuned = (model.weights for _ in range(2))  # after a first task of plain tuning
    kept: dict[str, Tensor] = {}
    for task in (2, 3, 4):
        strategy = model.begin(kept)
        q, r = np.linalg.qr(tuned["down"].numpy().T)
        q = q * np.sign(np.diag(r))
        np.testing.assert_allclose(model.down.detach().numpy(), q.T, rtol=1e-12, atol=1e-14)
        assert torch.equal(model.up, tuned["up"])
        assert torch.equal(model.bias, tuned["bias"])
        tuned = model.tune()
        kept = strategy.finish(no_rows)
        for name in ("up", "bias"):
            merged[name] = merged[name] + (tuned[name] - merged[name]) / task**0.5
            torch.testing.assert_close(model.weights[name], merged[name], rtol=1e-12, atol=1e-14)
        assert torch.equal(model.down, tuned["down"])
        assert int(kept["slao.tasks"]) == task
        assert all(torch.equal(kept[f"slao.{name}"], value) for name, value in tuned.items())


def test_the_start_spans_the_same_directions_turns_none_and_is_orthonormal() -> None:
    torch.manual_seed(1)
    down = torch.randn(RANK, IN, dtype=torch.float64)
    found = orthonormal(down)
    torch.testing.assert_close(found @ found.T, torch.eye(RANK).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(down @ found.T @ found, down, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(orthonormal(found), found, rtol=1e-12, atol=1e-14)
    assert (torch.linalg.solve(found @ down.T, torch.eye(RANK).double()).diagonal() > 0).all()


def test_more_directions_than_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 inputs has no 3: lower lora\.r"):
        orthonormal(torch.ones(3, 2))


def test_the_first_task_of_an_adapter_is_plain_tuning() -> None:
    assert SlaoConfig(kind="slao").first() == SequentialConfig()
