"""Spread over seeds and paired comparisons between methods, for study tables; thin over scipy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from lcia.types import InputError

ENOUGH_PAIRS = 6
"""Of fewer, Wilcoxon's test cannot reach 0.05, and a t test rests on its assumption alone."""
LEVEL = 0.05
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n - 1); None for the deviation of a single value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean of a - b over n pairs, its bootstrap interval, and the two-sided p-values of two paired tests.

    `d`: Cohen's d of paired differences (d_z). `t_holm`, `wilcoxon_holm`: p-values after Holm's correction for all
    comparisons of a table; `holm` fills them in. None where there is no answer: fewer than two pairs, or all
    differences equal.
    """

    difference: float
    low: float | None
    high: float | None
    t_p: float | None
    wilcoxon_p: float | None
    n: int
    d: float | None = None
    t_holm: float | None = None
    wilcoxon_holm: float | None = None

    @property
    def is_significant(self) -> bool:
        """By the corrected t test, and with pairs enough to say so."""
        return self.n >= ENOUGH_PAIRS and self.t_holm is not None and self.t_holm < LEVEL


def spread(values: Sequence[float]) -> Spread:
    if not values:
        raise InputError("nothing to take a mean of; no run has this figure")
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


def paired(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0) -> Comparison:
    """Compares two methods on the same orders and seeds: a[k] and b[k] belong together.

    Paired t (assumes normal differences), Wilcoxon's signed ranks (assumes symmetric ones) and a percentile bootstrap
    of the mean.
    """
    if len(a) != len(b):
        raise InputError(f"paired values must be as many on both sides, not {len(a)} and {len(b)}")
    # Scores are counts, so equal differences are common; their ties must not hang on the last bit.
    differences = np.round(np.asarray(a, np.float64) - np.asarray(b, np.float64), 9)
    mean = spread(differences.tolist()).mean
    if len(a) < 2 or np.ptp(differences) == 0:
        return Comparison(mean, None, None, None, None, len(a))
    low, high = bootstrap_mean(differences.tolist(), confidence, seed)
    return Comparison(mean, low, high, _t(differences), _wilcoxon(differences), len(a), cohen_d(differences))


def holm(table: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The comparisons of a table as one family: the chance that any of them is found where none is stays below the
    level (Holm 1979)."""
    t = holm_adjusted([c.t_p for c in table.values()])
    wilcoxon = holm_adjusted([c.wilcoxon_p for c in table.values()])
    return {
        label: replace(comparison, t_holm=t_p, wilcoxon_holm=wilcoxon_p)
        for (label, comparison), t_p, wilcoxon_p in zip(table.items(), t, wilcoxon, strict=True)
    }


def holm_adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """max_{j<=k} min(1, (m - j + 1) p_(j)) for the k-th smallest of m p-values; no answer counts as p = 1.

    statsmodels' multipletests gives the same (a test holds it so), but collects garbage at every call, which takes
    seconds in a process that holds a study.
    """
    known = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(known, kind="stable")
    adjusted = np.empty_like(known)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(known), 0, -1) * known[order]))
    return [None if p is None else float(q) for p, q in zip(p_values, adjusted, strict=True)]


def cohen_d(differences: NDArray[np.float64]) -> float:
    """d_z: mean over sample standard deviation of the paired differences (Lakens 2013, equation 6)."""
    return float(differences.mean() / differences.std(ddof=1))


def smallest_wilcoxon_p(pairs: int) -> float:
    """2 / 2^n: all differences have one sign, in either direction, out of 2^n patterns of signs."""
    return 2.0 ** (1 - pairs)


def bootstrap_mean(
    values: Sequence[float], confidence: float, seed: int, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile interval of the mean over `resamples` draws with replacement."""
    draws = np.random.default_rng(seed).choice(np.asarray(values), (resamples, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def clustered_interval(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Interval of the mean of values that come in clusters, [samples] both; None: fewer than two clusters.

    m +- t_(G - 1) se with se^2 = G / (G - 1) sum over the G clusters of (sum of (value - m))^2 / n^2: values of one
    cluster may move together, clusters do not (Liang and Zeger 1986; for benchmarks: Miller 2024, arXiv 2411.00640).
    """
    from scipy import stats

    mean = float(np.mean(values))
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    count = len(sums)
    if count < 2:
        return None
    error = sqrt(count / (count - 1) * sum(each**2 for each in sums.values())) / len(values)
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    return mean - reach, mean + reach


def _t(differences: NDArray[np.float64]) -> float:
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    """Exact up to 13 pairs, and up to 50 where no two differences are equal and none is zero; else the normal
    approximation."""
    from scipy import stats

    return float(stats.wilcoxon(differences).pvalue)
