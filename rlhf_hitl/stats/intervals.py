"""Intervals and bounds for shares.

scipy.stats is imported where it is used: half a second that a server which starts has no use for.
"""

from __future__ import annotations

import numpy as np


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927). (0, 1) where n is 0."""
    from scipy import stats

    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def clopper_pearson_upper_bound(errors: int, n: int, delta: float = 0.05) -> float:
    """One-sided Clopper-Pearson bound: with probability 1 - delta the true error rate is below it. 1 where n is 0."""
    from scipy import stats

    if n == 0 or errors >= n:
        return 1.0
    return float(stats.beta.ppf(1 - delta, errors + 1, n - errors))


def clustered_share_interval(values: np.ndarray, clusters: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share whose examples come in clusters (several examples of one prompt): Wilson's, with the number
    of examples that would be worth as much were they independent (Korn & Graubard 1998, with its t correction).

    It stays honest where a bootstrap does not: few clusters, or a share of 0 or 1.

    Args:
        values: (n,) 0 to 1; their mean is the share.
        clusters: (n,) the cluster of each.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return 0.0, 1.0
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups, share = int(index.max()) + 1, float(x.mean())
    if groups == 1:
        return 0.0, 1.0  # one prompt says nothing of others
    spread = np.bincount(index, x - share)
    variance = (spread**2).sum() * groups / (groups - 1) / n**2
    # Without any spread between clusters nothing is known of it but that there are so many.
    worth = min(float(n), share * (1 - share) / variance) if variance > 0 else float(groups)
    z = stats.norm.ppf(0.5 + level / 2)
    worth *= (z / stats.t.ppf(0.5 + level / 2, groups - 1)) ** 2
    centre = (share + z**2 / (2 * worth)) / (1 + z**2 / worth)
    half = z / (1 + z**2 / worth) * np.sqrt(share * (1 - share) / worth + z**2 / (4 * worth**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def clustered_mean_interval(
    values: np.ndarray, clusters: np.ndarray, bounds: tuple[float, float] = (-1.0, 1.0), level: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean that is no share (of a difference, of a correlation) whose examples come in clusters: by the
    spread between clusters, with t of as many degrees less one (Cameron & Miller 2015).

    Args:
        values: (n,) within `bounds`, which are all that is known where there is one cluster only.
        clusters: (n,) the cluster of each.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups = len(np.unique(index))
    if groups < 2:
        return bounds
    spread = np.bincount(index, x - x.mean())
    half = stats.t.ppf(0.5 + level / 2, groups - 1) * np.sqrt((spread**2).sum() * groups / (groups - 1)) / len(x)
    return max(bounds[0], float(x.mean() - half)), min(bounds[1], float(x.mean() + half))
