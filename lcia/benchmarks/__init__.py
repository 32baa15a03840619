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
from lcia.config.benchmarks import (
    BenchmarkConfig,
    CoinConfig,
    CustomConfig,
    MiniCoinConfig,
    MllmClConfig,
    TraceConfig,
    UcitConfig,
)
from lcia.config.instrdialog import InstrDialogConfig
from lcia.config.run import GeneralConfig
from lcia.types import Benchmark, InputError


def build(config: BenchmarkConfig, general: GeneralConfig | None = None) -> Benchmark:
    """The benchmark that a configuration names, cut into stretches where it asks for them, without the tasks that
    `general` holds out of the stream, which stand beside it; no file is opened yet.

    Raises:
        InputError: a task that the benchmark does not have, or none, or one twice.
    """
    whole = replace(_whole(config), stretches=config.stretches)
    return whole if general is None else _held_out(whole, general)


def _held_out(whole: Benchmark, general: GeneralConfig) -> Benchmark:
    other = whole if general.benchmark is None else _whole(general.benchmark)
    names = general.tasks or other.names
    if unknown := [name for name in names if name not in other.names]:
        raise InputError(
            f"evaluation.general names {', '.join(unknown)}, which {other.name} does not have; it has "
            f"{', '.join(other.names)}"
        )
    held = tuple(task for task in other.tasks if task.name in names)
    if other is not whole:
        if shared := [name for name in names if name in whole.names]:
            raise InputError(f"evaluation.general names {', '.join(shared)}, which the stream has too: rename one")
        return replace(whole, general=held)
    left = tuple(task for task in whole.tasks if task.name not in names)
    if not left:
        raise InputError("evaluation.general holds all tasks out: none is left to train on")
    orders = tuple((name, tuple(task for task in order if task not in names)) for name, order in whole.orders)
    return replace(whole, tasks=left, orders=orders, general=held)


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
