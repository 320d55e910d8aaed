"""Intervals and bounds for shares."""

from __future__ import annotations

import numpy as np
from scipy import stats


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927). (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def upper_bound(errors: int, n: int, delta: float = 0.05) -> float:
    """One-sided Clopper-Pearson bound: with probability 1 - delta the true error rate is below it. 1 where n is 0."""
    if n == 0 or errors >= n:
        return 1.0
    return float(stats.beta.ppf(1 - delta, errors + 1, n - errors))


def cluster_bootstrap(
    values: np.ndarray, clusters: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean whose examples come in clusters (several examples of one prompt).

    Args:
        values: (n,) numbers; their mean is the figure.
        clusters: (n,) the cluster of each; whole clusters are drawn with replacement (Davison & Hinkley 1997, 3.8).
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return float("nan"), float("nan")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
