"""Which workers find no room; the expected numbers are counted by hand."""

from __future__ import annotations

import pytest

from pipelines.placement import Demand, Machine, unplaced


@pytest.mark.parametrize(
    ("machines", "demands", "missing"),
    [
        ([(4, 0)], [(4, 1, 0)], []),
        ([(4, 0)], [(5, 1, 0)], [1]),
        ([(8, 2)], [(2, 1, 1)], []),
        ([(8, 2)], [(3, 1, 1)], [1]),
        # Parts of a GPU lie on one: two of 0.6 need two, a third finds 0.4 and 0.4 free.
        ([(8, 2)], [(3, 1, 0.6)], [1]),
        ([(8, 1)], [(3, 1, 1 / 3)], []),
        # Two whole GPUs are of one machine.
        ([(8, 1), (8, 1)], [(1, 1, 2)], [1]),
        # The large go first: else the parts of a GPU would sit on both.
        ([(8, 2)], [(2, 1, 0.5), (1, 1, 1)], []),
        # GPUs without CPUs beside them are of no use.
        ([(1, 4)], [(2, 1, 1)], [1]),
    ],
)
def test_what_finds_no_room_is_counted(
    machines: list[tuple[float, int]], demands: list[tuple[int, float, float]], missing: list[int]
) -> None:
    left = unplaced([Machine(*one) for one in machines], [Demand("workers", *one) for one in demands])
    assert [demand.count for demand in left] == missing
