"""A study is the product of its methods, values, orders and seeds; its table pairs what belongs together."""

from __future__ import annotations

import io
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from rich.table import Table

from lcia import benchmarks
from lcia.config.baselines import SequentialConfig
from lcia.config.benchmarks import MiniCoinConfig
from lcia.config.load import load, parse
from lcia.config.strategies import CurvatureConfig, PaperConfig
from lcia.metrics.matrix import AccuracyMatrix
from lcia.studies.compare import (
    Cost,
    compare,
    compare_costs,
    compare_orders,
    compare_pairs,
    compare_tasks,
    order_effects,
    reference_of,
)
from lcia.studies.config import StudyConfig
from lcia.studies.points import Point, count, expand
from lcia.types import InputError
from pipelines.terminal.tables import console, tasks_table

TASKS = ("GQA", "Grounding", "OCR-VQA")
BASE = {"benchmark": {"kind": "minicoin", "tasks": list(TASKS)}, "training": {"max_steps": 4}}
METHODS = {"plain": {"strategy.kind": "sequential"}, "ours": {"strategy.kind": "curvature"}}


def _study(**values: Any) -> StudyConfig:
    return parse(StudyConfig, {"name": "s", "base": BASE, **values}, "test")


def test_every_combination_is_one_run_with_a_name_of_its_own() -> None:
    points = expand(_study(methods=METHODS, vary={"training.max_steps": [1, 2]}, seeds=[0, 1, 2]))
    made = [(p.method, p.config.training.max_steps, p.config.seed) for p in points]
    assert sorted(made) == sorted((m, s, seed) for m in METHODS for s in (1, 2) for seed in (0, 1, 2))
    assert len({p.config.name for p in points}) == len(points) == 12


def test_names_say_number_method_values_order_and_seed() -> None:
    orders = ["origin", list(TASKS[::-1])]
    points = expand(_study(methods={"my way": {}}, vary={"training.max_steps": [1, 2]}, orders=orders, seeds=[0, 7]))
    assert [p.config.name for p in points] == [
        "0000-my-way-max_steps_1-origin-seed0",
        "0001-my-way-max_steps_1-origin-seed7",
        "0002-my-way-max_steps_1-order2-seed0",
        "0003-my-way-max_steps_1-order2-seed7",
        "0004-my-way-max_steps_2-origin-seed0",
        "0005-my-way-max_steps_2-origin-seed7",
        "0006-my-way-max_steps_2-order2-seed0",
        "0007-my-way-max_steps_2-order2-seed7",
    ]


def test_a_run_knows_its_varied_values() -> None:
    points = expand(_study(vary={"training.max_steps": [1, 2], "lora.r": [8]}))
    assert [dict(point.varied) for point in points] == [
        {"training.max_steps": 1, "lora.r": 8}, {"training.max_steps": 2, "lora.r": 8}
    ]  # fmt: skip
    assert [dict(point.varied) for point in expand(_study(seeds=[0, 1]))] == [{}, {}]


def test_a_long_name_is_cut_before_its_order_and_seed() -> None:
    [first, second] = expand(_study(methods={"m" * 90: {}}, orders=["reverse"], seeds=[0, 12]))
    assert first.config.name == "0000-" + "m" * 44 + "-reverse-seed0"
    assert second.config.name == "0001-" + "m" * 43 + "-reverse-seed12"
    assert len(first.config.name) == len(second.config.name) == 63


def test_a_method_changes_the_base_and_leaves_the_rest() -> None:
    plain, ours = expand(_study(methods=METHODS))
    assert isinstance(plain.config.strategy, SequentialConfig)
    assert isinstance(ours.config.strategy, CurvatureConfig)
    assert plain.config.training == ours.config.training


def test_a_varied_value_wins_over_the_method() -> None:
    values = {"strategy.kind": "paper", "strategy.fallback": 0.5}
    points = expand(_study(methods={"paper": values}, vary={"strategy.fallback": [0.6, 0.7]}))
    assert [p.config.strategy for p in points] == [PaperConfig(kind="paper", fallback=f) for f in (0.6, 0.7)]


def test_expanding_leaves_the_study_as_it_was() -> None:
    study = _study(methods=METHODS, vary={"training.max_steps": [1, 2]})
    before = study.model_dump_json()
    expand(study)
    assert study.model_dump_json() == before


def test_all_orders_are_the_permutations_of_the_benchmarks_tasks() -> None:
    study = _study(orders="all")
    assert [p.config.order for p in expand(study)] == list(permutations(TASKS))
    assert count(study) == 6


def test_all_orders_of_a_base_that_names_an_order_permute_that_one() -> None:
    points = expand(_study(base={**BASE, "order": ["GQA", "OCR-VQA"]}, orders="all"))
    assert [p.order for p in points] == [("GQA", "OCR-VQA"), ("OCR-VQA", "GQA")]


