"""Shards and features on Ray Data are those that one process writes: rows, order, defects, bytes, vectors."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from lcia.config.grouping import ClipConfig, EmbedderConfig, TfidfConfig
from lcia.config.run import DataConfig
from lcia.data import shards as data
from lcia.data.rows import Rows
from lcia.data.sources import Reading
from lcia.embedders import embed as local
from lcia.store.files import Files, Shared
from lcia.store.folders import Store
from lcia.types import FileSource, GeneratedSource, Source, Stretch
from pipelines.stages.embed import embed_on_ray
from pipelines.stages.shard import shard_on_ray
from tests.s3 import s3_server

KEY = "da" + "0" * 30

INSTRUCTIONS = ("Answer with one word.", "What is the object?", "Give the box.", "Ünïcode, too?")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """A local Ray, unless another module of this session left one running."""
    started = not ray.is_initialized()
    if started:
        ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=200 * 2**20)
    yield
    if started:
        ray.shutdown()


# Shards -----------------------------------------------------------------------------------------------------------


def _same(source: Source, tmp_path: Path, stretch: Stretch | None = None) -> data.ShardCounts:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    reading = Reading.of(source, "last_line", None, DataConfig().max_image_pixels, stretch)
    counts = data.write_source(reading, here)
    assert shard_on_ray(reading, Shared.local(there)) == counts
    assert {p.name: p.read_bytes() for p in here.iterdir()} == {p.name: p.read_bytes() for p in there.iterdir()}
    return counts


def test_real_questions(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "easyvqa"
    source = FileSource(str(root / "shape" / "test.json"), "llava", split="test", image_root=str(root))
    assert _same(source, tmp_path).bad == 0


def test_a_stretch_of_rows(tmp_path: Path) -> None:
    assert _same(GeneratedSource("VQAv2", "train", 602, 0), tmp_path, Stretch(1, 3)).good == 201


def test_bad_rows_are_reported_alike(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "this"}]
    # Three chunks; ids of the first come again in its end and in the last, which has no other.
    rows = [{"id": str(n % 250 if n < 512 else n - 512), "conversations": turns} for n in range(600)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    counts = _same(FileSource(str(tmp_path / "train.json"), "llava"), tmp_path)
    assert counts.reasons == {"duplicate_id": 350}


def test_a_task_killed_before_its_shard_is_whole_is_done_again_and_leaves_no_trace(tmp_path: Path) -> None:
    class Killed(Files):
        """The first task that has written the second chunk's bytes is killed before they have their name."""

        def _put(self, name: str, data: bytes) -> None:
            killed = Path(self.folder).parent / "killed"
            if name.startswith("shard-000001") and not killed.exists():
                killed.touch()
                os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            Files._put(self, name, data)

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    reading = Reading.of(GeneratedSource("VQAv2", "train", 300, 0), "last_line", None, DataConfig().max_image_pixels)
    files = Killed(pafs.LocalFileSystem(), str(there), str(there))
    shard_on_ray(reading, Shared(there, files))
    assert (tmp_path / "killed").exists()
    data.write_source(reading, here)
    assert {p.name: p.read_bytes() for p in here.iterdir()} == {p.name: p.read_bytes() for p in there.iterdir()}


def test_tasks_write_to_s3_and_rows_are_read_from_there_or_from_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        # Ray's workers have started without this environment.
        reached = pafs.S3FileSystem(
            access_key="test", secret_key="test", scheme="http", endpoint_override=server.address[len("http://") :]
        )
        stores = [Store(f"{server.bucket()}/runs", tmp_path / "cache")]
        stores.append(Store(stores[0].root, tmp_path / "cache", copies=True))
        source = GeneratedSource("VQAv2", "train", 300, 0)
        reading = Reading.of(source, "last_line", None, DataConfig().max_image_pixels)
        with stores[0].publish_shared(KEY, {}) as shared:
            shard_on_ray(reading, replace(shared, files=replace(shared.files, fs=reached)))
            local_files = sorted(path.name for path in shared.folder.iterdir())
        assert local_files == ["bad_rows.jsonl", "index.json"]
        (tmp_path / "here").mkdir()
        data.write_source(reading, tmp_path / "here")
        wanted = [299, 3, 256, 255, 0]
        expected = Rows([tmp_path / "here"]).take(wanted)
        assert stores[0].usable(KEY, in_ranges=True)
        assert Rows([stores[0].files(KEY)]).take(wanted) == expected
        assert not (tmp_path / "cache").exists()
        assert Rows([stores[1].files(KEY)]).take(wanted) == expected
        assert (tmp_path / "cache" / KEY / "index.json").is_file()


# Features ---------------------------------------------------------------------------------------------------------


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    image = Image.new("RGB", (40, 30), (shade % 256, 3 * shade % 256, 255 - shade % 256))
    image.paste("white", (shade % 20, 0, 20 + shade % 20, 15))
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows in three files; the instructions' order of appearance is not that of their names."""
    folder = tmp_path_factory.mktemp("shards")
    texts = [INSTRUCTIONS[(row * row // 7) % 4] if row % 50 else f"only in row {row}" for row in range(300)]
    images = [[png(row + other) for other in range(row % 3)] for row in range(300)]
    kinds = pa.schema({"instruction": pa.string(), "images": pa.list_(pa.binary())})
    table = pa.table({"instruction": texts, "images": images}, schema=kinds)
    for place in range(3):
        pq.write_table(table.slice(100 * place, 100), folder / f"part-{place}.parquet", row_group_size=40)
    return folder


@pytest.mark.parametrize("kind", ["tfidf", "text", "both"])
def test_features_on_ray_equal_those_of_the_plain_loop(
    shards: Path, tiny_clip: Path, tmp_path: Path, kind: str
) -> None:
    clip = {"kind": "clip", "model": f"local-dir:{tiny_clip}", "features": kind}
    config: EmbedderConfig = TfidfConfig() if kind == "tfidf" else ClipConfig.model_validate(clip)
    local.embed_shards(shards, config, tmp_path / "local")
    embed_on_ray(shards, config, tmp_path / "ray", actors=2)
    here, there = local.read(tmp_path / "local"), local.read(tmp_path / "ray")
    assert there.texts == here.texts
    assert len(here.texts) == 10
    assert there.counts.tolist() == here.counts.tolist()
    assert here.counts.sum() == 300
    if kind == "tfidf":
        assert here.vectors is None
        assert there.vectors is None
    else:
        assert here.vectors is not None
        assert there.vectors is not None
        np.testing.assert_allclose(there.vectors, here.vectors, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(here.vectors, axis=1), 1, atol=1e-6)
