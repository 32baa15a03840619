"""Which checkpoint workers continue from, though another process may change the store between their looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lcia.training import checkpoint


class Workers:
    """One worker's view of two: what it gathers is its own value beside the other's."""

    device = torch.device("cpu")

    def __init__(self, main: bool, other: int) -> None:
        self.is_main_process, self.other = main, other

    def gather(self, value: Tensor) -> Tensor:
        return torch.cat([value, torch.tensor([self.other])])


class Found:
    """Checkpoints of which each look finds the next of `steps` (0: none)."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.asked = list(steps), list[tuple[str, int | None]]()

    def load(self, into: Path, newest: int | None = None) -> tuple[Path | None, list[str]]:
        self.asked.append((into.name, newest))
        step = self.steps.pop(0)
        return (Path(f"{step:09d}") if step else None), ["damaged"]


def _choose(workers: Workers, found: Found, says: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`says` is the main worker's step."""
    monkeypatch.setattr(checkpoint, "from_main", lambda value, accelerator: says)
    return checkpoint.choose(workers, found, Path("scratch"))  # type: ignore[arg-type]


def test_the_main_workers_choice_is_taken_with_the_damaged_ones_it_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(5)
    assert _choose(Workers(True, 5), found, 5, monkeypatch) == (Path("000000005"), ["damaged"])
    assert found.asked == [("0", None)]


def test_a_worker_that_sees_a_newer_one_takes_the_main_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(10, 5)
    assert _choose(Workers(False, 5), found, 5, monkeypatch) == (Path("000000005"), ["damaged"])
    assert found.asked == [("0", None), ("0again", 5)]


def test_all_look_again_while_one_of_them_misses_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, found = Workers(True, 0), Found(5, 0)
    # The other worker misses 5; at the next look there is nothing for either.
    says = iter((5, 0))
    monkeypatch.setattr(checkpoint, "from_main", lambda value, accelerator: next(says))
    assert checkpoint.choose(workers, found, Path("scratch")) == (None, ["damaged"])  # type: ignore[arg-type]
    assert [name for name, _ in found.asked] == ["0", "1"]


def test_workers_that_never_agree_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(5, 5, 5, 5, 5)
    with pytest.raises(RuntimeError, match="different steps"):
        _choose(Workers(True, 0), found, 5, monkeypatch)
    assert len(found.asked) == 5