def test_orders_of_a_stream_of_stretches_are_those_of_its_tasks() -> None:
    cut = {**BASE, "benchmark": {**BASE["benchmark"], "stretches": 4}}  # type: ignore[dict-item]
    assert [p.order for p in expand(_study(base=cut, orders="all"))] == list(permutations(TASKS))
    assert next(p.order for p in expand(_study(base=cut, orders={"latin": 1}))) == TASKS
    assert len(expand(_study(base=cut, vary={"benchmark.stretches": [1, 4]}, orders=["reverse"]))) == 2


def test_given_orders_are_taken_as_they_stand() -> None:
    assert [p.config.order for p in expand(_study())] == [None]
    assert [p.config.order for p in expand(_study(orders=[list(TASKS[::-1])]))] == [TASKS[::-1]]


def test_orders_may_be_named_and_each_run_keeps_the_name() -> None:
    points = expand(_study(orders=["origin", "reverse", list(TASKS)]))
    assert [p.config.order for p in points] == ["origin", "reverse", TASKS]
    built = benchmarks.build(points[1].config.benchmark)
    assert built.order(points[1].config.order) == TASKS[::-1]


def test_all_orders_of_a_base_with_a_named_order_permute_that_one() -> None:
    points = expand(_study(base={**BASE, "order": "reverse"}, orders="all"))
    assert [p.order for p in points] == list(permutations(TASKS[::-1]))


def test_named_orders_are_compared_one_by_one_over_seeds() -> None:
    points = expand(_study(methods=METHODS, orders=["origin", "reverse"], seeds=[0, 1]))
    means = [10, 20, 30, 50, 60, 70, 80, 100]
    found = compare_orders(points, [_matrix((mean, mean)) for mean in means])
    assert {label: row["avg_acc"] and row["avg_acc"].mean for label, row in found.items()} == {
        "plain, origin": 15, "plain, reverse": 40, "ours, origin": 65, "ours, reverse": 90
    }  # fmt: skip


def test_the_order_is_a_random_factor_beside_the_seeds() -> None:
    points = expand(_study(orders=["origin", "reverse"], seeds=[0, 1, 2]))
    found = order_effects(points, [_matrix((mean, mean)) for mean in (10, 20, 30, 50, 50, 80)])
    # Means 20 and 60; variances 100 and 300 of two degrees of freedom each.
    [(label, effect)] = found.items()
    assert (label, effect.orders, effect.mean, effect.worst, effect.worst_mean) == ("lcia", 2, 40, "origin", 20)
    assert effect.between == pytest.approx(800**0.5)
    assert effect.within == pytest.approx(200**0.5)
    once = expand(_study(orders=[list(TASKS), list(TASKS[::-1])]))
    [alone] = order_effects(once, [_matrix((mean, mean)) for mean in (10, 20)]).values()
    assert (alone.within, alone.worst) == (None, " > ".join(TASKS))
    assert order_effects(points[:3], [_matrix((1, 1))] * 3) == {}


def test_orders_without_names_have_no_table_of_their_own() -> None:
    points = expand(_study(orders="all"))
    assert compare_orders(points, [_matrix((1, 1))] * len(points)) == {}


def test_all_orders_of_eight_tasks_are_40320_and_two_methods_on_them_too_many() -> None:
    assert count(_study(base={}, orders="all")) == 40_320
    with pytest.raises(InputError, match="80640 runs"):
        expand(_study(base={}, orders="all", methods=METHODS))


def test_a_value_that_fits_nowhere_names_study_run_and_method() -> None:
    with pytest.raises(InputError, match=r"study s, run 1 \(bad\)[\s\S]*max_stps: unknown key"):
        expand(_study(methods={"good": {}, "bad": {"training.max_stps": 3}}))


