"""What can be known to fail before Ray starts: each check says what is wrong and what to do, in well under a second."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from lcia import benchmarks
from lcia.addresses import is_url
from lcia.config.grouping import ClipConfig, EmbedderConfig, TextConfig, TfidfConfig
from lcia.config.run import RunConfig
from lcia.models.preflight import check_base, model_folder
from lcia.run import rows_of
from lcia.secrets import redacted
from lcia.types import FileSource, InputError, InstancesSource
from pipelines.devices import gpus_here
from pipelines.launch import LaunchConfig
from pipelines.placement import Machine, unplaced

LOCAL_CLIP = "local-dir:"
SQLITE = "sqlite:///"


def check_run(configs: Sequence[RunConfig], launch: LaunchConfig) -> None:
    """Everything that a run on this machine needs; raises InputError for the first thing that is missing."""
    check_plan(configs, launch)
    if complaint := gpu_complaint(configs, launch):
        raise InputError(complaint)


def check_plan(configs: Sequence[RunConfig], launch: LaunchConfig) -> None:
    """The same without the devices: a plan may be made on another machine than the run."""
    check_words(configs, launch)
    check_data(configs)
    for assistant, lora in {(config.assistant, config.lora) for config in configs}:
        check_base(assistant, lora)
    for embedder in {config.grouping.embedder for config in configs if config.groups}:
        check_embedder(embedder)
    check_tracking(launch)
    check_storage(launch.root)


def check_words(configs: Iterable[RunConfig], launch: LaunchConfig) -> None:
    """Orders that name tasks which are not there, and batches that cannot be split."""
    built = cache(benchmarks.build)
    for config in configs:
        benchmark = built(config.benchmark, config.evaluation.general)
        benchmark.order(config.order)
        tasks = benchmark.order(None)
        if unknown := sorted(config.training.task_batch_sizes.keys() - set(tasks)):
            raise InputError(f"training.task_batch_sizes names {', '.join(unknown)}; there are {', '.join(tasks)}")
        for size in config.training.batch_sizes:
            launch.check_batch(size)


# Files ------------------------------------------------------------------------------------------------------------


def check_data(configs: Iterable[RunConfig]) -> None:
    """Files and image folders on this machine; what lies behind a URL is found out when it is read."""
    built = cache(benchmarks.build)
    wanted = dict.fromkeys(
        (config.benchmark, config.evaluation.general, task, split)
        for config in configs
        for task, split in rows_of(config, built(config.benchmark, config.evaluation.general))
    )
    for benchmark, general, task, split in wanted:
        source = built(benchmark, general)[task].sources[split]
        if isinstance(source, FileSource | InstancesSource):
            _check_source(f"task {task}, {split}", source)


def _check_source(what: str, source: FileSource | InstancesSource) -> None:
    if not is_url(source.path) and "*" not in source.path and not Path(source.path).exists():
        raise InputError(f"{what}: there is no {source.path}; is benchmark.root right?")
    if isinstance(source, InstancesSource):
        return
    if source.image_root and not is_url(source.image_root) and not Path(source.image_root).is_dir():
        raise InputError(f"{what}: the folder of its images, {source.image_root}, is not there")


def check_embedder(embedder: EmbedderConfig) -> None:
    """A text encoder's folder or hub id, and the folders and files that CLIP is given."""
    match embedder:
        case TextConfig():
            model_folder("grouping.embedder.model", embedder.model)
        case ClipConfig():
            folder = embedder.model.removeprefix(LOCAL_CLIP)
            if embedder.model.startswith(LOCAL_CLIP) and not Path(folder).is_dir():
                raise InputError(f"grouping.embedder.model: there is no folder {folder}")
            if os.path.isabs(embedder.pretrained) and not Path(embedder.pretrained).exists():
                raise InputError(f"grouping.embedder.pretrained: there is no file {embedder.pretrained}")
        case TfidfConfig():
            pass


def check_tracking(launch: LaunchConfig) -> None:
    """The folder of an MLflow database file."""
    uri = launch.tracking_uri or ""
    if launch.tracking.enabled and uri.startswith(SQLITE):
        check_folder("tracking.uri", Path(uri.removeprefix(SQLITE)).absolute().parent)


def check_storage(root: str) -> None:
    """Whether the storage can be made and written: a small file is written there and deleted again."""
    if not is_url(root):
        check_folder("storage", Path(root))
        return
    from lcia.data.filesystems import filesystem

    fs, path = filesystem(root)
    probe = f"{path.rstrip('/')}/.lcia-write-test"
    try:
        fs.create_dir(path, recursive=True)
        with fs.open_output_stream(probe) as stream:
            stream.write(b"")
        fs.delete_file(probe)
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own; told to the user
        raise InputError(redacted(f"storage {root} cannot be written: {type(error).__name__}: {error}")) from None


def check_folder(key: str, folder: Path) -> None:
    """Makes a folder if need be, and writes a file there that is gone at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{key}: {folder} cannot be written: {error.strerror or error}") from None


# Devices ----------------------------------------------------------------------------------------------------------


def gpu_complaint(configs: Sequence[RunConfig], launch: LaunchConfig) -> str:
    """A sentence where Ray starts on this machine, and workers and actors together ask for more GPUs than it has.

    Empty where they fit, where they are a cluster's, and where they cannot be counted.
    """
    embeds = any(c.groups and c.grouping.embedder.feature_kind != "texts" for c in configs)
    demands = [launch.workers(), launch.actors(embeds)]
    asked = [demand for demand in demands if demand.gpus]
    if not asked or launch.ray_address or os.environ.get("RAY_ADDRESS") or (found := gpus_here()) is None:
        return ""
    # A local Ray is told of as many CPUs as the launch needs.
    if not (left := unplaced([Machine(math.inf, found)], asked)):
        return ""
    return (
        f"the launch asks for GPUs, {demands[0].count * demands[0].gpus:g} by gpus_per_worker and "
        f"{demands[1].count * demands[1].gpus:g} by gpus_per_actor, and this machine has {found or 'none'}, which "
        f"leaves no room for {' and '.join(map(str, left))}: ask for less, or name a cluster's ray_address"
    )
