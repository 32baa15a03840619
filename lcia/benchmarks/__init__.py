"""Benchmarks: streams of tasks as values.

- `coin`: the facts of CoIN's tasks, and CoIN in its authors' files
- `minicoin`: the same tasks with generated rows
- `instrdialog`: the InstrDialog stream of CITB in files of Super-NaturalInstructions
- `custom`: streams named in a configuration
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from lcia.benchmarks import coin, custom, instrdialog, minicoin
from lcia.config.instrdialog import InstrDialogConfig
from lcia.config.run import BenchmarkConfig, CoinConfig, CustomConfig, MiniCoinConfig
from lcia.types import Benchmark


def build(config: BenchmarkConfig) -> Benchmark:
    """The benchmark that a configuration names, cut into stretches where it asks for them; no file is opened yet.

    Raises:
        InputError: a task that the benchmark does not have, or none, or one twice.
    """
    return replace(_whole(config), stretches=config.stretches)


def _whole(config: BenchmarkConfig) -> Benchmark:
    match config:
        case MiniCoinConfig():
            return minicoin.benchmark(config)
        case CoinConfig():
            return coin.benchmark(config)
        case InstrDialogConfig():
            return instrdialog.benchmark(config)
        case CustomConfig():
            return custom.benchmark(config)
        case _:
            assert_never(config)
