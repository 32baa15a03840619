"""Every configuration that ships loads, and says what its name promises."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import get_args

import optuna
import pytest

from lcia import benchmarks
from lcia.config.assistants import LlavaConfig
from lcia.config.benchmarks import COIN_ORDER, CoinConfig, MiniCoinConfig
from lcia.config.load import load
from lcia.config.run import RunConfig, TrainingConfig
from lcia.config.strategies import EwcConfig, ProximalConfig, StrategyConfig
from lcia.studies.config import StudyConfig
from lcia.studies.points import count, expand
from lcia.studies.search import Space
from lcia.training.sampling import total_steps
from lcia.types import InputError
from pipelines.launch import LaunchConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


STRATEGY_KINDS = {section.model_fields["kind"].annotation.__args__[0] for section in get_args(StrategyConfig)}


def names(folder: str) -> list[str]:
    return sorted(path.name for path in (CONFIGS / folder).glob("*.yaml"))


def test_every_folder_of_configurations_is_covered_by_a_test_here():
    assert {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.y*ml")} == {
        ".", "launch", "paper", "studies"
    }  # fmt: skip


@pytest.mark.parametrize("name", names("."))
def test_every_run_loads_and_its_order_names_tasks_of_its_benchmark(name):
    config = load(RunConfig, CONFIGS / name)
    assert benchmarks.build(config.benchmark, config.evaluation.general).order(config.order)


@pytest.mark.parametrize("name", names("launch"))
def test_every_launch_loads_and_splits_the_default_batch_evenly(name):
    load(LaunchConfig, CONFIGS / "launch" / name).check_batch(RunConfig().training.batch_size)


SEARCHES = ["ema-bounds.yaml"]


@pytest.mark.parametrize("name", sorted({*names("studies")} - {*SEARCHES}))
def test_every_study_expands_to_as_many_distinct_runs_as_it_counts(name):
    study = load(StudyConfig, CONFIGS / "studies" / name)
    points = expand(study)
    assert len({point.config.name for point in points}) == len(points) == count(study)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_draws_runs_that_can_be_evaluated_on_its_split(name):
    space, asked = Space(load(StudyConfig, CONFIGS / "studies" / name)), optuna.create_study()
    for number in range(5):
        trial = asked.ask()
        space.define(trial)
        for point in space.points(number, space.read(trial.params)):
            task = benchmarks.build(point.config.benchmark).tasks[0]
            assert task.sources[point.config.evaluation.split] is not None


def test_minicoin_asks_for_all_eight_tasks_and_leaves_the_rest_at_its_default():
    config = load(RunConfig, CONFIGS / "minicoin.yaml")
    assert config == RunConfig(name="minicoin")
    assert benchmarks.build(config.benchmark).order(config.order) == COIN_ORDER


def test_easyvqa_finds_its_files_below_a_root_given_on_the_command_line(tmp_path):
    config = load(RunConfig, CONFIGS / "easyvqa.yaml", [f"benchmark.root={tmp_path}"])
    benchmark = benchmarks.build(config.benchmark)
    assert benchmark.names == ("shape", "color", "presence", "absence")
    for task in benchmark.tasks:
        assert (task.train.path, task.test.path) == (
            f"{tmp_path}/{task.name}/train.json", f"{tmp_path}/{task.name}/test.json"
        )  # fmt: skip
        assert task.train.image_root == str(tmp_path)


def test_easyvqa_names_every_image_where_the_real_data_has_it(shared_data):
    config = load(RunConfig, CONFIGS / "easyvqa.yaml", [f"benchmark.root={shared_data / 'easyvqa'}"])
    for task in benchmarks.build(config.benchmark).tasks:
        for source in (task.train, task.test):
            row = json.loads(Path(source.path).read_text())[0]
            assert (Path(source.image_root) / row["image"]).is_file()


def test_the_llava_configuration_holds_the_papers_settings():
    """Oracle: section 4 of the method's specification."""
    config = load(RunConfig, CONFIGS / "llava-7b-coin.yaml")
    assert isinstance(config.benchmark, CoinConfig)
    assert isinstance(config.assistant, LlavaConfig)
    assert config.assistant.train_projector
    assert config.benchmark.tasks == COIN_ORDER
    assert (config.lora.r, config.lora.lora_alpha, config.lora.lora_dropout) == (128, 256, 0.05)
    training = config.training
    assert (training.learning_rate, training.projector_learning_rate) == (2e-4, 2e-5)
    assert (training.batch_size, training.warmup_ratio, training.num_train_epochs) == (128, 0.03, 1)
    assert (training.lr_scheduler_type, training.bf16) == ("cosine", True)
    assert training.max_steps is None


