"""ShardStage on Ray Data writes what one process writes: rows, order, defects, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray

from lcia.config.run import DataConfig
from lcia.data import shards
from lcia.data.sources import Reading
from lcia.types import FileSource, GeneratedSource, Source
from pipelines.stages.shard import shard_on_ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> None:
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=200_000_000)


def _same(source: Source, tmp_path: Path) -> shards.ShardCounts:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    reading = Reading.of(source, "last_line", None, DataConfig().max_image_pixels)
    counts = shards.write_source(reading, here)
    assert shard_on_ray(reading, there) == counts
    assert {p.name: p.read_bytes() for p in here.iterdir()} == {p.name: p.read_bytes() for p in there.iterdir()}
    return counts


def test_generated_rows(tmp_path: Path) -> None:
    assert _same(GeneratedSource("VQAv2", "train", 600, 0), tmp_path).good == 600


def test_real_questions(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "easyvqa"
    source = FileSource(str(root / "shape" / "test.json"), "llava", split="test", image_root=str(root))
    assert _same(source, tmp_path).bad == 0


def test_bad_rows_are_reported_alike(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "this"}]
    rows = [{"id": str(n % 40), "conversations": turns} for n in range(50)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    counts = _same(FileSource(str(tmp_path / "train.json"), "llava"), tmp_path)
    assert counts.reasons == {"duplicate_id": 10}
