"""What published benchmarks have in common: tasks in files of a known layout, from known places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lcia.addresses import below
from lcia.metrics.scoring import Pair
from lcia.types import FileSource, Format, InputError, InstructionRule, Origin, Split, TaskSpec


@dataclass(frozen=True, slots=True)
class Published:
    """Facts of one task. `train`, `test`, `validation`, `captions`: files seen from the folder of annotations;
    `train_images`, `test_images`: the folders that image names start from, seen from that of images."""

    scorers: Pair
    train: str
    test: str
    images: Origin | None = None
    instruction: InstructionRule = "last_line"
    validation: str = ""
    train_images: str = ""
    test_images: str = ""
    captions: str = ""
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a benchmark's files lie: two folders, their format, and where the annotations come from."""

    annotations: str
    images: str
    origin: Origin
    format: Format = "llava"


def chosen(name: str, facts: Mapping[str, Published], tasks: Sequence[str]) -> dict[str, Published]:
    """The facts of these tasks.

    Raises:
        InputError: the benchmark does not have one of them.
    """
    if unknown := [task for task in tasks if task not in facts]:
        raise InputError(f"{name} has no task {', '.join(unknown)}; it has {', '.join(facts)}")
    return {task: facts[task] for task in tasks}


def specs(facts: Mapping[str, Published], layout: Layout, max_samples: int | None) -> tuple[TaskSpec, ...]:
    """The tasks in this order; no file is opened yet."""
    return tuple(_spec(name, task, layout, max_samples) for name, task in facts.items())


def _spec(name: str, task: Published, layout: Layout, max_samples: int | None) -> TaskSpec:
    strict, legacy = task.scorers
    return TaskSpec(
        name=name,
        train=_source(task, layout, "train", task.train),
        test=_source(task, layout, "test", task.test),
        validation=_source(task, layout, "validation", task.validation) if task.validation else None,
        instruction=task.instruction,
        strict=strict,
        legacy=legacy,
        max_samples=max_samples,
        annotations=layout.origin,
        images=task.images,
    )


def _source(task: Published, layout: Layout, split: Split, file: str) -> FileSource:
    images = task.train_images if split == "train" else task.test_images
    captions = below(layout.annotations, task.captions) if task.captions and split == "test" else ""
    return FileSource(
        below(layout.annotations, file), layout.format, split, below(below(layout.images, ""), images),
        numbered=task.numbered, captions=captions,
    )  # fmt: skip