def test_the_study_of_orders_is_six_orders_under_two_bounds():
    points = expand(load(StudyConfig, CONFIGS / "studies" / "orders.yaml"))
    strategies = [point.config.strategy for point in points]
    assert len({point.order for point in points}) == 6
    assert sorted(s.beta_min for s in strategies if isinstance(s, ProximalConfig)) == [0.95] * 6 + [0.98] * 6


def test_the_study_of_coins_orders_runs_each_method_in_all_three():
    points = expand(load(StudyConfig, CONFIGS / "studies" / "coin-orders.yaml"))
    alphabet = ("GQA", "Grounding", "ImageNet", "OCR-VQA", "ScienceQA", "TextVQA", "VizWiz", "VQAv2")
    orders = [benchmarks.build(point.config.benchmark).order(point.config.order) for point in points]
    assert orders == [COIN_ORDER, COIN_ORDER[::-1], alphabet] * 2


@pytest.mark.parametrize(("name", "grouped"), [("methods", False), ("methods-grouped", True)])
def test_the_studies_of_methods_have_every_method_in_nine_cells(name: str, grouped: bool) -> None:
    points = expand(load(StudyConfig, CONFIGS / "studies" / f"{name}.yaml"))
    tuned = [point for point in points if point.config.protocol == "continual"]
    ends = {point.config.protocol for point in points} - {"continual"}
    assert ends == (set() if grouped else {"multitask", "zero_shot"})
    assert len(tuned) == 10 * 9
    assert {(point.order, point.seed) for point in points} == set(product(("origin", "reverse", "alphabet"), range(3)))
    assert {point.config.grouping.enabled for point in tuned} == {grouped}
    strategies = expand(load(StudyConfig, CONFIGS / "studies" / "strategies.yaml"))
    others = {point.config.strategy.kind for point in strategies}
    assert {point.config.strategy.kind for point in tuned} >= STRATEGY_KINDS - others
    pulls = {point.config.strategy.pull for point in tuned if isinstance(point.config.strategy, EwcConfig)}
    assert pulls == {1_000, 10_000, 100_000}
    assert {point.method for point in points if point.is_reference} == {"kronecker"}


def test_the_study_of_strategies_trains_all_alike_over_two_orders_and_three_seeds() -> None:
    points = expand(load(StudyConfig, CONFIGS / "studies" / "strategies.yaml"))
    assert {(point.order, point.seed) for point in points} == set(product(("origin", "reverse"), range(3)))
    methods = expand(load(StudyConfig, CONFIGS / "studies" / "methods.yaml"))
    own = ("sequential-tuned", "moelora")
    assert {(point.config.training, point.config.lora) for point in points if point.method not in own} == {
        (point.config.training, point.config.lora) for point in methods
    }
    assert not points[0].config.grouping.enabled
    assert {point.method for point in points if point.is_reference} == {"kronecker"}


@pytest.mark.parametrize("name", ["strategies-search", "strategies-search-long"])
def test_every_method_is_searched_alike_before_it_is_compared(name: str) -> None:
    search = load(StudyConfig, CONFIGS / "studies" / f"{name}.yaml")
    assert {point.config.evaluation.split for point in expand(search)} == {"validation"}
    names = [re.sub(r"(-[0-9.]+)+$", "", label) for label in search.methods]
    assert set(Counter(names).values()) == {4}


