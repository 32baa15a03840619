"""EmbedStage on Ray Data: features of a task's distinct instructions, streamed from its Parquet shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from lcia.config.grouping import EmbedderConfig
from lcia.data.parquet import Table
from lcia.embedders import build
from lcia.embedders.embed import Collector, add_samples, count_texts, samples_of, shard_files, text_sample, write
from lcia.protocols import Features
from lcia.store.files import Files

TEXTS = 4096
"""Instructions counted at a time."""
BATCH = 64
"""Samples, or distinct texts, that an actor embeds at a time."""
BLOCK_BYTES = 32 * 2**20
"""Blocks of images small enough that several fit into a small object store."""


class Embed:
    """Actor: embeds the samples of a batch and returns one row per distinct instruction of it."""

    def __init__(self, config: EmbedderConfig) -> None:
        self.embedder = build(config)
        self.samples_of = samples_of if config.feature_kind == "image_vectors" else _text_samples

    def __call__(self, batch: Table) -> Table:
        collector = Collector()
        add_samples(collector, self.samples_of(batch), self.embedder)
        found = collector.features()
        return _partial(found, collector.sums)


def embed_on_ray(
    shards: Path | str | Files, config: EmbedderConfig, folder: Path, actors: int = 1, gpus_per_actor: float = 0.0
) -> None:
    """Writes the features of a folder of Parquet shards into `folder`; as lcia.embedders.embed does."""
    embedded = partial(_embedded, config=config, actors=actors, gpus_per_actor=gpus_per_actor)
    if config.feature_kind == "image_vectors":
        # One task may read many files into one block: cut it, so that every actor finds work.
        samples = _rows(shards, ["instruction", "images"]).repartition(target_num_rows_per_block=BATCH)
        features = _merge(embedded(samples))
    else:
        features = _merge(_stream(_rows(shards, ["instruction"]).map_batches(_count, **_batching(TEXTS))))
        if config.feature_kind != "texts":
            features = _with_vectors(features, embedded)
    write(features, folder)


def _rows(shards: Path | str | Files, columns: list[str]) -> Any:
    """The shards' rows as a dataset that keeps their order, so that instructions come in order of first appearance."""
    system, paths = shard_files(shards)
    dataset = ray.data.read_parquet(paths, filesystem=system, columns=columns)
    dataset.context.execution_options.preserve_order = True
    dataset.context.target_max_block_size = BLOCK_BYTES
    return dataset


def _embedded(dataset: Any, config: EmbedderConfig, actors: int, gpus_per_actor: float) -> Iterator[Table]:
    pool = ray.data.ActorPoolStrategy(size=actors)
    return _stream(
        dataset.map_batches(
            Embed, fn_constructor_args=(config,), compute=pool, num_gpus=gpus_per_actor, **_batching(BATCH)
        )
    )


def _with_vectors(features: Features, embedded: Callable[[Any], Iterator[Table]]) -> Features:
    """Each distinct text embedded once; the multiplicities are put back afterwards."""
    texts = pa.table({"instruction": pa.array(features.texts, pa.string())})
    pieces = [texts.slice(start, BATCH) for start in range(0, texts.num_rows, BATCH)]
    dataset = ray.data.from_arrow(pieces)
    dataset.context.execution_options.preserve_order = True
    vectors = _merge(embedded(dataset)).vectors
    return Features(features.texts, features.counts, vectors)


def _merge(parts: Iterator[Table]) -> Features:
    collector = Collector()
    for part in parts:
        sums = np.stack(part.column("sum").to_numpy()) if "sum" in part.column_names else None
        collector.add(part.column("text").to_pylist(), part.column("count").to_pylist(), sums)
    return collector.features()


def _stream(dataset: Any) -> Iterator[Table]:
    yield from dataset.iter_batches(batch_size=TEXTS, batch_format="pyarrow")


def _count(batch: Table) -> Table:
    texts, counts = count_texts(batch)
    return pa.table({"text": pa.array(texts, pa.string()), "count": pa.array(counts, pa.int64())})


def _partial(features: Features, sums: Any) -> Table:
    columns = {"text": pa.array(features.texts, pa.string()), "count": pa.array(features.counts)}
    return pa.table(columns | {"sum": pa.array(list(sums), pa.list_(pa.float64()))})


def _text_samples(batch: Table) -> list[Any]:
    return [text_sample(text) for text in batch.column("instruction").to_pylist()]


def _batching(size: int) -> dict[str, Any]:
    return {"batch_size": size, "batch_format": "pyarrow", "zero_copy_batch": True}
