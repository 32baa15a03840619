"""What is looked at beside the stream: a task that is never trained, and a command on every adapter."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lcia import benchmarks
from lcia.config.benchmarks import MiniCoinConfig
from lcia.config.load import parse
from lcia.config.run import GeneralConfig, RunConfig
from lcia.evaluation.external import CommandFailedError
from lcia.local import LocalExecutor
from lcia.metrics import companion
from lcia.plan import ZERO_SHOT
from lcia.report.run_folder import Session, write
from lcia.run import Outcome, prepare, read_outcomes, run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.stages.evaluate import Answerer
from pipelines.stages.work import RowRange
from pipelines.terminal.tables import plan_rows

JUDGE = str(Path(__file__).parents[1] / "programs" / "judge.py")
TASKS = ["GQA", "Grounding", "OCR-VQA"]
BASE: dict[str, Any] = {
    "benchmark": {"kind": "minicoin", "tasks": TASKS, "train_size": 16, "test_size": 4},
    "training": {"max_steps": 2},
}


def judged(log: Path | str) -> dict[str, Any]:
    command = [sys.executable, JUDGE, "{output}", str(log)]
    return {"command": [*command, "{adapter}"], "untuned": command, "metrics": ["results/pope/accuracy,none"]}


def config(name: str = "run", **evaluation: Any) -> RunConfig:
    return parse(RunConfig, {**BASE, "name": name, "evaluation": evaluation}, name)


@dataclass(frozen=True)
class Ran:
    outcome: Outcome
    store: Store
    log: Path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("general")
    store, log = Store(str(folder / "store")), folder / "log"
    chosen = config(general={"tasks": ["OCR-VQA"]}, external=judged(log))
    [outcome] = run([chosen], LocalExecutor(store, TrainOptions(), eval_batch_size=4))
    return Ran(outcome, store, log)


def test_a_general_task_leaves_the_stream_and_is_asked_before_and_after_every_task(ran: Ran) -> None:
    plan = ran.outcome.prepared.plan
    assert plan.order == ran.outcome.matrix.tasks == ("GQA", "Grounding")
    assert {task for stage in plan.trains for task in stage.tasks} == {"GQA", "Grounding"}
    assert [(cell.row, cell.column, cell.stage.task) for cell in plan.general_cells] == [
        (row, 0, "OCR-VQA") for row in (ZERO_SHOT, 0, 1)
    ]
    assert plan.general_cells[0].stage.adapters == ()


def test_the_table_beside_the_matrix_holds_their_scores_and_what_the_command_said(ran: Ran) -> None:
    table = ran.outcome.beside
    assert table is not None
    assert (table.tasks, table.external) == (("OCR-VQA",), ("results/pope/accuracy,none",))
    assert table.after == ("(zero-shot)", "GQA", "Grounding")
    cells = ran.outcome.prepared.plan.general_cells
    expected = [ran.outcome.answers[cell.stage.key].percent["strict"] for cell in cells]
    assert table.values[:, 0].tolist() == expected
    # The stand-in says 1/4 and a sixteenth for every rank; the adapters have rank 8.
    assert table.values[:, 1].tolist() == [0.25, 0.75, 0.75]
    assert table.changes()["results/pope/accuracy,none"] == 0.5


def test_each_adapter_is_judged_once_however_often_the_run_is_started(ran: Ran) -> None:
    assert ran.log.read_text().split() == ["base", "adapter", "adapter"]
    [again] = run([ran.outcome.config], LocalExecutor(ran.store, TrainOptions()))
    assert ran.log.read_text().split() == ["base", "adapter", "adapter"]
    assert again.beside is not None
    np.testing.assert_array_equal(again.beside.values, ran.outcome.beside.values)  # type: ignore[union-attr]


def test_trainings_and_answers_are_those_of_the_stream_without_it(ran: Ran) -> None:
    plain = parse(RunConfig, {**BASE, "benchmark": {**BASE["benchmark"], "tasks": TASKS[:2]}}, "plain")
    [prepared] = prepare([plain], LocalExecutor(ran.store, TrainOptions()))
    asked = ran.outcome.prepared.plan
    assert [stage.key for stage in prepared.plan.trains] == [stage.key for stage in asked.trains]
    assert [cell.stage.key for cell in prepared.plan.cells] == [cell.stage.key for cell in asked.cells]


def test_its_instructions_are_routed_like_any_others(ran: Ran) -> None:
    prepared = ran.outcome.prepared
    [route] = [route for route in prepared.plan.routes_after(1) if route.task == "OCR-VQA"]
    # It asks as GQA does, and Grounding does not.
    assert route.group == 0
    assert prepared.plan.general_cells[-1].stage.adapters == (prepared.plan.trains[0].key,)


def test_the_run_folder_tells_it_all(ran: Ran, tmp_path: Path) -> None:
    write([ran.outcome], Session("general", 1.0, {}), ran.store, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())["runs"]["run"]
    table = companion.from_json(summary["general"])
    np.testing.assert_array_equal(table.values, ran.outcome.beside.values)  # type: ignore[union-attr]
    page = (tmp_path / "report.html").read_text()
    assert "General ability" in page
    assert "results/pope/accuracy,none" in page
    assert (tmp_path / "figures" / "general-run.png").exists()
    answers = pq.read_table(tmp_path / "predictions" / "2-Grounding" / "OCR-VQA.parquet")
    assert set(answers["group"].to_pylist()) == {"g0"}


def test_the_plan_lists_what_is_asked_beside_the_stream(ran: Ran) -> None:
    rows = plan_rows(ran.outcome.prepared.plan, ran.store.has)
    labels = [row["label"] for row in rows if row["kind"] == "external" or "general" in row["label"]]
    assert labels == [
        "OCR-VQA (general) untuned base", "OCR-VQA (general) after GQA",
        "command untuned base", "command after GQA", "command after Grounding",
    ]  # fmt: skip
    assert {row["state"] for row in rows} == {"cached"}


def test_a_command_that_fails_names_what_it_said_and_loses_nothing(ran: Ran) -> None:
    chosen = config("failing", general={"tasks": ["OCR-VQA"]}, external=judged("fail"))
    executor = LocalExecutor(ran.store, TrainOptions())
    with pytest.raises(CommandFailedError, match="no such benchmark: POPE"):
        run([chosen], executor)
    [prepared] = prepare([chosen], executor)
    assert all(ran.store.has(stage.key) for stage in (*prepared.plan.trains, *prepared.plan.evals))
    assert not any(ran.store.has(each.stage.key) for each in prepared.plan.judged)


def test_at_the_end_only_the_last_adapter_is_judged(ran: Ran, tmp_path: Path) -> None:
    chosen = config(external={**judged(tmp_path / "log"), "untuned": [], "every": "end"})
    [prepared] = prepare([chosen], LocalExecutor(ran.store, TrainOptions()))
    assert [(each.row, each.stage.task) for each in prepared.plan.judged] == [(2, "OCR-VQA")]


def test_an_evaluation_actor_runs_the_command_and_publishes_its_figures(ran: Ran, tmp_path: Path) -> None:
    chosen = config(general={"tasks": ["OCR-VQA"]}, external=judged(tmp_path / "log"))
    [prepared] = prepare([chosen], LocalExecutor(ran.store, TrainOptions()))
    actor = Answerer(LaunchConfig(storage=str(Path(ran.store.root).parent)))
    for each in prepared.plan.judged:
        assert actor.answer(RowRange(each.stage, 1, 0, 1)) == ([], 0.0)
    [outcome] = read_outcomes([prepared], ran.store)
    assert outcome.beside is not None
    assert outcome.beside.values[:, 1].tolist() == [0.25, 0.75, 0.75]


@pytest.mark.parametrize(("protocol", "rows"), [("multitask", [ZERO_SHOT, 1]), ("zero_shot", [1])])
def test_without_a_stream_it_is_asked_before_and_at_the_end(ran: Ran, protocol: str, rows: list[int]) -> None:
    values = {**BASE, "protocol": protocol, "evaluation": {"general": {"tasks": ["OCR-VQA"]}}}
    [prepared] = prepare([parse(RunConfig, values, "joint")], LocalExecutor(ran.store, TrainOptions()))
    assert [cell.row for cell in prepared.plan.general_cells] == rows


# Which tasks --------------------------------------------------------------------------------------------------------


def test_named_orders_go_on_without_the_tasks_that_are_held_out() -> None:
    tasks = ("ScienceQA", "OCR-VQA", "GQA", "Grounding")
    benchmark = benchmarks.build(MiniCoinConfig(tasks=tasks), GeneralConfig(tasks=("OCR-VQA",)))
    assert benchmark.order(None) == ("ScienceQA", "GQA", "Grounding")
    assert benchmark.order("reverse") == ("Grounding", "GQA", "ScienceQA")
    assert benchmark.order("alphabet") == ("GQA", "Grounding", "ScienceQA")
    assert benchmark.order(["Grounding"]) == ("Grounding",)


def test_a_general_task_may_be_of_a_benchmark_of_its_own() -> None:
    other = {"kind": "custom", "tasks": [{"name": "POPE", "test": "/pope/test.json"}]}
    general = GeneralConfig(benchmark=other)  # type: ignore[arg-type]
    benchmark = benchmarks.build(MiniCoinConfig(tasks=("GQA",), stretches=2), general)
    assert benchmark.order(None) == ("GQA.1", "GQA.2")
    assert [task.name for task in benchmark.general] == ["POPE"]
    assert benchmark["POPE"].train is None


@pytest.mark.parametrize(
    ("general", "order", "told"),
    [
        ({"tasks": ["COCO"]}, None, "names COCO, which minicoin does not have"),
        ({"tasks": TASKS}, None, "none is left to train on"),
        ({"tasks": ["GQA"]}, ["GQA"], "order names GQA, which evaluation.general says is never trained"),
        ({"benchmark": {"kind": "minicoin", "tasks": ["GQA"]}}, None, "GQA, which the stream has too"),
    ],
)
def test_what_cannot_be_held_out_is_refused(general: dict[str, Any], order: Any, told: str) -> None:
    chosen = parse(RunConfig, {**BASE, "order": order, "evaluation": {"general": general}}, "run")
    with pytest.raises(InputError, match=told):
        benchmarks.build(chosen.benchmark, chosen.evaluation.general).order(chosen.order)


def test_nothing_named_is_refused() -> None:
    with pytest.raises(InputError, match="name tasks of the run's benchmark, or give a benchmark"):
        parse(RunConfig, {"evaluation": {"general": {}}}, "run")


def test_a_task_without_training_rows_cannot_be_trained(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text('[{"text": "What?", "answer": "this"}]')
    tasks = [{"name": "POPE", "test": str(tmp_path / "test.json")}]
    chosen = parse(RunConfig, {"benchmark": {"kind": "custom", "tasks": tasks}}, "run")
    with pytest.raises(InputError, match="task POPE has no train data"):
        prepare([chosen], LocalExecutor(Store(str(tmp_path / "store")), TrainOptions()))


def test_runs_without_it_are_written_as_before() -> None:
    evaluation = RunConfig().model_dump(mode="json", by_alias=True)["evaluation"]
    assert "general" not in evaluation
    assert "external" not in evaluation
