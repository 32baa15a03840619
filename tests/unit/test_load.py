"""Files and overrides become configurations, or one error that names every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia.config import RunConfig
from lcia.load import load, override
from lcia.methods import CurvatureConfig, PaperConfig
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


def test_a_file_that_is_no_yaml_says_which_and_where(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("seed: 1\ntraining: {max_steps: 5\n")
    with pytest.raises(InputError, match=r"run\.yaml is not valid YAML: .*line 3"):
        load(RunConfig, tmp_path / "run.yaml")


def test_a_file_that_is_no_text_is_no_yaml_either(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="is not valid YAML"):
        load(RunConfig, tmp_path / "run.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent\.yaml: No such file"):
        load(RunConfig, tmp_path / "absent.yaml")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# nothing yet\n")
    assert load(RunConfig, tmp_path / "run.yaml") == RunConfig()


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(InputError, match="is not valid YAML"):
        load(RunConfig, tmp_path / "run.yaml")
    assert not (tmp_path / "made").exists()


def test_a_key_with_nothing_alike_shows_what_is_known() -> None:
    with pytest.raises(InputError, match=r"data\.zzz: unknown key; known here: max_bad_fraction, max_image_pixels"):
        load(RunConfig, None, ["data.zzz=1"])


@pytest.mark.parametrize("text", ["seed", "=3"])
def test_an_override_without_key_or_sign_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"is no override: write section\.key=value"):
        load(RunConfig, None, [text])


def test_an_override_that_is_no_yaml_asks_for_quotes() -> None:
    with pytest.raises(InputError, match="quote it"):
        load(RunConfig, None, ["name={"])


def test_the_last_of_two_overrides_wins() -> None:
    assert load(RunConfig, None, ["seed=1", "seed=2"]).seed == 2
