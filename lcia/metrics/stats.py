"""Spread over seeds and paired comparisons between methods, for study tables; thin over scipy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lcia.types import InputError


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n - 1); None for the deviation of a single value."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean of a - b over pairs, its bootstrap interval, and the two-sided p-values of two paired tests.

    None where a test has no answer: fewer than two pairs, or all differences equal.
    """

    difference: float
    low: float | None
    high: float | None
    t_p: float | None
    wilcoxon_p: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    if not values:
        raise InputError("nothing to take a mean of; no run has this figure")
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Compares two methods on the same seeds: a[k] and b[k] belong together.

    Paired t (assumes normal differences), Wilcoxon's signed ranks (assumes symmetric ones; below six pairs its p-value
    cannot fall under 0.05) and a percentile bootstrap of the mean.
    """
    if len(a) != len(b):
        raise InputError(f"paired values must be as many on both sides, not {len(a)} and {len(b)}")
    differences = np.subtract(a, b)
    mean = spread(differences.tolist()).mean
    if len(a) < 2 or np.ptp(differences) == 0:
        return Comparison(mean, None, None, None, None, len(a))
    low, high = bootstrap_mean(differences.tolist(), confidence, seed)
    return Comparison(mean, low, high, _t(a, b), _wilcoxon(a, b), len(a))


def bootstrap_mean(
    values: Sequence[float], confidence: float, seed: int, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile interval of the mean over `resamples` draws with replacement."""
    draws = np.random.default_rng(seed).choice(np.asarray(values), (resamples, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def _t(a: Sequence[float], b: Sequence[float]) -> float:
    from scipy import stats

    return float(stats.ttest_rel(a, b).pvalue)


def _wilcoxon(a: Sequence[float], b: Sequence[float]) -> float:
    from scipy import stats

    return float(stats.wilcoxon(a, b).pvalue)
