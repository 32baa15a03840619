"""CoIN as its authors publish it: <task>/train.json and test.json or val.json, images below one root."""

from __future__ import annotations

from collections.abc import Mapping

from lcia.addresses import below
from lcia.benchmarks.minicoin import RULES, TESTED_ON_VAL
from lcia.config.run import COIN_ORDER, CoinConfig
from lcia.metrics.scoring import COIN
from lcia.types import Benchmark, FileSource, InputError, InstructionType, Split, TaskSpec

LICENCE = "CoIN's annotations are CC BY-NC-SA 4.0; the images keep the licences of the data sets they are from"
FOLDERS: Mapping[InstructionType, str] = {
    "origin": "Instructions",
    "diverse": "Instructions_Diverse",
    "10type": "Instructions_10Type",
}
"""Where the annotations of each instruction type lie in the scripts of the paper's authors."""


def benchmark(config: CoinConfig) -> Benchmark:
    """The chosen tasks in CoIN's origin order, reversed, and by the alphabet.

    Raises:
        InputError: a task that CoIN does not have.
    """
    if unknown := [name for name in config.tasks if name not in COIN_ORDER]:
        raise InputError(f"CoIN has no task {', '.join(unknown)}; it has {', '.join(COIN_ORDER)}")
    chosen = tuple(name for name in COIN_ORDER if name in config.tasks)
    orders = {"origin": chosen, "reverse": chosen[::-1], "alphabet": tuple(sorted(chosen, key=str.casefold))}
    return Benchmark("coin", tuple(_task(config, name) for name in config.tasks), tuple(orders.items()))


def _task(config: CoinConfig, name: str) -> TaskSpec:
    strict, legacy = COIN[name]
    return TaskSpec(
        name=name,
        train=_source(config, name, "train", "train.json"),
        test=_source(config, name, "test", "val.json" if name in TESTED_ON_VAL else "test.json"),
        validation=_source(config, name, "validation", config.validation) if config.validation else None,
        instruction=RULES.get(name, "last_line"),
        strict=strict,
        legacy=legacy,
        licence=LICENCE,
        max_samples=config.max_samples,
    )


def _source(config: CoinConfig, name: str, split: Split, file: str) -> FileSource:
    folder = below(config.root, config.annotations)
    typed = f"{folder}/{FOLDERS[config.instructions]}" if config.instructions else folder
    return FileSource(f"{typed}/{name}/{file}", "llava", split, below(config.root, ""))
