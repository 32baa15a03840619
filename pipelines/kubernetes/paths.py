"""Paths of a run that is sent to other machines: rewritten to where the pods find them, or refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from lcia import benchmarks
from lcia.addresses import is_anchored, is_url
from lcia.config.assistants import TinyConfig
from lcia.config.benchmarks import CustomConfig
from lcia.config.grouping import ClipConfig, TextConfig
from lcia.config.run import RunConfig
from lcia.run import rows_of
from lcia.types import FileSource, InputError, InstancesSource
from pipelines.cluster import CLAIM_PATH, ClusterConfig
from pipelines.kubernetes.submission import Submission

LOCAL_CLIP = "local-dir:"
HOW = "docs/kubernetes.md shows how data gets onto a volume"


def on_the_pods(job: Submission, cluster: ClusterConfig) -> Submission:
    """The submission with its paths as the pods have them, by `cluster.data`.

    Raises:
        InputError: a path lies on no volume of the pods.
    """
    if cluster.data:
        moved = type(job.chosen).model_validate(_moved(job.chosen.model_dump(mode="json", by_alias=True), cluster.data))
        job = job if moved == job.chosen else Submission.of(moved)
    volumes = [CLAIM_PATH, *(volume.path for volume in cluster.volumes)]
    for what, path in _local_paths(job.configs):
        if not any(_lies_in(path, volume) for volume in volumes):
            raise InputError(
                f"{what}: the pods have no {path}; they mount {', '.join(volumes)}. Copy it there ({HOW}), and give "
                "its place there in the run, or let the launch file rewrite full paths: "
                f"cluster.data: {{{os.path.dirname(path.rstrip('/'))}: {CLAIM_PATH}/data}}"
            )
    return job


def check_full_paths(configs: Sequence[RunConfig]) -> None:
    """Refuses paths that depend on the working folder of this machine: a job on a Ray head has another.

    Raises:
        InputError: a run names one.
    """
    for what, path in dict.fromkeys(named for config in configs for named in _named_folders(config)):
        if not is_anchored(path):
            raise InputError(f"{what} {path!r} is relative, and the job runs elsewhere: give a full path or a URL")


def _local_paths(configs: Sequence[RunConfig]) -> Iterator[tuple[str, str]]:
    """(what it is, path) of the files and folders outside the package that runs read on the machine they run on."""
    built = cache(benchmarks.build)
    wanted = dict.fromkeys(
        (config.benchmark, config.evaluation.general, task, split)
        for config in configs
        for task, split in rows_of(config, built(config.benchmark, config.evaluation.general))
    )
    for benchmark, general, task, split in wanted:
        match built(benchmark, general)[task].sources[split]:
            case FileSource(path=path, image_root=images):
                yield from _not_urls(f"task {task}, {split}", path, images)
            case InstancesSource(path=path):
                yield from _not_urls(f"task {task}, {split}", path)
    for what, path in dict.fromkeys(model for config in configs for model in _models(config)):
        yield what, os.path.abspath(path)


def _not_urls(what: str, *places: str) -> Iterator[tuple[str, str]]:
    yield from ((what, place) for place in places if place and not is_url(place))


def _named_folders(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Folders and files as the run itself names them; what is seen from a root follows from that."""
    general = config.evaluation.general
    for what, benchmark in (
        ("benchmark", config.benchmark), ("evaluation.general.benchmark", general.benchmark if general else None)
    ):  # fmt: skip
        if root := getattr(benchmark, "root", ""):
            yield f"{what}.root", root
        elif isinstance(benchmark, CustomConfig):
            yield from ((f"task {task.name}", task.train or task.test) for task in benchmark.tasks)
    yield from _models(config)


def _models(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Folders and files of models; hub ids and names are not among them."""
    if not isinstance(config.assistant, TinyConfig) and _is_local(config.assistant.model):
        yield "assistant.model", config.assistant.model
    embedder = config.grouping.embedder if config.groups else None
    if isinstance(embedder, TextConfig) and _is_local(embedder.model):
        yield "grouping.embedder.model", embedder.model
    if isinstance(embedder, ClipConfig):
        if embedder.model.startswith(LOCAL_CLIP):
            yield "grouping.embedder.model", embedder.model.removeprefix(LOCAL_CLIP)
        if os.path.isabs(embedder.pretrained):
            yield "grouping.embedder.pretrained", embedder.pretrained


def _is_local(model: str) -> bool:
    return os.path.isabs(model) or model.startswith((".", "~")) or os.path.isdir(model)


def _moved(value: Any, data: Mapping[str, str]) -> Any:
    """Plain nested values with every text that lies in a key of `data` moved to its value; the longest key counts."""
    if isinstance(value, Mapping):
        return {key: _moved(inner, data) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(inner, data) for inner in value]
    if isinstance(value, str):
        start = LOCAL_CLIP if value.startswith(LOCAL_CLIP) else ""
        path = value.removeprefix(start)
        for here in sorted(data, key=len, reverse=True):
            if _lies_in(path, here):
                return start + data[here] + path[len(here) :]
    return value


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
