"""`lcia data`: check, show and make data, in this process."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from lcia import benchmarks, shards
from lcia.config import MiniCoinConfig, RunConfig
from lcia.load import load
from lcia.readers import Reading, samples
from lcia.run import order_of
from lcia.types import InputError, Sample, Source, Split, TaskSpec
from pipelines.tables import counts_table


def validate(config: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Reads every row of every split; raises InputError where more are bad than data.max_bad_fraction bears."""
    chosen = load(RunConfig, config, overrides)
    rows, complaints = [], []
    for task, split, source in _sources(chosen):
        counts, report = _count(chosen, task, source)
        rows.append({"data": f"{task.name}/{split}", **asdict(counts)})
        complaints.append(shards.complaint(f"{task.name}/{split}", counts, report, chosen.data.max_bad_fraction))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        Console().print(counts_table(rows))
    shards.refuse(complaints, chosen.data.max_bad_fraction)


def _sources(config: RunConfig) -> list[tuple[TaskSpec, Split, Source]]:
    benchmark = benchmarks.build(config.benchmark)
    tasks = [benchmark[name] for name in order_of(config, benchmark)]
    found: list[tuple[TaskSpec, Split, Source | None]] = []
    for task in tasks:
        found += [(task, "train", task.train), (task, "validation", task.validation), (task, "test", task.test)]
    return [(task, split, source) for task, split, source in found if source is not None]


def _count(config: RunConfig, task: TaskSpec, source: Source) -> tuple[shards.ShardCounts, str]:
    """Counts of one source, and the temporary file that names its bad rows; there is none where all are good."""
    descriptor, name = tempfile.mkstemp(prefix=f"lcia-{task.name}-", suffix=".jsonl")
    os.close(descriptor)
    counts = shards.count_source(Reading.of(source, task.instruction, task.max_samples, config.data), Path(name))
    if not counts.bad:
        os.unlink(name)
    return counts, name


def show(config: Path, overrides: Sequence[str], task: str | None, rows: int, images: Path | None) -> None:
    """Prints for the first rows of each task what the model is given and which of it carries loss."""
    from lcia import assistants

    chosen = load(RunConfig, config, overrides)
    assistant = assistants.build(chosen.assistant, chosen.lora)
    names = [task] if task else order_of(chosen, benchmarks.build(chosen.benchmark))
    for name in names:
        spec = benchmarks.build(chosen.benchmark)[name]
        reading = Reading.of(spec.train, spec.instruction, spec.max_samples, chosen.data)
        for number, sample in enumerate(islice(samples(reading), rows)):
            _show_sample(name, sample, assistant)
            _save_images(images, f"{name}-{number}", sample)


def _show_sample(name: str, sample: Sample, assistant: Any) -> None:
    batch = assistant.collate([sample])
    labels = batch["labels"][0]
    answer = assistant.tokenizer.decode(labels[labels != -100].tolist())
    print(f"== {name}  id {sample.id}\ninstruction (grouping): {sample.instruction!r}")
    for message in sample.messages:
        print(f"{message.role}: {message.content}")
    print(f"tokens {labels.numel()}, with loss {int((labels != -100).sum())}: {answer!r}\n")


def _save_images(folder: Path | None, name: str, sample: Sample) -> None:
    if folder is None:
        return
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(sample.images):
        path = folder / f"{name}-{number}.png"
        Image.open(io.BytesIO(data)).convert("RGB").save(path)
        print(f"image: {path}")


def make(config: Path, folder: Path, overrides: Sequence[str]) -> None:
    """Writes MiniCoIN in CoIN's layout."""
    from lcia.benchmarks.minicoin import write_coin_layout

    chosen = load(RunConfig, config, overrides).benchmark
    if not isinstance(chosen, MiniCoinConfig):
        raise InputError(f"only minicoin can be made; benchmark.kind is {chosen.kind}")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name a new folder, nothing is overwritten")
    write_coin_layout(chosen, folder)
    print(f"wrote {', '.join(chosen.tasks)} to {folder}; read it with benchmark.kind=coin benchmark.root={folder}")
