"""MiniCoIN: CoIN's eight tasks with generated rows (lcia.data.minicoin).

ImageNet's digits are scikit-learn's copy of the UCI digits (Alpaydin, Kaynak; CC BY 4.0); all else is drawn.
"""

from __future__ import annotations

from lcia.benchmarks.coin import TASKS, orders
from lcia.config.benchmarks import COIN_ORDER, MiniCoinConfig
from lcia.types import Benchmark, GeneratedSource, InputError, Split, TaskSpec


def benchmark(config: MiniCoinConfig) -> Benchmark:
    """The chosen tasks and CoIN's three orders of them.

    Raises:
        InputError: a task that MiniCoIN does not have.
    """
    return Benchmark("minicoin", tuple(_task(config, name) for name in config.tasks), orders(config.tasks))


def _task(config: MiniCoinConfig, name: str) -> TaskSpec:
    check_task(name)
    facts = TASKS[name]
    sizes: tuple[tuple[Split, int], ...] = (
        ("train", config.train_size),
        ("validation", config.validation_size),
        ("test", config.test_size),
    )
    train, validation, test = (
        GeneratedSource(name, split, rows, config.seed, config.instructions) for split, rows in sizes
    )
    strict, legacy = facts.scorers
    return TaskSpec(name, train, test, validation, facts.instruction, strict, legacy)


def check_task(task: str) -> None:
    """Raises InputError for a task that MiniCoIN does not have."""
    if task not in TASKS:
        raise InputError(f"MiniCoIN has no task {task!r}; it has {', '.join(COIN_ORDER)}")
