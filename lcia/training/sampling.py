"""Which samples a step sees, by arithmetic from (seed, epoch, step): no iterator to save, the same on any workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from lcia.config.run import TrainingConfig

MEGABATCH = 50
"""Batches that are sorted by length together when grouping by length (transformers uses the same number)."""

Indices = NDArray[np.int64]


def total_steps(training: TrainingConfig, rows: int) -> int:
    """Optimizer steps of one stage: `max_steps` if given, else enough for `num_train_epochs` passes over the rows."""
    return training.max_steps or max(1, ceil(rows * training.num_train_epochs / training.batch_size))


def seed_of(seed: int, step: int, rank: int) -> int:
    """The seed of whatever is random in one step on one worker, so that it is the same after a restart."""
    return (seed * 1_000_003 + step) * 1_009 + rank


def drawn(rows: int, count: int, seed: int) -> Indices:
    """`count` of `rows` different row numbers (all, if there are fewer), in ascending order."""
    # A stream of its own: an epoch's generator has two numbers.
    generator = np.random.Generator(np.random.PCG64([seed, rows, count]))
    return np.sort(generator.permutation(rows)[:count])


@dataclass(frozen=True)
class Sampler:
    """Endless epochs of `rows` samples in batches of `batch_size`; a batch may straddle two epochs.

    With `lengths` given (tokens or any proxy, [rows]), samples of about equal length meet in a batch.
    """

    rows: int
    batch_size: int
    seed: int
    lengths: Callable[[], Indices] | None = None

    def step(self, step: int) -> Indices:
        """Row numbers [batch_size] of one optimizer step (from 0), over all workers."""
        start = step * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        epochs = positions // self.rows
        return np.concatenate([self._epoch(int(e))[positions[epochs == e] % self.rows] for e in np.unique(epochs)])

    def share(self, step: int, rank: int, world: int) -> Indices:
        """The part of a step that worker `rank` of `world` trains on."""
        return self.step(step)[rank::world]

    def _epoch(self, epoch: int) -> Indices:
        return _permutation(self, epoch)


@lru_cache(maxsize=4)
def _permutation(sampler: Sampler, epoch: int) -> Indices:
    generator = np.random.Generator(np.random.PCG64([sampler.seed, epoch]))
    order = generator.permutation(sampler.rows)
    return order if sampler.lengths is None else _by_length(order, sampler.lengths(), sampler.batch_size, generator)


def _by_length(order: Indices, lengths: Indices, batch_size: int, generator: np.random.Generator) -> Indices:
    """Sorts each megabatch by length, then shuffles whole batches, so that long ones do not cluster."""
    size = MEGABATCH * batch_size
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    ordered = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    full = len(batches) - (len(batches[-1]) < batch_size)
    shuffled = [batches[i] for i in generator.permutation(full)]
    return np.concatenate(shuffled + batches[full:])
