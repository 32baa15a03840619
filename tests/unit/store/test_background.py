"""A checkpoint on its way to another machine: training goes on meanwhile, and a failure is not lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcia.store import trouble
from lcia.store.background import Uploads
from lcia.store.folders import Checkpoints, Store, StoreError

KEY = "ab" + "0" * 30


class Slow(MemoryFileSystem):  # type: ignore[misc]
    """An object store in memory that takes what is written only once it is allowed to, or never while it is away."""

    cachable = False
    allowed: ClassVar[threading.Event] = threading.Event()
    away: ClassVar[bool] = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            assert self.allowed.wait(60)
            if self.away:
                raise OSError("AWS Error NETWORK_CONNECTION")
        return super()._open(path, mode, **options)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkpoints]:
    import fsspec

    monkeypatch.setattr(trouble, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(trouble, "PATIENCE_SECONDS", 0.01)
    fsspec.register_implementation("slow", Slow, clobber=True)
    Slow.allowed, Slow.away = threading.Event(), False
    Slow.store.clear()
    yield Store("fsspec+slow://bucket/store").checkpoints(KEY)
    Slow.allowed.set()


def save(checkpoints: Checkpoints, step: int, uploads: Uploads) -> None:
    with checkpoints.save(step, uploads) as folder:
        (folder / "state").write_text(f"step {step}")


def newest(checkpoints: Checkpoints, scratch: Path) -> str | None:
    found, _ = checkpoints.load(scratch)
    return found and (found / "state").read_text()


def test_training_goes_on_while_a_checkpoint_is_uploaded_and_it_counts_once_it_is(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    uploads = Uploads()
    save(checkpoints, 5, uploads)
    assert newest(checkpoints, tmp_path / "before") is None
    Slow.allowed.set()
    uploads.settle()
    assert newest(checkpoints, tmp_path / "after") == "step 5"


def test_the_next_checkpoint_waits_for_the_one_before(checkpoints: Checkpoints, tmp_path: Path) -> None:
    uploads = Uploads()
    save(checkpoints, 5, uploads)
    second = threading.Thread(target=save, args=(checkpoints, 10, uploads))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    Slow.allowed.set()
    second.join(60)
    uploads.settle()
    assert newest(checkpoints, tmp_path) == "step 10"


def test_an_upload_that_failed_is_told_at_the_next_one_and_not_where_nobody_needs_it(checkpoints: Checkpoints) -> None:
    uploads = Uploads()
    Slow.away = True
    Slow.allowed.set()
    save(checkpoints, 5, uploads)
    with pytest.raises(StoreError, match="is still away"):
        save(checkpoints, 10, uploads)
    save(checkpoints, 15, uploads)
    uploads.drop()
    uploads.settle()


def test_the_scratch_of_an_upload_goes_with_it(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[Path] = []
    uploads = Uploads()
    with checkpoints.save(5, uploads) as folder:
        (folder / "state").write_text("step 5")
        filled.append(folder)
    assert filled[0].exists()
    Slow.allowed.set()
    uploads.settle()
    assert not filled[0].exists()
