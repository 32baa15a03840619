"""Features collected from shards in this process, and their Parquet form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from lcia import embedders
from lcia.config.grouping import ClipConfig, TfidfConfig
from lcia.embedders.embed import Collector, embed_shards, read, shard_files, write
from lcia.local import LocalExecutor
from lcia.protocols import Features
from lcia.stage import EmbedStage
from lcia.store.folders import Store
from lcia.types import InputError, Sample


def write_shards(folder: Path, *shards: list[str]) -> None:
    folder.mkdir()
    for place, texts in enumerate(shards):
        pq.write_table(pa.table({"instruction": texts, "images": [[b"x"]] * len(texts)}), folder / f"{place}.parquet")
    (folder / "bad_rows.jsonl").write_text("{}\n")


def test_a_mean_vector_is_taken_over_all_samples_of_a_text() -> None:
    collector = Collector()
    collector.add(["a", "b", "a"], [1, 1, 1], np.array([[1.0, 0], [0, 1], [0, 1]]))
    collector.add(["a"], [2], np.array([[1.0, 2.0]]))
    features = collector.features()
    assert (features.texts, features.counts.tolist()) == (("a", "b"), [4, 1])
    assert features.vectors is not None
    np.testing.assert_allclose(features.vectors, np.array([[2, 3] / np.sqrt(13), [0, 1]]), atol=1e-7)


def test_instructions_come_in_order_of_first_appearance_over_all_shards(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", ["z", "a", "z"], [], ["m", "a", "Ünï"])
    embed_shards(tmp_path / "shards", TfidfConfig(), tmp_path / "out")
    features = read(tmp_path / "out")
    assert features.texts == ("z", "a", "m", "Ünï")
    assert features.counts.tolist() == [2, 2, 1, 1]
    assert features.vectors is None


def test_vectors_survive_parquet(tmp_path: Path) -> None:
    vectors = np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)
    write(Features(("a", ""), np.array([2, 1], np.int64), vectors), tmp_path)
    features = read(tmp_path)
    assert (features.texts, features.counts.tolist()) == (("a", ""), [2, 1])
    np.testing.assert_array_equal(features.vectors, vectors)


def test_shards_are_found_by_path_seen_from_here_and_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "shards", ["a"], ["b"])
    monkeypatch.chdir(tmp_path)
    expected = [str(tmp_path / "shards" / f"{place}.parquet") for place in range(2)]
    for where in (tmp_path / "shards", Path("shards"), "shards", f"file://{tmp_path}/shards"):
        assert shard_files(where)[1] == expected


def test_an_embedder_is_not_asked_for_a_shard_without_rows(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", ["a", "b"], [])
    asked = []

    class Asked:
        def embed(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
            asked.append(len(samples))
            return np.ones((len(samples), 2), np.float32)

    config = ClipConfig(kind="clip", features="both")
    embed_shards(tmp_path / "shards", config, tmp_path / "out", Asked())  # type: ignore[arg-type]
    assert asked == [2]


def test_a_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Parquet files"):
        embed_shards(tmp_path / "nowhere", TfidfConfig(), tmp_path / "out")


def test_an_embedder_is_loaded_once_for_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = embedders.build
    for module in ("lcia.embedders", "lcia.embedders.embed"):
        monkeypatch.setattr(f"{module}.build", lambda config: built.append(config) or build(config))  # type: ignore[func-returns-value]
    executor = LocalExecutor(Store(str(tmp_path)))
    for key in ("aa", "bb", "cc"):
        with executor.store.publish(key, {}) as folder:
            write_shards(folder / "rows", ["a text"])
            (folder / "index.json").write_text('{"files": [{"name": "rows/0.parquet"}]}')
    executor.embed([EmbedStage(shards=key, embedder=TfidfConfig(), identity="") for key in ("aa", "bb", "cc")])
    assert built == [TfidfConfig()]
