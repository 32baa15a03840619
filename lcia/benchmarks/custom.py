"""Anyone's stream of tasks, named in the configuration."""

from __future__ import annotations

from dataclasses import replace

from lcia.addresses import below
from lcia.config.benchmarks import CustomConfig, CustomTask
from lcia.metrics.scoring import pair
from lcia.types import Benchmark, FileSource, Share, Split, TaskSpec


def benchmark(config: CustomConfig) -> Benchmark:
    """The tasks in the order in which they are named."""
    return Benchmark(
        config.name,
        tuple(_task(config, task) for task in config.tasks),
        (("given", tuple(task.name for task in config.tasks)),),
    )


def _task(config: CustomConfig, task: CustomTask) -> TaskSpec:
    strict, legacy = pair(task.scorer)
    train, validation = _learning(config, task)
    return TaskSpec(
        name=task.name,
        train=train,
        test=_source(config.root, task, "test", task.test),
        validation=validation,
        instruction=task.instruction,
        strict=strict,
        legacy=legacy,
        max_samples=task.max_samples,
    )


def _learning(config: CustomConfig, task: CustomTask) -> tuple[FileSource | None, FileSource | None]:
    """What is trained on and what is held out: a file of its own, else the share drawn from the training file."""
    if task.train is None:
        return None, _source(config.root, task, "validation", task.validation) if task.validation else None
    train = _source(config.root, task, "train", task.train)
    if task.validation:
        return train, _source(config.root, task, "validation", task.validation)
    if config.validation_share is None:
        return train, None
    rest, drawn = (Share(config.validation_share, config.seed, held_out) for held_out in (False, True))
    return replace(train, share=rest), replace(train, split="validation", share=drawn)


def _source(root: str, task: CustomTask, split: Split, path: str) -> FileSource:
    """Without any root, images lie beside their rows."""
    image_root = below(root, task.image_root) if root or task.image_root else ""
    return FileSource(below(root, path), task.format, split, image_root)
