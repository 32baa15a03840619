"""The InstrDialog stream: its published orders, and the real files where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia import benchmarks
from lcia.config.instrdialog import INSTRDIALOG_TASKS, InstrDialogConfig
from lcia.data.sources import Reading, samples
from lcia.types import InstancesSource, Split


def build(root: str, **given: object) -> benchmarks.Benchmark:
    return benchmarks.build(InstrDialogConfig.model_validate({"kind": "instrdialog", "root": root, **given}))


def there(folder: Path) -> tuple[str, ...]:
    return tuple(name for name in INSTRDIALOG_TASKS if (folder / f"{name}.json").is_file())


def test_the_stream_has_its_19_tasks_in_three_orders() -> None:
    stream = build("/tasks")
    assert len(stream.names) == 19
    assert [name for name, _ in stream.orders] == ["order1", "order2", "order3"]
    assert {tuple(sorted(order)) for _, order in stream.orders} == {tuple(sorted(INSTRDIALOG_TASKS))}
    assert len({order for _, order in stream.orders}) == 3


def test_the_orders_are_those_that_were_published(shared_data: Path) -> None:
    orders = dict(build("/tasks").orders)
    for name, order in orders.items():
        assert order == tuple((shared_data / "instrdialog" / f"{name}.txt").read_text().split())


def test_the_orders_are_cut_to_the_chosen_tasks_and_other_tasks_have_none() -> None:
    few = (INSTRDIALOG_TASKS[3], INSTRDIALOG_TASKS[1])
    assert build("/tasks", tasks=few).order("order1") == (INSTRDIALOG_TASKS[1], INSTRDIALOG_TASKS[3])
    assert build("/tasks", tasks=few).order(None) == few
    assert build("/tasks", tasks=(*few, "task001_quoref_question_generation")).orders == ()


def test_a_task_is_read_from_its_file_and_scored_by_rouge_l() -> None:
    task = build("/tasks", tasks=("task1_sums",), test_size=7, examples=1, seed=None)["task1_sums"]
    assert task.test == InstancesSource("/tasks/task1_sums.json", "test", (7, 50, 500), None, 1)
    assert task.strict("a cat sat", ["the cat sat down"]) == task.legacy("a cat sat", ["the cat sat down"])
    assert task.strict("a cat sat", ["a cat sat", "no"]) == 1


def test_every_real_file_gives_the_rows_that_are_asked_for(shared_data: Path) -> None:
    folder = shared_data / "instrdialog" / "tasks"
    stream = build(str(folder), tasks=there(folder), train_size=40, validation_size=5, test_size=10)
    assert len(stream.tasks) == 13
    sizes: dict[Split, int] = {"train": 40, "validation": 5, "test": 10}
    for task in stream.tasks:
        found = set[str]()
        for split, size in sizes.items():
            source = task.sources[split]
            assert source is not None
            rows = list(samples(Reading.of(source, task.instruction, None, 1)))
            assert len(rows) == size
            assert {row.instruction for row in rows} == {rows[0].instruction}
            assert rows[0].messages[0].content.startswith(f"Definition: {rows[0].instruction}\n\nPositive Example 1 -")
            found.update(row.id for row in rows)
        assert len(found) == 55


@pytest.mark.parametrize("key", ["train_size", "validation_size", "test_size"])
def test_every_split_asks_for_a_row_at_least(key: str) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        build("/tasks", **{key: 0})