def _printed(table: Table) -> list[str]:
    """Its lines with text, without the frame."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    lines = (re.sub("[^\\w.± ()%-]", " ", line) for line in console.export_text().splitlines())
    return [line for line in lines if line.strip()]


def _matrix(last: tuple[float, float], first: float = 80.0) -> AccuracyMatrix:
    return AccuracyMatrix(("a", "b"), np.array([[first, np.nan], last]))


def test_a_table_takes_mean_and_deviation_over_the_runs_of_a_label() -> None:
    points = expand(_study(methods=METHODS, seeds=[0, 1]))
    matrices = [_matrix((60, 80)), _matrix((70, 90)), _matrix((80, 80)), _matrix((80, 84))]
    table = compare(points, matrices)
    assert list(table) == ["plain", "ours"]
    plain, ours = table["plain"]["avg_acc"], table["ours"]["avg_acc"]
    assert plain is not None
    assert ours is not None
    # Averages of the last rows: 70 and 80, deviation 10 / sqrt 2; 80 and 82, deviation sqrt 2.
    assert (plain.mean, plain.n) == (75, 2)
    assert plain.std == pytest.approx(50**0.5)
    assert ours.mean == 81
    assert ours.std == pytest.approx(2**0.5)
    forgotten = table["plain"]["forgetting"]
    assert forgotten is not None
    assert forgotten.mean == 15


def test_varied_values_make_labels_of_their_own() -> None:
    points = expand(_study(vary={"training.max_steps": [1, 2]}, seeds=[0, 1]))
    assert [p.label for p in points] == ["lcia, max_steps=1"] * 2 + ["lcia, max_steps=2"] * 2
    means = compare(points, [_matrix((x, x)) for x in (10, 20, 30, 50)])
    assert [s.mean for row in means.values() if (s := row["avg_acc"])] == [15, 40]


def test_a_metric_that_one_run_leaves_undefined_has_no_mean() -> None:
    points = expand(_study(seeds=[0, 1]))
    table = compare(points, [_matrix((60, 80)), _matrix((float("nan"), 80))])["lcia"]
    assert table["avg_acc"] is None
    assert table["fwt"] is None
    assert table["new_acc"] is not None


def test_each_task_is_followed_through_orders_from_its_own_place() -> None:
    points = expand(_study(orders=[["VQAv2", "GQA"], ["GQA", "VQAv2"]]))
    there = AccuracyMatrix(("VQAv2", "GQA"), np.array([[80, np.nan], [50, 70]]))
    back = AccuracyMatrix(("GQA", "VQAv2"), np.array([[90, np.nan], [20, 60]]))
    found = compare_tasks(points, [there, back])["lcia"]
    # Learnt first and second, VQAv2 has 80 and 60 when new, 50 and 60 at the end.
    vqa, gqa = found["VQAv2"], found["GQA"]
    assert (vqa.learnt and vqa.learnt.mean, vqa.final and vqa.final.mean) == (70, 55)
    assert (gqa.learnt and gqa.learnt.mean, gqa.final and gqa.final.mean) == (80, 45)
    [title, header, *rows] = _printed(tasks_table({"lcia": found}))
    assert "score of each task" in title
    assert header.split()[-2:] == ["VQAv2", "GQA"]
    assert next(row for row in rows if "at the end" in row).split()[-6:] == ["55.0", "±", "7.1", "45.0", "±", "35.4"]


def test_of_joint_training_there_is_only_the_end() -> None:
    points = expand(_study(seeds=[0, 1]))
    joint = AccuracyMatrix(("a", "b"), np.array([[np.nan, np.nan], [60, 70]]))
    found = compare_tasks(points, [joint, joint])["lcia"]
    assert [task.learnt for task in found.values()] == [None, None]
    assert [task.final and task.final.mean for task in found.values()] == [60, 70]


def _ended(*averages: float) -> list[AccuracyMatrix]:
    return [_matrix((average, average)) for average in averages]


def test_methods_are_compared_on_the_same_seeds() -> None:
    points = expand(_study(methods=METHODS, seeds=[0, 1]))
    matrices = [_matrix((60, 80)), _matrix((70, 90)), _matrix((80, 80)), _matrix((80, 84))]
    # Averages 70 and 80 against 80 and 82: differences 10 and 2.
    comparison = compare_pairs(points, matrices)["avg_acc"]["ours"]
    assert (comparison.difference, comparison.n) == (6, 2)
    assert comparison.t_p is not None


def test_pairs_are_found_by_order_and_seed_wherever_they_stand() -> None:
    points = expand(_study(methods=METHODS, orders=["origin", "reverse"], seeds=[0, 1]))
    runs = list(zip(points, _ended(10, 20, 30, 40, 15, 25, 35, 45), strict=True))
    mixed: list[tuple[Point, AccuracyMatrix]] = [*runs[:4], *reversed(runs[4:])]
    found = compare_pairs([p for p, _ in mixed], [m for _, m in mixed])["avg_acc"]["ours"]
    # Always 5: without a spread there is no test.
    assert (found.difference, found.n, found.t_p) == (5, 4, None)


def test_three_metrics_are_compared_each_with_its_own_correction() -> None:
    points = expand(_study(methods={**METHODS, "third": {}}, seeds=[0, 1, 2]))
    plain = [_matrix((60, 80), first=80), _matrix((70, 90), first=80), _matrix((50, 80), first=80)]
    ours = [_matrix((80, 80), first=81), _matrix((80, 84), first=84), _matrix((70, 81), first=80)]
    third = [_matrix((61, 80), first=82), _matrix((70, 94), first=80), _matrix((55, 80), first=80)]
    found = compare_pairs(points, [*plain, *ours, *third])
    assert list(found) == ["avg_acc", "new_acc", "forgetting"]
    for table in found.values():
        assert list(table) == ["ours", "third"]
        low, high = sorted((c.t_p, c.t_holm) for c in table.values() if c.t_p is not None and c.t_holm is not None)
        assert low[1] == pytest.approx(min(1.0, 2 * low[0]))
        assert high[1] == pytest.approx(max(low[1], high[0]))
    # (80 - 60 + 80 - 70 + 80 - 50) / 3 = 20 before; (1 + 4 + 10) / 3 = 5 after.
    assert found["forgetting"]["ours"].difference == pytest.approx(-15)


def test_any_method_may_be_the_reference() -> None:
    points = expand(_study(methods=METHODS, reference="ours", seeds=[0, 1]))
    assert reference_of(points) == "ours"
    found = compare_pairs(points, _ended(10, 20, 30, 50))["avg_acc"]
    assert {label: comparison.difference for label, comparison in found.items()} == {"plain": -25}


def test_without_a_name_the_first_method_is_the_reference() -> None:
    assert reference_of(expand(_study(methods=METHODS))) == "plain"


def test_of_a_varied_reference_the_first_values_are_taken() -> None:
    study = _study(methods=METHODS, reference="ours", vary={"training.max_steps": [1, 2]}, seeds=[0, 1])
    points = expand(study)
    assert reference_of(points) == "ours, max_steps=1"
    found = compare_pairs(points, _ended(1, 2, 3, 4, 10, 20, 30, 50))["avg_acc"]
    assert list(found) == ["plain, max_steps=1", "plain, max_steps=2", "ours, max_steps=2"]


def test_a_reference_that_is_no_method_is_named_with_the_methods() -> None:
    with pytest.raises(InputError, match=r"reference names theirs, which is not a method; there are plain, ours"):
        _study(methods=METHODS, reference="theirs")


def test_a_single_method_is_compared_with_nothing() -> None:
    assert compare_pairs(expand(_study(seeds=[0, 1])), [_matrix((60, 80)), _matrix((70, 90))]) == {}


def test_costs_are_gathered_per_label() -> None:
    points = expand(_study(methods=METHODS, seeds=[0, 1]))
    plain = [Cost(1.0, 0.0, 1, 2.0, 0.0), Cost(3.0, 0.0, 1, 2.0, 0.0)]
    found = compare_costs(points, [*plain, Cost(2.0, 5.0, 2, 4.0, 10.0), Cost(2.0, 6.0, 3, 6.0, 18.0)])
    means = {label: {name: value.mean for name, value in row.items()} for label, row in found.items()}
    assert means == {
        "plain": {"minutes": 2, "kept_mb": 0, "adapters": 1, "adapters_mb": 2, "all_kept_mb": 0},
        "ours": {"minutes": 2, "kept_mb": 5.5, "adapters": 2.5, "adapters_mb": 5, "all_kept_mb": 14},
    }


def test_a_study_that_names_nothing_is_one_run_of_the_default_method() -> None:
    study = StudyConfig(name="s")
    assert (study.methods, study.orders, study.seeds, study.max_concurrent_trials) == ({"lcia": {}}, "given", (0,), 4)
    assert count(study) == 1


def test_methods_that_share_no_seed_are_not_compared() -> None:
    points, nan = expand(_study(methods=METHODS, seeds=[0, 1])), float("nan")
    matrices = [_matrix((60, 80)), _matrix((nan, 90)), _matrix((nan, 80)), _matrix((80, 84))]
    # Of new_acc and forgetting, one pair is known on both sides where the average is not.
    assert "avg_acc" not in compare_pairs(points, matrices)


def test_any_key_of_a_study_file_is_overridden_by_its_dotted_name(tmp_path: Path) -> None:
    written = {"name": "s", "base": BASE, "methods": METHODS, "seeds": [0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    given = ["base.benchmark.seed=7", "base.benchmark.tasks.1=VQAv2", "seeds=[3, 4]"]
    points = expand(load(StudyConfig, tmp_path / "study.yaml", given))
    assert [(p.method, p.seed) for p in points] == [("plain", 3), ("plain", 4), ("ours", 3), ("ours", 4)]
    wanted = MiniCoinConfig(tasks=("GQA", "VQAv2", "OCR-VQA"), seed=7)
    assert [p.config.benchmark for p in points] == [wanted] * 4


@pytest.mark.usefixtures("capsys")  # not a terminal, wherever the tests run
def test_tables_are_cut_to_a_terminal_and_to_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert console().width == 90
    monkeypatch.delenv("COLUMNS")
    assert console().width == 160
