"""Which samples a step sees follows from arithmetic alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lcia.config.run import TrainingConfig
from lcia.training.sampling import Sampler, seed_of, total_steps


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_shares_of_all_workers_are_the_step(world: int) -> None:
    sampler = Sampler(rows=50, batch_size=8, seed=3)
    shares = [sampler.share(5, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(shares)) == sorted(sampler.step(5))


def test_an_epoch_sees_every_row_once_even_where_a_batch_straddles_two() -> None:
    sampler = Sampler(rows=30, batch_size=8, seed=0)
    seen = np.concatenate([sampler.step(step) for step in range(15)])
    for epoch in range(4):
        assert sorted(seen[30 * epoch : 30 * (epoch + 1)]) == list(range(30))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first, again, other = (Sampler(100, 100, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.step(0), again.step(0))
    assert not np.array_equal(first.step(0), first.step(1))
    assert not np.array_equal(first.step(0), other.step(0))


def test_batches_by_length_hold_neighbours_and_still_every_row() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 400)
    sampler = Sampler(400, 8, 0, lambda: lengths)
    batches = [sampler.step(step) for step in range(50)]
    assert sorted(np.concatenate(batches)) == list(range(400))
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 40


def test_steps_follow_from_epochs_unless_given() -> None:
    assert total_steps(TrainingConfig(batch_size=16), 100) == 7
    assert total_steps(TrainingConfig(batch_size=16, num_train_epochs=2), 100) == 13
    assert total_steps(TrainingConfig(max_steps=5), 100) == 5


@pytest.mark.parametrize("lengths", [None, lambda: np.arange(50) % 7])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_the_shares_of_any_workers_are_disjoint_equal_in_number_and_the_step_of_one(world: int, lengths: Any) -> None:
    alone, many = (Sampler(50, 8, 3, lengths) for _ in range(2))
    for step in range(13):
        shares = [many.share(step, rank, world) for rank in range(world)]
        assert {len(share) for share in shares} == {8 // world}
        # Row by row: worker r holds the positions r, r + world, ... of the step that one worker alone would see.
        np.testing.assert_array_equal(np.stack(shares, axis=1).reshape(-1), alone.share(step, 0, 1))


def test_a_batch_larger_than_the_data_goes_round_several_times() -> None:
    seen = Sampler(rows=3, batch_size=8, seed=0).step(0)
    assert np.bincount(seen).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [0, 1, 2]


def test_batches_by_length_lie_closer_than_those_that_are_drawn() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 400)
    drawn, sorted_ = (Sampler(400, 8, 0, given) for given in (None, lambda: lengths))
    spans = [np.mean([np.ptp(lengths[s.step(i)]) for i in range(50)]) for s in (drawn, sorted_)]
    # Eight uniform draws of 1..1000 span 7/9 of it on average.
    assert spans[0] == pytest.approx(777, abs=60)
    assert spans[1] < 40


def test_batches_by_length_come_in_no_order_of_length() -> None:
    lengths = np.arange(400)
    means = [lengths[Sampler(400, 8, 0, lambda: lengths).step(i)].mean() for i in range(50)]
    assert abs(np.corrcoef(means, np.arange(50))[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("place", "seed"),
    [((0, 0, 0), 0), ((0, 0, 3), 3), ((0, 5, 0), 5_045), ((1, 0, 0), 1_009_003_027), ((2, 3, 4), 2_018_009_085)],
)
def test_the_seed_of_a_step_on_a_worker_is_pinned(place: tuple[int, int, int], seed: int) -> None:
    """Another formula would change every result under the same keys."""
    assert seed_of(*place) == seed


def test_the_rows_of_a_step_are_pinned() -> None:
    assert Sampler(10, 4, 7).step(0).tolist() == [8, 0, 7, 1]
    assert Sampler(10, 4, 7).step(2).tolist() == [5, 9, 9, 0]


@pytest.mark.parametrize(("rows", "last"), [(20, 4), (24, 0)])
def test_the_batch_of_length_groups_that_is_not_full_comes_last_and_full_ones_are_shuffled(
    rows: int, last: int
) -> None:
    """By length 8 rows make a batch of the 8 longest, and so on; a batch that is not full holds the shortest."""
    order = np.concatenate([Sampler(rows, 8, 0, lambda: np.arange(rows)).step(step) for step in range(3)])[:rows]
    assert sorted(order) == list(range(rows))
    full = [sorted(order[i : i + 8].tolist()) for i in range(0, rows - last, 8)]
    assert sorted(full) == [list(range(i, i + 8)) for i in range(last, rows, 8)]
    assert sorted(order[rows - last :].tolist()) == list(range(last))


def test_all_full_batches_take_part_in_the_shuffle() -> None:
    """Over many epochs the batch of the shortest rows comes first as well as last."""
    sampler = Sampler(24, 8, 0, lambda: np.arange(24))
    first = {int(sampler.step(3 * epoch).min()) for epoch in range(20)}
    assert first == {0, 8, 16}


def test_a_stage_has_one_step_at_least() -> None:
    assert total_steps(TrainingConfig(batch_size=16, num_train_epochs=0.01), 3) == 1


def test_fifty_batches_are_sorted_by_length_together() -> None:
    drawn, by_length = (Sampler(200, 2, 0, given) for given in (None, lambda: np.arange(200)))
    order = np.concatenate([drawn.step(step) for step in range(100)])
    halves = [np.sort(order[:100]).reshape(50, 2), np.sort(order[100:]).reshape(50, 2)]
    together = {frozenset(pair.tolist()) for half in halves for pair in half}
    assert {frozenset(by_length.step(step).tolist()) for step in range(100)} == together
