"""The EmbedStage on Ray Data gives what the plain loop gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from lcia.config.run import ClipConfig, EmbedderConfig, TfidfConfig
from lcia.embedders import embed as local
from pipelines.stages.embed import embed_on_ray

INSTRUCTIONS = ("Answer with one word.", "What is the object?", "Give the box.", "Ünïcode, too?")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray, unless another module of this session left one running."""
    started = not ray.is_initialized()
    if started:
        ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=200 * 2**20)
    yield
    if started:
        ray.shutdown()


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
    cluster: None, shards: Path, tiny_clip: Path, tmp_path: Path, kind: str
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
