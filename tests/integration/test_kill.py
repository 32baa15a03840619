"""Killed at any touch of a file, or overtaken there by another process: what is left is whole, and goes on exactly."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from lcia.store.folders import Store
from tests.programs import killed
from tests.programs.killed import KEY, PLACES, Fate

END = 3
"""Steps of a stage: the third checkpoint makes the first one go."""


def _assert_right(home: Path, place: str) -> None:
    store = Store(killed.root(home, place), home / "cache-of-the-test")
    assert [(store.fetch(KEY) / name).read_text() for name in ("one", "two")] == ["3", "333"]


def _left_behind(home: Path) -> list[str]:
    """Files that only a process that is gone could want."""
    places = (home / "store" / ".tmp", home / "store" / "partial", home / "tmp")
    return [str(path.relative_to(home)) for place in places for path in place.rglob("*")]


@pytest.mark.parametrize("place", PLACES)
def test_a_store_that_was_killed_at_any_touch_is_finished_by_the_next_process(tmp_path: Path, place: str) -> None:
    assert killed.run(killed.housekeeping, tmp_path / "whole", place, END) == 0
    for touch in range(killed.touches(tmp_path / "whole")):
        home = tmp_path / str(touch)
        assert killed.run(killed.housekeeping, home, place, END, fate=Fate(change=touch)) == -signal.SIGKILL
        if Store(killed.root(home, place), tmp_path / "seen").has(KEY):
            _assert_right(home, place)
        assert killed.run(killed.and_another, home, place) == 0, killed.why(home)
        _assert_right(home, place)
        assert _left_behind(home) == [], f"touch {touch}"


@pytest.mark.parametrize("place", PLACES)
def test_a_store_may_be_killed_again_and_again(tmp_path: Path, place: str) -> None:
    draw = random.Random(0)
    for life in range(12):
        code = killed.run(killed.housekeeping, tmp_path, place, END, fate=Fate(change=draw.randrange(4 + 3 * life)))
        assert code in (0, -signal.SIGKILL), killed.why(tmp_path)
    assert killed.run(killed.and_another, tmp_path, place) == 0, killed.why(tmp_path)
    _assert_right(tmp_path, place)
    assert _left_behind(tmp_path) == []


@pytest.mark.parametrize("rival", [END, 2])
@pytest.mark.parametrize("place", PLACES)
def test_a_process_may_be_overtaken_at_any_touch(tmp_path: Path, place: str, rival: int) -> None:
    """By one that finishes the same stage, or that takes it to its second checkpoint and stops there."""
    never = Fate(signal.SIGSTOP)
    assert killed.run(killed.housekeeping, tmp_path / "whole", place, END, fate=never) == 0
    for touch in range(killed.touches(tmp_path / "whole")):
        home = tmp_path / str(touch)
        slow = killed.start(killed.housekeeping, home, place, END, fate=Fate(signal.SIGSTOP, touch))
        assert killed.wait_until_stopped(slow)
        assert killed.run(killed.housekeeping, home, place, rival) == 0, killed.why(home)
        assert slow.pid is not None
        os.kill(slow.pid, signal.SIGCONT)
        slow.join(60)
        assert slow.exitcode == 0, f"touch {touch}: {killed.why(home)}"
        _assert_right(home, place)
        assert _left_behind(home) == [], f"touch {touch}"
