"""A sweep finds every grouping, each over its own thresholds and no others."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from lcia.grouping.many_orders import Grouping
from lcia.grouping.sweep import Stretch, sweep, widest
from tests.unit.grouping.test_codebook import features, grouping, letters_shared

TEXTS = {"A": "aaaa", "B": "aaab", "C": "aabb", "D": "bbbb", "E": "cccc"}
ORDER = tuple(TEXTS)
KNOWN = {task: features(text) for task, text in TEXTS.items()}


def groups(placements: object) -> list[int]:
    return [placement.group for placement in placements]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def found() -> list[Stretch]:
    return list(sweep(ORDER, KNOWN, letters_shared))


def test_stretches_meet_and_cover_all_thresholds(found: list[Stretch]) -> None:
    assert (found[0].low, found[-1].high) == (-math.inf, math.inf)
    # A grouping may change at a similarity that only the next one has: it begins where the last one ends, or below.
    assert all(before.high >= after.low for before, after in pairwise(found))
    assert [stretch.groups for stretch in found][-1] == len(ORDER)
    assert found[0].groups == 1


def test_every_threshold_groups_as_its_stretch_says(found: list[Stretch]) -> None:
    for threshold in np.linspace(0.01, 1, 100):
        made = Grouping(letters_shared, grouping(threshold=float(threshold))).follow(ORDER, KNOWN)
        mine = [stretch for stretch in found if stretch.low < threshold <= stretch.high]
        assert mine
        for stretch in mine:
            assert groups(stretch.placements) == groups(placement for placement, _ in made)


def test_neighbours_differ(found: list[Stretch]) -> None:
    shown = [groups(stretch.placements) for stretch in found]
    assert all(a != b for a, b in pairwise(shown))


def test_one_task_alone_has_one_grouping() -> None:
    [only] = sweep(("A",), KNOWN, letters_shared)
    assert (only.low, only.high, only.groups) == (-math.inf, math.inf, 1)


def test_the_widest_stretch_is_measured_between_the_limits(found: list[Stretch]) -> None:
    spread = [stretch.width((0.0, 1.0)) for stretch in found]
    assert sum(spread) == pytest.approx(1)
    assert spread[widest(found, (0.0, 1.0))] == max(spread)
    low, high = found[1].within((0.0, 1.0))
    assert widest(found, (low, high)) == 1
    assert found[-1].within((0.0, 0.1)) == (found[-1].low, found[-1].low)
