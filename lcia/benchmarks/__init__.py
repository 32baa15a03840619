"""Benchmarks: streams of tasks as values.

- `published`: what published benchmarks have in common
- `coin`: the facts of CoIN's tasks, and CoIN in its authors' files
- `minicoin`: the same tasks with generated rows
- `ucit`: UCIT's six tasks
- `mllm_cl`: MLLM-CL's five domains and four abilities
- `trace`: TRACE's eight text tasks
- `instrdialog`: the InstrDialog stream of CITB in files of Super-NaturalInstructions
- `custom`: streams named in a configuration
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from lcia.benchmarks import coin, custom, instrdialog, minicoin, mllm_cl, trace, ucit
from lcia.config.instrdialog import InstrDialogConfig
from lcia.config.run import (
    BenchmarkConfig,
    CoinConfig,
    CustomConfig,
    MiniCoinConfig,
    MllmClConfig,
    TraceConfig,
    UcitConfig,
)
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
        case UcitConfig():
            return ucit.benchmark(config)
        case MllmClConfig():
            return mllm_cl.benchmark(config)
        case TraceConfig():
            return trace.benchmark(config)
        case InstrDialogConfig():
            return instrdialog.benchmark(config)
        case CustomConfig():
            return custom.benchmark(config)
        case _:
            assert_never(config)
