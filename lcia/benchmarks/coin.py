"""CoIN (docs/method.md 6): what is known of its eight tasks, and the benchmark in the files that its authors publish.

CoIN's annotations are CC BY-NC-SA 4.0; the images keep the licences of the data sets that they are from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lcia.addresses import below
from lcia.config.run import COIN_ORDER, CoinConfig
from lcia.metrics.scoring import exact, exact_without_dot, legacy_exact, pair, soft_accuracy
from lcia.types import Benchmark, FileSource, InputError, InstructionRule, InstructionType, Scorer, Split, TaskSpec


@dataclass(frozen=True, slots=True)
class CoinTask:
    """Facts of one task: its scorers, which text is its instruction, the file of its test rows, and how many rows are
    published for training; None: not known to us."""

    strict: Scorer
    legacy: Scorer
    instruction: InstructionRule = "last_line"
    test_file: str = "test.json"
    train_rows: int | None = None


# VizWiz and VQAv2 have ten answers for strict and are judged by one in legacy.
TASKS: Mapping[str, CoinTask] = MappingProxyType(
    {
        "ScienceQA": CoinTask(*pair("multiple_choice"), train_rows=12_726),
        "TextVQA": CoinTask(*pair("soft_accuracy"), test_file="val.json", train_rows=34_602),
        "ImageNet": CoinTask(*pair("contains"), instruction="after_image", train_rows=129_833),
        "GQA": CoinTask(exact_without_dot, exact_without_dot, train_rows=72_140),
        "VizWiz": CoinTask(soft_accuracy, legacy_exact, test_file="val.json"),
        "Grounding": CoinTask(*pair("iou"), instruction="before_colon"),
        "VQAv2": CoinTask(soft_accuracy, legacy_exact, test_file="val.json"),
        "OCR-VQA": CoinTask(exact, exact),
    }
)
FOLDERS: Mapping[InstructionType, str] = {
    "origin": "Instructions",
    "diverse": "Instructions_Diverse",
    "10type": "Instructions_10Type",
}
"""Where the annotations of each instruction type lie in the scripts of the paper's authors."""


def orders(tasks: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The three orders of some of the tasks: CoIN's own, reversed, and by the alphabet."""
    origin = tuple(name for name in COIN_ORDER if name in tasks)
    return ("origin", origin), ("reverse", origin[::-1]), ("alphabet", tuple(sorted(origin, key=str.casefold)))


def benchmark(config: CoinConfig) -> Benchmark:
    """The chosen tasks in CoIN's files.

    Raises:
        InputError: a task that CoIN does not have.
    """
    if unknown := [name for name in config.tasks if name not in TASKS]:
        raise InputError(f"CoIN has no task {', '.join(unknown)}; it has {', '.join(COIN_ORDER)}")
    return Benchmark("coin", tuple(_task(config, name) for name in config.tasks), orders(config.tasks))


def _task(config: CoinConfig, name: str) -> TaskSpec:
    facts = TASKS[name]
    return TaskSpec(
        name=name,
        train=_source(config, name, "train", "train.json"),
        test=_source(config, name, "test", facts.test_file),
        validation=_source(config, name, "validation", config.validation) if config.validation else None,
        instruction=facts.instruction,
        strict=facts.strict,
        legacy=facts.legacy,
        max_samples=config.max_samples,
    )


def _source(config: CoinConfig, name: str, split: Split, file: str) -> FileSource:
    folder = below(config.root, config.annotations)
    typed = f"{folder}/{FOLDERS[config.instructions]}" if config.instructions else folder
    return FileSource(f"{typed}/{name}/{file}", "llava", split, below(config.root, ""))
