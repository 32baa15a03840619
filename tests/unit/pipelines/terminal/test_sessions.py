"""Where a session writes its run folder, and what it says there before it trains."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from lcia.store.scratch import is_occupied
from lcia.types import InputError
from pipelines.terminal.sessions import opened


def test_a_storage_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/runs cannot be used"),
        opened(str(tmp_path / "file" / "runs"), "stream"),
    ):
        pass


def test_a_run_folder_says_that_it_is_one_and_that_its_run_lives(tmp_path: Path) -> None:
    with opened(str(tmp_path), "stream") as folder:
        assert folder == tmp_path / "stream"
        assert (folder / "keys.json").read_text() == ""
        assert is_occupied(folder)
    assert not is_occupied(folder)


def test_a_run_that_is_begun_again_keeps_its_keys(tmp_path: Path) -> None:
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "keys.json").write_text(json.dumps(["a"]))
    before = (tmp_path / "stream" / "keys.json").stat()
    with opened(str(tmp_path), "stream") as folder:
        assert json.loads((folder / "keys.json").read_text()) == ["a"]
        assert (folder / "keys.json").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("error", [None, RuntimeError("no"), KeyboardInterrupt()])
def test_with_storage_behind_a_url_the_folder_is_uploaded_whatever_has_happened(
    tmp_path: Path, error: BaseException | None
) -> None:
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), opened(tmp_path.as_uri(), "stream") as folder:
        # From the beginning, for `lcia clean`: a killed driver uploads nothing more.
        assert (tmp_path / "stream" / "keys.json").read_text() == ""
        (folder / "figures").mkdir()
        (folder / "figures" / "one.png").write_text("1")
        if error:
            raise error
    assert not folder.exists()
    assert (tmp_path / "stream" / "figures" / "one.png").read_text() == "1"
