"""The oracle of the GPU day is one: it differs where the average is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import ema_oracle
from bench.gpu_model import SHAPES, patches, training_batch
from lcia.ema import Fixed


@pytest.mark.parametrize("name", ema_oracle.RULES)
def test_the_average_is_the_oracles(name: str) -> None:
    errors = ema_oracle.errors(name, "cpu", torch.float64, steps=8)
    assert max(errors["theta"], errors["pull"]) < 1e-12


def test_another_rule_is_not_the_oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    stories, average = ema_oracle._told(Fixed(0.9), "cpu", torch.float64, 8)
    monkeypatch.setattr(ema_oracle, "_told", lambda *given: (stories, average))
    monkeypatch.setitem(ema_oracle.RULES, "fixed", Fixed(0.91))
    assert ema_oracle.errors("fixed", "cpu", torch.float64, 8)["theta"] > 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_holds_one_picture_and_the_tokens_of_its_shape(name: str) -> None:
    shape = replace(SHAPES[name], batch=1)
    rows = training_batch(shape, "cpu")
    assert rows["input_ids"].shape == rows["labels"].shape == (1, shape.tokens)
    assert int((rows["input_ids"] == 90).sum()) == patches(shape)
    assert int((rows["labels"] != -100).sum()) == shape.tokens // 4
