"""A study that draws its runs: what is asked for, what a draw means, and the runs of a trial."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import optuna
import pytest

from lcia.config.baselines import SequentialConfig
from lcia.config.load import parse
from lcia.config.strategies import KroneckerConfig
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.studies.search import Draw, Space
from lcia.types import InputError

TASKS = ["GQA", "Grounding", "OCR-VQA"]
SEARCH = {"kind": "optuna", "num_samples": 4}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(**values: Any) -> StudyConfig:
    base = {"benchmark": {"kind": "minicoin", "tasks": TASKS, "validation_size": 10}}
    return parse(StudyConfig, {"name": "s", "base": base, "search": SEARCH, **values}, "test")


def draws(space: Space, count: int) -> list[Draw]:
    """As Optuna draws at random."""
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(count):
        trial = asked.ask()
        space.define(trial)
        found.append(space.read(trial.params))
        asked.tell(trial, 0.0)
    return found


def test_values_are_drawn_from_where_the_study_says() -> None:
    vary = {
        "strategy.gamma": {"loguniform": [1, 30]},
        "strategy.rho": {"uniform": [0.5, 2]},
        "strategy.rows": {"randint": [8, 10]},
        "strategy.k": {"choice": [16, 32]},
        "training.max_steps": [4, 5],
    }
    found = [draw.values for draw in draws(Space(study(vary=vary)), 60)]
    assert all(1 <= one["strategy.gamma"] <= 30 for one in found)
    assert sum(one["strategy.gamma"] < 30**0.5 for one in found) > 20
    assert all(0.5 <= one["strategy.rho"] <= 2 for one in found)
    assert {one["strategy.rows"] for one in found} == {8, 9, 10}
    assert {one["strategy.k"] for one in found} == {16, 32}
    assert {one["training.max_steps"] for one in found} == {4, 5}


def test_every_order_can_be_drawn() -> None:
    assert {draw.order for draw in draws(Space(study(orders="all")), 80)} == set(permutations(TASKS))
    listed = ["reverse", ["GQA", "Grounding"]]
    assert {draw.order for draw in draws(Space(study(orders=listed)), 20)} == {"reverse", ("GQA", "Grounding")}
    assert len({draw.order for draw in draws(Space(study(orders={"sample": 4})), 60)}) == 4


def test_what_there_is_no_choice_of_is_not_asked_for() -> None:
    space = Space(study(methods={"only": {}}, vary={"strategy.k": {"choice": [16, 32]}}))
    trial = optuna.create_study().ask()
    space.define(trial)
    assert list(trial.params) == ["strategy.k"]
    assert space.read(trial.params).order is None
    assert space.read(trial.params).method == "only"


def test_a_trial_has_a_run_for_each_seed_on_the_objective_s_split() -> None:
    methods = {"plain": {"strategy.kind": "sequential"}, "ours": {}}
    space = Space(study(methods=methods, vary={"training.max_steps": {"randint": [1, 9]}}, orders="all", seeds=[3, 4]))
    draw = Draw("plain", {"training.max_steps": 7}, ("OCR-VQA", "GQA", "Grounding"))
    first, second = space.points(12, draw)
    assert [point.config.name for point in (first, second)] == ["trial012-seed3", "trial012-seed4"]
    assert first.label == second.label == "12: plain, max_steps=7, OCR-VQA > GQA > Grounding"
    assert first.varied == second.varied == {"training.max_steps": 7}
    assert (first.config.seed, second.config.seed) == (3, 4)
    assert first.config.order == draw.order
    assert isinstance(first.config.strategy, SequentialConfig)
    assert first.config.training.max_steps == 7
    assert (first.config.evaluation.split, first.config.evaluation.upper_triangle) == ("validation", False)


def test_asha_needs_all_tasks_and_the_untuned_model_after_every_task() -> None:
    space = Space(study(vary={"strategy.gamma": {"uniform": [1, 2]}}, scheduler={"kind": "asha"}))
    [point] = space.points(0, Draw("lcia", {"strategy.gamma": 1.5}, None))
    assert (point.config.evaluation.upper_triangle, point.config.evaluation.zero_shot) == (True, True)
    assert isinstance(point.config.strategy, KroneckerConfig)
    assert point.config.strategy.gamma == 1.5


def test_a_draw_that_is_no_configuration_names_its_trial() -> None:
    with pytest.raises(InputError, match=r"study s, trial007 \(lcia\)[\s\S]*gamm: unknown key"):
        Space(study(vary={"strategy.gamm": {"uniform": [1, 2]}})).points(7, Draw("lcia", {"strategy.gamm": 1.5}, None))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"search": {"kind": "grid"}, "vary": {"strategy.gamma": {"uniform": [1, 2]}}}, "is drawn by a search"),
        ({"search": {"kind": "grid"}, "scheduler": {"kind": "asha"}}, "scheduler stops trials of a search"),
        ({"search": {"kind": "grid"}, "budget": {"hours": 1}}, "budget limits a search"),
        ({"vary": {"strategy.gamma": {"uniform": [2, 1]}}}, "vary.strategy.gamma: 2.0 is to be less than 1.0"),
        ({"vary": {"strategy.rows": {"randint": [8, 8]}}}, "vary.strategy.rows: 8 is to be less than 8"),
        ({}, "there is nothing to search"),
        ({"orders": "all", "objective": {"split": "test"}}, "a search may not look at the test split"),
        ({"orders": "all", "objective": {"metric": "maa"}, "scheduler": {"kind": "asha"}}, "which avg_acc"),
        ({"orders": "all", "search": {"kind": "optuna"}}, "num_samples"),
        ({"orders": "all", "search": {"kind": "optuna", "num_samples": 0}}, "num_samples"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        study(**values)


def test_a_search_cannot_be_written_out_before_it_runs() -> None:
    with pytest.raises(
        InputError, match="draws its runs, so they are not known before it runs; it trains 12 stages at most"
    ):
        expand(study(orders="all"))
