"""Files and overrides become configurations, or one error that names every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia.config import CurvatureConfig, PaperConfig, RunConfig
from lcia.load import load, override
from lcia.types import InputError


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        load(
            RunConfig,
            None,
            ["trainng.max_steps=1", "training.batch_size=0", "strategy.kind=curvature", "strategy.lamda=1"],
        )
    text = str(caught.value)
    assert "3 mistake(s)" in text
    assert "did you mean 'training'?" in text
    assert "training.batch_size: Input should be greater than or equal to 1 (given: 0)" in text
    assert "strategy.lamda: unknown key; did you mean 'lambda'?" in text


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("training: {max_steps: 5}\nseed: 1\n")
    config = load(RunConfig, tmp_path / "run.yaml", ["training.max_steps=7"])
    assert (config.training.max_steps, config.seed) == (7, 1)


def test_another_kind_drops_the_keys_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("strategy: {kind: curvature, lambda: 2}\n")
    assert load(RunConfig, tmp_path / "run.yaml", ["strategy.kind=paper"]).strategy == PaperConfig(kind="paper")
    kept = load(RunConfig, tmp_path / "run.yaml", ["strategy.kind=curvature"]).strategy
    assert isinstance(kept, CurvatureConfig)
    assert kept.lambda_ == 2


def test_an_override_reaches_into_lists() -> None:
    assert override({"a": [{"b": 1}, {"b": 2}]}, ["a.1.b=3"]) == {"a": [{"b": 1}, {"b": 3}]}
    with pytest.raises(InputError, match="is no position in a list of 2"):
        override({"a": [1, 2]}, ["a.2=3"])


def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="must hold a mapping"):
        load(RunConfig, tmp_path / "run.yaml")
