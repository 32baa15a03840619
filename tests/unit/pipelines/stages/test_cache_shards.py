"""The launch's cache_shards, as it gets to the actors that read shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.launch import LaunchConfig
from pipelines.stages.evaluate import Answerer

KEY = "ab" + "0" * 30


@pytest.mark.parametrize("cached", [False, True])
def test_shards_elsewhere_are_read_there_or_copied_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    launch = LaunchConfig(storage=f"fsspec+file://{tmp_path / 'storage'}", cache_shards=cached)
    store = Answerer(launch).store
    with store.publish_shared(KEY, {}) as shared:
        shared.written["shard"] = shared.files.write("shard", b"rows")
    folder = Path(store.files(KEY).folder)
    assert (folder / "shard").read_bytes() == b"rows"
    assert folder.is_relative_to(tmp_path / "temporary") == cached
