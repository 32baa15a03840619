"""Features of one task and split: collected in a stream from its shards, kept in Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lcia.addresses import anchored
from lcia.config.grouping import EmbedderConfig
from lcia.data.parquet import Table
from lcia.data.shards import read_index
from lcia.embedders import build
from lcia.grouping.features import unit
from lcia.protocols import Embedder, Features
from lcia.store.files import Files
from lcia.types import InputError, Sample

FILE = "features.parquet"
BATCH = 64
"""Samples decoded and embedded at a time."""


class Collector:
    """Distinct instructions with their multiplicity and the sum of their vectors; memory grows with them alone."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._counts: list[int] = []
        self._sums: list[NDArray[np.float64]] = []

    def add(self, texts: Sequence[str], counts: Sequence[int], sums: NDArray[np.floating] | None = None) -> None:
        """`counts` [n] samples of each text, `sums` [n, dim] of their vectors; a text may come any number of times."""
        for row, (text, count) in enumerate(zip(texts, counts, strict=True)):
            place = self._places.setdefault(text, len(self._places))
            if place == len(self._counts):
                self._counts.append(0)
                self._sums.append(np.zeros(0 if sums is None else sums.shape[1]))
            self._counts[place] += count
            if sums is not None:
                self._sums[place] += sums[row]

    @property
    def sums(self) -> NDArray[np.float64]:
        """[distinct texts, dim]."""
        return np.stack(self._sums)

    def features(self) -> Features:
        """In order of first appearance; a vector is the mean over the text's samples, brought to unit length."""
        features = Features(tuple(self._places), np.array(self._counts, np.int64))
        has_vectors = bool(self._sums) and self._sums[0].size > 0
        return replace(features, vectors=unit(self.sums)) if has_vectors else features


def embed_shards(
    shards: Path | str | Files, config: EmbedderConfig, folder: Path, embedder: Embedder | None = None
) -> None:
    """Writes the features of a folder of Parquet shards into `folder`, in this process.

    `embedder` is the one of `config`; None: it is built here, which loads its model.
    """
    embedder = embedder or build(config)
    if config.feature_kind == "image_vectors":
        features = collect(_batches(shards, ["instruction", "images"]), embedder)
    else:
        features = with_vectors(distinct(_batches(shards, ["instruction"])), config, embedder)
    write(features, folder)


def distinct(batches: Iterable[Table]) -> Features:
    """The instructions of a stream of tables, without vectors."""
    collector = Collector()
    for batch in batches:
        texts, counts = count_texts(batch)
        collector.add(texts, counts)
    return collector.features()


def collect(batches: Iterable[Table], embedder: Embedder) -> Features:
    """The instructions of a stream of tables, each with the mean vector of its samples."""
    collector = Collector()
    for batch in batches:
        add_samples(collector, samples_of(batch), embedder)
    return collector.features()


def add_samples(collector: Collector, samples: Sequence[Sample], embedder: Embedder) -> None:
    """Embeds every sample and adds it to its instruction."""
    vectors = embedder.embed(samples)
    collector.add([sample.instruction for sample in samples], [1] * len(samples), vectors)


def with_vectors(features: Features, config: EmbedderConfig, embedder: Embedder) -> Features:
    """Each distinct text embedded once; for embedders that read no images."""
    if config.feature_kind == "texts" or not features.texts:
        return features
    return replace(features, vectors=embedder.embed([text_sample(text) for text in features.texts]))


def count_texts(table: Table) -> tuple[list[str], list[int]]:
    """Distinct values of the instruction column in order of first appearance, and how often each is there."""
    found = table.column("instruction").value_counts()
    return found.field("values").to_pylist(), found.field("counts").to_pylist()


def samples_of(table: Table) -> list[Sample]:
    """What an embedder needs of each row: the instruction and the encoded images."""
    rows = zip(table.column("instruction").to_pylist(), table.column("images").to_pylist(), strict=True)
    return [replace(text_sample(text), images=tuple(images)) for text, images in rows]


def text_sample(text: str) -> Sample:
    """A sample that is only its instruction."""
    return Sample("", text, (), (), ())


def shard_files(shards: Path | str | Files) -> tuple[Any, list[str]]:
    """(file system, paths in order) of the shards of a result, or of the Parquet files in a folder, local or a URL that
    pyarrow knows.

    Raises:
        InputError: there are none.
    """
    if isinstance(shards, Files):
        return shards.fs, [shards.path(entry["name"]) for entry in read_index(shards)["files"]]
    system, root = pafs.FileSystem.from_uri(anchored(str(shards)))
    found = system.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    paths = sorted(info.path for info in found if info.is_file and info.path.endswith(".parquet"))
    if not paths:
        raise InputError(f"no Parquet files in {shards}; write the task's shards first")
    return system, paths


def _batches(shards: Path | str | Files, columns: list[str]) -> Iterator[Table]:
    """Rows in the order of the files; only a few batches of images are in memory at a time."""
    system, paths = shard_files(shards)
    dataset = ds.dataset(paths, filesystem=system, format="parquet")
    stream = dataset.to_batches(columns=columns, batch_size=BATCH, batch_readahead=1, fragment_readahead=1)
    yield from (pa.Table.from_batches([batch]) for batch in stream if batch.num_rows)


def write(features: Features, folder: Path) -> None:
    """Into `folder`/features.parquet: text, count and, where there are any, vector."""
    columns: dict[str, Any] = {"text": pa.array(features.texts, pa.string()), "count": pa.array(features.counts)}
    if features.vectors is not None:
        flat = pa.array(features.vectors.astype(np.float32).ravel())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, features.vectors.shape[1])
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / FILE)


def read(folder: Path) -> Features:
    """The inverse of write."""
    table = pq.read_table(folder / FILE)
    counts = table.column("count").to_numpy().astype(np.int64)
    features = Features(tuple(table.column("text").to_pylist()), counts)
    if "vector" not in table.column_names:
        return features
    column = table.column("vector").combine_chunks()
    return replace(features, vectors=column.flatten().to_numpy().reshape(len(counts), column.type.list_size))