def test_what_is_compared_was_searched_and_with_other_seeds() -> None:
    short, long, tuned = (
        load(StudyConfig, CONFIGS / "studies" / f"strategies-{name}.yaml")
        for name in ("search", "search-long", "tuned")
    )
    assert set(short.seeds + long.seeds).isdisjoint(tuned.seeds)
    for name, settings in tuned.methods.items():
        searched = (short if name.endswith("-by-four") else long).methods
        method = name.removesuffix("-by-four")
        assert [searched[label] for label in searched if label.startswith(f"{method}-")].count(settings) == 1


FIVE = {"kronecker", "sequential", "ewc", "curvature", "paper"}


def test_the_study_of_rapid_switches_has_the_same_steps_in_one_piece_and_in_four() -> None:
    points = expand(load(StudyConfig, CONFIGS / "studies" / "rapid-switch.yaml"))
    cells = {(point.method, point.config.benchmark.stretches, point.order, point.seed) for point in points}
    assert cells == set(product(FIVE, (4, 1), ("origin", "reverse"), range(3)))
    assert next(point.label for point in points if point.is_reference) == "kronecker, stretches=4"
    for point in points:
        benchmark, training = point.config.benchmark, point.config.training
        assert isinstance(benchmark, MiniCoinConfig)
        assert benchmark.stretches * total_steps(training, benchmark.train_size // benchmark.stretches) == 80


def test_the_study_of_rough_gradients_has_every_method_under_four_conditions() -> None:
    points = expand(load(StudyConfig, CONFIGS / "studies" / "rough.yaml"))
    found: dict[tuple[str, float, int], list[str]] = {}
    for point in points:
        noise, batch = point.config.data.noise, point.config.training.batch_size
        found.setdefault((noise.kind, noise.share, batch) if noise else ("", 0, batch), []).append(
            point.config.strategy.kind
        )
    assert found.keys() == {("", 0, 16), ("swap", 0.2, 16), ("gibberish", 0.1, 16), ("", 0, 1)}
    assert all(sorted(kinds) == sorted([*FIVE] * 6) for kinds in found.values())
    assert {point.config.training.max_steps for point in points} == {80}
    assert {point.method for point in points if point.is_reference} == {"kronecker"}


def test_the_study_of_easyvqa_is_the_run_under_every_method_over_three_seeds():
    run = load(RunConfig, CONFIGS / "easyvqa.yaml", ["benchmark.root=/data"])
    points = expand(load(StudyConfig, CONFIGS / "studies" / "easyvqa.yaml", ["base.benchmark.root=/data"]))
    default = [p.config for p in points if p.method == "kronecker-grouped"]
    assert [c.model_copy(update={"name": run.name}) for c in default] == [
        run.model_copy(update={"seed": seed}) for seed in (0, 1, 2)
    ]
    kinds = {(p.config.strategy.kind, p.config.grouping.enabled) for p in points if p.config.protocol == "continual"}
    assert kinds == {
        (kind, grouped)
        for kind in ("sequential", "fixed", "ewc", "curvature", "kronecker")
        for grouped in (True, False)
    }
    assert {p.config.training.max_steps for p in points if p.config.protocol == "multitask"} == {
        4 * (run.training.max_steps or 0)
    }


def test_the_defaults_of_a_run_are_the_vetted_settings() -> None:
    """A default that changes is another method under the same name: change it here too, and say so in the log."""
    written = RunConfig(name="a").model_dump(mode="json")
    for section, expected in DEFAULTS.items():
        assert {key: written[section][key] for key in expected} == expected


DEFAULTS: dict[str, dict[str, object]] = {
    "strategy": {"kind": "kronecker", "gamma": 5.0, "rho": 1.0, "temperature": 4.0, "rows": 128, "k": 32},
    "lora": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0},
    "training": {
        "learning_rate": 4e-3, "projector_learning_rate": 2e-5, "batch_size": 16, "max_steps": None,
        "num_train_epochs": 1.0, "warmup_ratio": 0.03, "lr_scheduler_type": "cosine", "weight_decay": 0.0,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "max_grad_norm": 1.0, "group_by_length": False,
    },
    "evaluation": {
        "split": "test", "scoring": "strict", "max_new_tokens": 32, "zero_shot": False, "upper_triangle": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("key", ["weight_decay", "max_grad_norm"])
def test_what_may_be_switched_off_may_be_zero_and_not_less(key: str) -> None:
    assert getattr(TrainingConfig(**{key: 0}), key) == 0
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        TrainingConfig(**{key: -0.1})


@pytest.mark.parametrize("key", ["learning_rate", "projector_learning_rate", "num_train_epochs", "batch_size"])
def test_what_a_training_cannot_do_without_is_positive(key: str) -> None:
    with pytest.raises(ValueError, match="greater than"):
        TrainingConfig(**{key: 0})


def test_a_share_of_the_steps_lies_in_the_unit_interval() -> None:
    assert [TrainingConfig(warmup_ratio=end).warmup_ratio for end in (0, 1)] == [0, 1]
    for beyond in (-0.01, 1.01):
        with pytest.raises(ValueError, match="than or equal to"):
            TrainingConfig(warmup_ratio=beyond)


@pytest.mark.parametrize(
    ("settings", "trains", "is_stream", "groups"),
    [
        ({}, True, True, True),
        ({"grouping": {"enabled": False}}, True, True, False),
        ({"protocol": "multitask"}, True, False, False),
        ({"protocol": "zero_shot"}, False, False, False),
    ],
)
def test_a_protocol_says_what_is_trained_and_grouped(
    settings: dict[str, object], trains: bool, is_stream: bool, groups: bool
) -> None:
    config = RunConfig.model_validate(settings)
    assert (config.trains, config.is_stream, config.groups) == (trains, is_stream, groups)


def test_a_configuration_speaks_of_noise_only_where_there_is_some() -> None:
    assert "noise" not in RunConfig().model_dump(mode="json")["data"]
    noisy = RunConfig.model_validate({"data": {"noise": {"kind": "swap", "share": 0.2}}})
    assert noisy.model_dump(mode="json")["data"]["noise"] == {"kind": "swap", "share": 0.2, "seed": 0}
    assert RunConfig.model_validate(noisy.model_dump(mode="json")) == noisy


def test_a_share_of_noise_that_is_none_is_refused_by_its_place() -> None:
    with pytest.raises(InputError, match=r"data\.noise\.share.*less than or equal to 1.*2"):
        load(RunConfig, None, ["data.noise.kind=swap", "data.noise.share=2"])


def test_the_study_of_instrdialog_follows_the_published_order_on_real_files(shared_data: Path) -> None:
    tasks = shared_data / "instrdialog" / "tasks"
    study = load(StudyConfig, CONFIGS / "studies" / "instrdialog.yaml", [f"base.benchmark.root={tasks}"])
    points = expand(study)
    assert {(point.method, point.seed) for point in points} == set(
        product(("kronecker", "sequential", "ewc"), range(3))
    )
    published = (shared_data / "instrdialog" / "order1.txt").read_text().split()
    benchmark = benchmarks.build(points[0].config.benchmark)
    assert list(benchmark.order("order1")) == [task for task in published if task in benchmark.names]
    assert all((tasks / f"{name}.json").is_file() for name in benchmark.names)
    assert {point.config.lora.target_modules for point in points} == {"all-linear"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["grouping.fusion={}", "grouping.enabled=false"], "set grouping.enabled to true"),
        (["grouping.fusion={}", "grouping.expand_from=newest"], "set grouping.expand_from to fresh"),
        (["grouping.fusion={}", "assistant.train_projector=true"], "set assistant.train_projector=false"),
        (["grouping.fusion={}", "lora.experts=2", "strategy.kind=sequential"], "set lora.experts=1"),
        (["grouping.fusion.temperature=0"], r"grouping\.fusion\.temperature"),
    ],
)
def test_adapters_that_cannot_answer_together_are_refused(values: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(RunConfig, None, values)


def test_a_configuration_speaks_of_fusion_only_where_there_is_one_and_needs_no_threshold_then() -> None:
    assert "fusion" not in RunConfig().model_dump(mode="json")["grouping"]
    clip = ["grouping.embedder.kind=clip", "grouping.embedder.pretrained=x"]
    assert load(RunConfig, None, [*clip, "grouping.fusion={}"]).grouping.fusion is not None
    with pytest.raises(InputError, match="auto was never measured"):
        load(RunConfig, None, clip)
