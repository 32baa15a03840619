"""The folder of a local Ray: who may enter it, and what becomes of those that killed runs leave behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pipelines import exits
from pipelines.stages import private


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders of these tests lie."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(exits, "FOLDERS_TO_REMOVE", set())
    return tmp_path


def test_folder_and_token_are_this_users_alone() -> None:
    folder, lock = private._private_folder()
    os.close(lock)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / private.TOKEN).stat().st_mode) == 0o600
    assert len((folder / private.TOKEN).read_text()) == 64


def test_no_two_runs_have_one_token() -> None:
    folders = [private._private_folder() for _ in range(2)]
    assert len({(folder / private.TOKEN).read_text() for folder, _ in folders}) == 2
    for _, lock in folders:
        os.close(lock)


def test_a_killed_runs_folder_goes_with_the_next_start_and_a_live_ones_stays() -> None:
    dead, lock_of_dead = private._private_folder()
    live, lock_of_live = private._private_folder()
    os.close(lock_of_dead)  # as the end of its process would
    new, lock_of_new = private._private_folder()
    assert (dead.exists(), live.exists(), new.exists()) == (False, True, True)
    for lock in (lock_of_live, lock_of_new):
        os.close(lock)


def test_the_name_leaves_room_for_rays_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path to a socket has at most 103 characters on macOS, 107 on Linux."""
    monkeypatch.delenv("RAY_TMPDIR")
    folder, lock = private._private_folder()
    assert len(f"{folder}/r/session_2026-11-26_14-40-18_856292_4194304/sockets/plasma_store") <= 103
    (folder / private.TOKEN).unlink()
    folder.rmdir()
    os.close(lock)


def test_a_users_own_settings_do_not_open_it(tmp_path: Path) -> None:
    found = private.environment(tmp_path, 4)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / private.TOKEN)
    assert found["RAY_AUTH_TOKEN"] is None
