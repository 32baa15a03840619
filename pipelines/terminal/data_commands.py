"""`lcia data`: check, show and make data, in this process."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import typer

from lcia import benchmarks
from lcia.config.benchmarks import BenchmarkConfig, MiniCoinConfig
from lcia.config.load import override, parse
from lcia.config.run import RunConfig
from lcia.data import shards
from lcia.data.inventory import take_inventory
from lcia.data.sources import Reading, samples
from lcia.metrics.overlap import Overlap, count_answers, overlap
from lcia.models.preflight import check_base
from lcia.protocols import UNTRAINED, Assistant
from lcia.types import Benchmark, InputError, Sample, Source, Split, TaskSpec
from pipelines.terminal.tables import console, counts_table, inventory_table, overlap_table

PEEK = 200
"""Rows of each task that `show` reads to tell the groups."""


def validate(chosen: RunConfig, as_json: bool) -> None:
    """Reads every row of every split; raises InputError where more are bad than data.max_bad_fraction allows."""
    rows, complaints = [], []
    answers: dict[tuple[str, Split], Counter[str]] = {}
    for task, split, source in _sources(chosen):
        counts, report, answers[task.name, split] = _count(chosen, task, source)
        rows.append({"data": f"{task.name}/{split}", **asdict(counts)})
        complaints.append(shards.complaint(f"{task.name}/{split}", counts, report, chosen.data.max_bad_fraction))
    found = _overlap(chosen, answers)
    if as_json:
        shares = {f"{task}/{chosen.evaluation.split}": found.of(task) for task in found.tasks}
        print(json.dumps([{**row, "answers_in_training": shares.get(row["data"], {})} for row in rows], indent=1))
    else:
        console().print(counts_table(rows), overlap_table(found))
    shards.refuse(complaints, chosen.data.max_bad_fraction)


def _overlap(config: RunConfig, answers: Mapping[tuple[str, Split], Counter[str]]) -> Overlap:
    """Of the answers of the evaluated split among those of the training rows."""
    tested = {task: found for (task, split), found in answers.items() if split == config.evaluation.split}
    trained = {task: found for (task, split), found in answers.items() if split == "train"}
    return overlap(list(dict.fromkeys(task for task, _ in answers)), tested, trained)


def _sources(config: RunConfig) -> list[tuple[TaskSpec, Split, Source]]:
    benchmark = benchmarks.build(config.benchmark, config.evaluation.general)
    tasks = [*(benchmark[name] for name in benchmark.order(config.order)), *benchmark.general]
    return [(task, split, source) for task in tasks for split, source in task.sources.items() if source is not None]


def _count(config: RunConfig, task: TaskSpec, source: Source) -> tuple[shards.ShardCounts, str, Counter[str]]:
    """Counts of one source, the temporary file that names its bad rows (there is none where all are good), and its
    answers."""
    descriptor, name = tempfile.mkstemp(prefix=f"lcia-{task.name}-", suffix=".jsonl")
    os.close(descriptor)
    answers: Counter[str] = Counter()
    reading = _reading(config, task, source)
    counts = shards.count_source(reading, Path(name), lambda row: answers.update(count_answers([row.references])))
    if not counts.bad:
        os.unlink(name)
    return counts, name, answers


PUBLISHED = ("coin", "ucit", "mllm_cl", "trace")
"""Kinds of benchmarks whose files `check` knows where to get."""


def check(kind: str, root: str, overrides: Sequence[str], as_json: bool) -> None:
    """Names what is missing of a published benchmark below `root`, with its source and licence; exit code 1 if so."""
    if kind not in PUBLISHED:
        raise InputError(f"there is no published benchmark {kind!r}; there are {', '.join(PUBLISHED)}")
    plain = override({"kind": kind, "root": root}, overrides)
    config = parse(RunConfig, {"benchmark": plain}, f"lcia data check {kind}").benchmark
    items = list(take_inventory(benchmarks.build(config).tasks))
    if as_json:
        print(json.dumps([asdict(item) for item in items], indent=1))
    else:
        console().print(inventory_table(items))
    if missing := sum(bool(item.problem) for item in items):
        print(f"{missing} of {len(items)} are missing or incomplete", file=sys.stderr)
        raise typer.Exit(1)


def show(chosen: RunConfig, task: str | None, rows: int, images: Path | None) -> None:
    """Prints for the first rows of each task what the model is given, which of it carries loss, and the group."""
    check_base(chosen.assistant, chosen.lora)
    benchmark = benchmarks.build(chosen.benchmark, chosen.evaluation.general)
    names = [benchmark[task].name] if task else benchmark.order(chosen.order)
    groups, assistant = _groups(chosen, benchmark), _assistant(chosen)
    for name in names:
        for number, sample in enumerate(_first(chosen, benchmark[name], rows)):
            _show_sample(name, groups.get(name, ""), sample, assistant)
            _save_images(images, f"{name}-{number}", sample)


def _first(config: RunConfig, task: TaskSpec, rows: int) -> Iterator[Sample]:
    """The first good training rows of a task; of one that is evaluated only, its test rows."""
    return islice(samples(_reading(config, task, task.train or task.test)), rows)


def _reading(config: RunConfig, task: TaskSpec, source: Source) -> Reading:
    return Reading.of(source, task.instruction, task.max_samples, config.data.max_image_pixels, task.stretch)


def _assistant(config: RunConfig) -> Assistant:
    from transformers.utils import logging

    from lcia import assistants

    logging.disable_progress_bar()
    return assistants.build(config.assistant, config.lora)


def _groups(config: RunConfig, benchmark: Benchmark) -> dict[str, str]:
    """The group of each task of the stream, as far as its first rows tell; empty where there is nothing to decide."""
    from lcia import embedders
    from lcia.embedders.embed import Collector, add_samples
    from lcia.grouping.codebook import group_name
    from lcia.grouping.many_orders import Grouping

    if not config.groups:
        return {}
    embedder, features = embedders.build(config.grouping.embedder), {}
    order = benchmark.order(config.order)
    for task in order:
        collector = Collector()
        add_samples(collector, list(_first(config, benchmark[task], PEEK)), embedder)
        features[task] = collector.features()
    steps = Grouping(embedders.similarity_of(config.grouping.embedder), config.grouping).follow(order, features)
    return {placement.task: group_name(placement.group) for placement, _ in steps}


def _show_sample(name: str, group: str, sample: Sample, assistant: Assistant) -> None:
    batch = assistant.collate([sample])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    trained = labels[labels != UNTRAINED].tolist()
    print(f"== {name}  id {sample.id}\ninstruction (grouping): {sample.instruction!r}")
    if group:
        print(f"group: {group} (from the first {PEEK} rows of each task; `lcia group` reads them all)")
    for message in sample.messages:
        print(f"{message.role}: {message.content}")
    print(f"the model reads: {assistant.text(ids.tolist())!r}")
    print(f"tokens {len(ids)}, with loss {len(trained)}: {assistant.text(trained)!r}\n")


def _save_images(folder: Path | None, name: str, sample: Sample) -> None:
    if folder is None:
        return
    from lcia.data.pixels import decode_rgb

    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(sample.images):
        path = folder / f"{name}-{number}.png"
        decode_rgb(data).save(path)
        print(f"image: {path}")


def make(chosen: BenchmarkConfig, folder: Path) -> None:
    """Writes MiniCoIN in CoIN's layout."""
    from lcia.data.minicoin.layout import write_coin_layout

    if not isinstance(chosen, MiniCoinConfig):
        raise InputError(f"only minicoin can be made; benchmark.kind is {chosen.kind}")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name a new folder, nothing is overwritten")
    write_coin_layout(chosen, folder)
    print(f"wrote {', '.join(chosen.tasks)} to {folder}; read it with benchmark.kind=coin benchmark.root={folder}")
