"""CoIN (docs/method.md 6): what is known of its eight tasks, and the benchmark in the files that its authors publish.

The authors' hub page gives CC BY 4.0 for the annotations; the images keep the licences of the data sets that they are
from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from lcia.addresses import below
from lcia.benchmarks.published import Layout, Published, chosen, specs
from lcia.config.benchmarks import COIN_ORDER, CoinConfig
from lcia.metrics.scoring import Pair, exact, exact_without_dot, legacy_exact, pair, soft_accuracy
from lcia.types import Benchmark, InstructionRule, InstructionType, Origin

ORIGIN = Origin("https://huggingface.co/datasets/Zacks-Chen/CoIN", "CC BY 4.0")
COCO = Origin("http://images.cocodataset.org/zips/ (train2014, val2014, test2015)", "terms of Flickr for each picture")
FOLDERS: Mapping[InstructionType, str] = {
    "origin": "Instructions",
    "diverse": "Instructions_Diverse",
    "10type": "Instructions_10Type",
}
"""Where the annotations of each instruction type lie in the scripts of the paper's authors."""


def _task(
    name: str,
    scorers: Pair,
    images: Origin,
    test: str = "test.json",
    instruction: InstructionRule = "last_line",
) -> Published:
    return Published(scorers, f"{name}/train.json", f"{name}/{test}", images, instruction)


# VizWiz and VQAv2 have ten answers for strict and are judged by one in legacy.
TASKS: Mapping[str, Published] = MappingProxyType(
    {
        "ScienceQA": _task(
            "ScienceQA", pair("multiple_choice"), Origin("https://scienceqa.github.io/", "CC BY-NC-SA 4.0")
        ),
        "TextVQA": _task(
            "TextVQA", pair("soft_accuracy"), Origin("https://textvqa.org/", "CC BY 4.0"), "val.json"
        ),
        "ImageNet": _task(
            "ImageNet", pair("contains"),
            Origin("https://image-net.org/challenges/LSVRC/", "terms of ImageNet: research only"),
            instruction="after_image",
        ),
        "GQA": _task(
            "GQA", (exact_without_dot, exact_without_dot),
            Origin("https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip", "CC BY 4.0"),
        ),
        "VizWiz": _task(
            "VizWiz", (soft_accuracy, legacy_exact),
            Origin("https://vizwiz.org/tasks-and-datasets/vqa/", "terms of VizWiz"), "val.json",
        ),
        "Grounding": _task("Grounding", pair("iou"), COCO, instruction="before_colon"),
        "VQAv2": _task("VQAv2", (soft_accuracy, legacy_exact), COCO, "val.json"),
        "OCR-VQA": _task("OCRVQA", (exact, exact), Origin("https://ocr-vqa.github.io/", "not stated there")),
    }
)  # fmt: skip


TRAIN_ROWS: Mapping[str, int] = MappingProxyType(
    {"ScienceQA": 12_726, "TextVQA": 34_602, "ImageNet": 129_833, "GQA": 72_140}
)
"""How many rows are published for training, where we know it."""


def orders(tasks: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The three orders of some of the tasks: CoIN's own, reversed, and by the alphabet."""
    origin = tuple(name for name in COIN_ORDER if name in tasks)
    return ("origin", origin), ("reverse", origin[::-1]), ("alphabet", tuple(sorted(origin, key=str.casefold)))


def benchmark(config: CoinConfig) -> Benchmark:
    """The chosen tasks in CoIN's files.

    Raises:
        InputError: a task that CoIN does not have.
    """
    facts = {name: _with_validation(task, config) for name, task in chosen("CoIN", TASKS, config.tasks).items()}
    folder = below(config.root, config.annotations)
    typed = f"{folder}/{FOLDERS[config.instructions]}" if config.instructions else folder
    layout = Layout(typed, below(config.root, ""), ORIGIN)
    return Benchmark("coin", specs(facts, layout, config.max_samples), orders(config.tasks))


def _with_validation(task: Published, config: CoinConfig) -> Published:
    folder = task.train.partition("/")[0]
    return replace(task, validation=f"{folder}/{config.validation}") if config.validation else task
