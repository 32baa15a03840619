"""Anyone's stream of tasks, named in the configuration."""

from __future__ import annotations

from lcia.config import CustomConfig, CustomTask
from lcia.files import below
from lcia.scoring import pair
from lcia.types import Benchmark, FileSource, InputError, Split, TaskSpec


def benchmark(config: CustomConfig) -> Benchmark:
    """The tasks in the order in which they are named.

    Raises:
        InputError: there is no task, or two share a name.
    """
    names = [task.name for task in config.tasks]
    if not names:
        raise InputError("benchmark.tasks is empty: name at least one task")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"benchmark.tasks names {', '.join(repeated)} more than once")
    return Benchmark(config.name, tuple(_task(config.root, task) for task in config.tasks), (("given", tuple(names)),))


def _task(root: str, task: CustomTask) -> TaskSpec:
    strict, legacy = pair(task.scorer)
    return TaskSpec(
        name=task.name,
        train=_source(root, task, "train", task.train),
        test=_source(root, task, "test", task.test),
        validation=_source(root, task, "validation", task.validation) if task.validation else None,
        instruction=task.instruction,
        strict=strict,
        legacy=legacy,
        licence=task.licence,
        max_samples=task.max_samples,
    )


def _source(root: str, task: CustomTask, split: Split, path: str) -> FileSource:
    """Without any root, images lie beside their rows."""
    image_root = below(root, task.image_root) if root or task.image_root else ""
    return FileSource(below(root, path), task.format, split, image_root)
