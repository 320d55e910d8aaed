"""Confidence intervals and bounds of shares and means.

scipy.stats takes half a second to import, so it is imported where it is used: a server that starts does not need it.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927); (0, 1) if n is 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half) if successes else 0.0, min(1.0, middle + half) if successes < n else 1.0


def clopper_pearson_upper_bound(errors: float, n: float, delta: float = 0.05) -> float:
    """Return the bound below which the true error rate is with probability 1 - delta; 1 if n is 0 (one-sided).

    Fractions of examples are fine.
    """
    from scipy import stats

    if n == 0 or errors >= n:
        return 1.0
    return float(stats.beta.ppf(1 - delta, errors + 1, n - errors))


def clustered_share_upper_bound(values: np.ndarray, clusters: np.ndarray, delta: float = 0.05) -> float:
    """Return a bound below which a share of examples that come in clusters is with probability 1 - delta (one-sided).

    It is Clopper and Pearson's with the effective number of independent examples (Korn & Graubard 1998, with their t
    correction); 1 for fewer than two clusters. With one example in each cluster it is a little above theirs.

    Args:
        values: (n,) 0 or 1; their mean is the share.
        clusters: (n,) the cluster of each example.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(index.max()) + 1 if len(x) else 0
    if groups < 2:
        return 1.0
    n = compute_effective_n(x, index)
    n *= float(stats.norm.ppf(1 - delta) / stats.t.ppf(1 - delta, groups - 1)) ** 2
    return clopper_pearson_upper_bound(float(x.mean()) * n, n, delta)


def compute_effective_n(values: np.ndarray, index: np.ndarray) -> float:
    """Return how many independent examples say as much about a share as these do, which come in clusters.

    Args:
        values: (n,) 0 to 1.
        index: (n,) the number of each example's cluster, from 0; two clusters or more.
    """
    n, groups, share = len(values), int(index.max()) + 1, float(values.mean())
    spread = np.bincount(index, values - share)
    variance = (spread**2).sum() * groups / (groups - 1) / n**2
    # Without spread between clusters, the number of clusters is all that is known.
    return min(float(n), share * (1 - share) / variance) if variance > 0 else float(groups)


def clustered_share_interval(values: np.ndarray, clusters: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share whose examples come in clusters, such as several examples of one prompt.

    It is Wilson's interval with the effective number of independent examples (Korn & Graubard 1998, with their t
    correction). It keeps its coverage where a bootstrap does not: with few clusters, or a share of 0 or 1.

    Args:
        values: (n,) 0 to 1; their mean is the share.
        clusters: (n,) the cluster of each example.
    """
    from scipy import stats

    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return 0.0, 1.0
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups, share = int(index.max()) + 1, float(x.mean())
    if groups == 1:
        return 0.0, 1.0  # one prompt tells nothing about others
    effective_n = compute_effective_n(x, index)
    z = stats.norm.ppf(0.5 + level / 2)
    effective_n *= (z / stats.t.ppf(0.5 + level / 2, groups - 1)) ** 2
    centre = (share + z**2 / (2 * effective_n)) / (1 + z**2 / effective_n)
    half = z / (1 + z**2 / effective_n) * np.sqrt(share * (1 - share) / effective_n + z**2 / (4 * effective_n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def clustered_mean_interval(
    values: np.ndarray, clusters: np.ndarray, bounds: tuple[float, float] = (-1.0, 1.0), level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a mean that is not a share (a difference, a correlation) over clustered examples.

    It uses the spread between clusters and the t distribution with (clusters - 1) degrees of freedom (Cameron & Miller
    2015).

    Args:
        values: (n,) within `bounds`, which are returned if there is only one cluster.
        clusters: (n,) the cluster of each example.
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
