"""Files and overrides become configurations, or one error that names every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from lcia.config.load import load, override, parse
from lcia.config.run import RunConfig
from lcia.config.strategies import CurvatureConfig, KroneckerConfig, PaperConfig
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.terminal.reference import models_of


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        load(
            RunConfig,
            None,
            ["trainng.max_steps=1", "training.batch_size=0", "strategy.kind=curvature", "strategy.lamda=1"],
        )
    text = str(caught.value)
    assert "3 mistakes" in text
    assert "did you mean 'training'?" in text
    assert "training.batch_size: Input should be greater than or equal to 1 (given: 0)" in text
    assert "strategy.lamda: unknown key; did you mean 'lambda'?" in text


def test_an_error_shows_the_first_80_characters_of_a_long_value() -> None:
    with pytest.raises(InputError, match=re.escape(f"(given: {'7x' * 40})")):
        load(RunConfig, None, [f"training.batch_size={'7x' * 60}"])


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
    with pytest.raises(InputError, match="is not a position in a list of 2"):
        override({"a": [1, 2]}, ["a.2=3"])


def test_a_file_without_a_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="must hold a mapping"):
        load(RunConfig, tmp_path / "run.yaml")


def test_a_file_that_is_not_yaml_says_which_and_where(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("seed: 1\ntraining: {max_steps: 5\n")
    with pytest.raises(InputError, match=r"run\.yaml is not valid YAML: .*line 3"):
        load(RunConfig, tmp_path / "run.yaml")


def test_a_file_that_is_not_text_is_not_yaml_either(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"is not an override: write section\.key=value"):
        load(RunConfig, None, [text])


def test_an_override_that_is_not_yaml_asks_for_quotes() -> None:
    with pytest.raises(InputError, match="quote it"):
        load(RunConfig, None, ["name={"])


def test_the_last_of_two_overrides_wins() -> None:
    assert load(RunConfig, None, ["seed=1", "seed=2"]).seed == 2


# Kinds ------------------------------------------------------------------------------------------------------------

TASK = "{name: a, train: a, test: b}"


@pytest.mark.parametrize(
    ("override", "section", "kind"),
    [
        ("strategy.gamma=30", "strategy", "kronecker"),
        ("strategy={gamma: 30}", "strategy", "kronecker"),
        ("benchmark.train_size=40", "benchmark", "minicoin"),
        ("assistant.base=shapes", "assistant", "tiny"),
        ("grouping.embedder.fit=corpus", "embedder", "tfidf"),
    ],
)
def test_a_key_of_a_section_keeps_the_kind_of_the_default(override: str, section: str, kind: str) -> None:
    config = load(RunConfig, None, [override])
    found, default = ({**dict(one), "embedder": one.grouping.embedder}[section] for one in (config, RunConfig()))
    assert found.kind == kind
    assert found != default


def test_a_file_may_leave_the_kind_out_too(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("strategy: {gamma: 5}\ngrouping: {embedder: {fit: corpus}}\n")
    strategy = load(RunConfig, tmp_path / "run.yaml").strategy
    assert strategy == KroneckerConfig(gamma=5)
    assert load(RunConfig, tmp_path / "run.yaml", ["strategy.kind=kronecker"]).strategy == strategy
    assert load(RunConfig, tmp_path / "run.yaml", ["strategy.kind=sequential"]).strategy.kind == "sequential"


@pytest.mark.parametrize("overrides", [["strategy.kind=paper", "strategy.beta_min=0.5"], ["strategy.beta_min=0.5", "strategy.kind=paper"]])  # fmt: skip  # noqa: E501
def test_a_kind_drops_no_key_that_is_given_beside_it_in_whatever_order(overrides: list[str]) -> None:
    assert load(RunConfig, None, overrides).strategy == PaperConfig(kind="paper", beta_min=0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy.beta=0.5"], "strategy.beta: unknown key of kind kronecker; kind fixed would allow it"),
        (["strategy.rho=2", "strategy.kind=paper"], "strategy.rho: unknown key of kind paper; kind proximal and kind"),
        (["benchmark.root=x"], "benchmark.root: unknown key of kind minicoin; kind coin and kind ucit"),
        (["grouping.embedder.model=x"], "grouping.embedder.model: unknown key of kind tfidf; kind text and kind clip"),
        (["strategy.kind=curvatur"], "strategy.kind: there is no kind 'curvatur'; did you mean 'curvature'?"),
        ([f"benchmark={{kind: custom, tasks: [{TASK[:-1]}, licens: x}}]}}"], "benchmark.tasks.0.licens: unknown key"),
        (["lora=null"], "lora must be a mapping of keys to values (given: None)"),
    ],
)  # fmt: skip
def test_a_key_of_another_kind_names_the_kinds_that_have_it(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(RunConfig, None, overrides)
    assert f"the configuration: 1 mistake\n  {message}" in str(caught.value)


# Numbers ----------------------------------------------------------------------------------------------------------


def _floats() -> list[tuple[type[BaseModel], str]]:
    sections = {model for root in (RunConfig, LaunchConfig) for model in _all(root)}
    return sorted(
        (
            (model, field)
            for model in sections
            for field, info in model.model_fields.items()
            if "float" in str(info.annotation)
        ),
        key=lambda at: (at[0].__name__, at[1]),
    )


def _all(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {one for info in model.model_fields.values() for one in models_of(info.annotation)}
    return {model, *(deep for one in inner for deep in _all(one))}


def test_there_are_numbers_to_look_at() -> None:
    assert len(_floats()) > 25


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("model", "field"), _floats(), ids=lambda at: getattr(at, "__name__", at))
def test_no_number_is_infinite_or_none(model: type[BaseModel], field: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({model.model_fields[field].alias or field: float(value)})
    assert any(error["loc"][0] in (field, model.model_fields[field].alias) for error in caught.value.errors())


@pytest.mark.parametrize("key", ["seed", "benchmark.seed"])
@pytest.mark.parametrize(("seed", "fits"), [(-1, False), (0, True), (2**31 - 1, True), (2**31, False), (10**18, False)])
def test_a_seed_is_what_every_generator_takes(key: str, seed: int, fits: bool) -> None:
    if fits:
        load(RunConfig, None, [f"{key}={seed}"])
        return
    with pytest.raises(InputError, match=rf"{key}: Input should be (greater|less) than or equal to"):
        load(RunConfig, None, [f"{key}={seed}"])


# Passwords --------------------------------------------------------------------------------------------------------

SECRET = "s3://AKIAKEY:hunter2/x@bucket/prefix"


@pytest.mark.parametrize(
    "key",
    ["benchmark.root", "benchmark.annotations", "assistant.model", "grouping.embedder.model", "lora.target_modules"],
)
def test_an_address_with_a_password_is_refused_wherever_it_stands_and_never_shown(key: str) -> None:
    kinds = ["benchmark.kind=coin", "benchmark.root=x", "assistant.kind=llava", "assistant.model=x",
             "grouping.embedder.kind=text", "grouping.embedder.model=x"]  # fmt: skip
    with pytest.raises(InputError) as caught:
        load(RunConfig, None, [*kinds, f"{key}={SECRET}"])
    assert f"{key}: an address here holds a password" in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("field", ["train", "test", "validation", "image_root"])
def test_the_paths_of_a_task_are_addresses_too(field: str) -> None:
    task = {"name": "a", "train": "a", "test": "b", field: SECRET}
    with pytest.raises(InputError, match="an address here holds a password") as caught:
        parse(RunConfig, {"benchmark": {"kind": "custom", "tasks": [task]}}, "test")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    ["seed={X}", "benchmark={{kind: magic, root: '{X}'}}", "order={{a: '{X}'}}", "{X}", "seed='{X}", "training=[{X}]"],
)
def test_no_message_about_another_mistake_shows_a_password_either(override: str) -> None:
    for padding in ("", "x" * 60):
        with pytest.raises(InputError) as caught:
            load(RunConfig, None, [override.replace("{X}", padding + SECRET).replace("{{", "{").replace("}}", "}")])
        assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_yaml_shows_no_password(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"storage: {{a: {SECRET}\nb\n")
    with pytest.raises(InputError, match="is not valid YAML") as caught:
        load(RunConfig, tmp_path / "run.yaml")
    assert "hunter2" not in str(caught.value)


def test_a_study_keeps_the_kind_of_the_default_in_its_base_methods_and_varied_keys() -> None:
    values = {"name": "s", "base": {"strategy": {"temperature": 2}}, "methods": {"m": {"strategy.rho": 0.5}},
              "vary": {"strategy.gamma": [1, 30]}}  # fmt: skip
    found = [point.config.strategy for point in expand(parse(StudyConfig, values, "test"))]
    assert found == [KroneckerConfig(temperature=2, rho=0.5, gamma=gamma) for gamma in (1, 30)]


def test_a_study_drops_no_key_of_a_method_silently() -> None:
    values = {"name": "s", "methods": {"m": {"strategy.pull": 7}}, "vary": {"strategy.kind": ["ewc", "sequential"]}}
    with pytest.raises(
        InputError, match=r"strategy\.pull: unknown key of kind sequential; kind curvature and kind ewc"
    ):
        expand(parse(StudyConfig, values, "test"))


@pytest.mark.parametrize("key", ["base", "methods", "vary"])
def test_a_study_holds_no_password_either(key: str) -> None:
    inner: dict[str, Any] = {"base": {"benchmark": {"root": SECRET}}, "methods": {"m": {"benchmark.root": SECRET}},
                             "vary": {"benchmark.root": [SECRET]}}  # fmt: skip
    with pytest.raises(InputError, match=f"{key}: an address here holds a password") as caught:
        parse(StudyConfig, {"name": "s", key: inner[key]}, "test")
    assert "hunter2" not in str(caught.value)
