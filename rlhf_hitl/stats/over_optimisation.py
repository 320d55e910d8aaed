"""Over-optimisation: whether what raises one reward lowers another.

A policy that is tilted towards a reward r, pi_t proportional to pi exp(t r), changes the mean of any other reward g by
d/dt E[g] = Cov(r, g), the covariance under the policy itself: the derivative of an exponential family's mean. So
answers of the policy tell where the next step leads a gold reward before it goes there, and a fall that has happened is
the second thing to look for (Gao, Schulman & Hilton 2023, "Scaling laws for reward model overoptimization").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: With fewer groups their sums tell too little of how much they vary.
MIN_GROUPS = 16


@dataclass(frozen=True)
class Direction:
    """Where a step along the reward leads the gold reward.

    Attributes:
        correlation: of reward and gold among answers of one group; 0 where either does not vary.
        z: how far the covariance is from 0, as a standard normal deviate; 0 where there are too few groups to say.
    """

    correlation: float
    z: float


def measure_direction(rewards: np.ndarray, gold: np.ndarray, groups: np.ndarray) -> Direction:
    """Return how gold goes with the reward among answers that a policy might have given instead of each other.

    The covariance is the mean of the groups' own, each unbiased. Products within a group depend on each other (those of
    a pair are equal), so its error is that of sums over groups, with Student's t for their number.

    Args:
        rewards, gold: (n,) of the policy's answers.
        groups: (n,) whole numbers; answers are compared within a group, such as those to one prompt. An answer alone in
            its group says nothing.
    """
    from scipy import stats

    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    x, y = (_centre(values, index, sizes) for values in (rewards, gold))
    several = sizes > 1
    n, count = int(sizes[several].sum()), int(several.sum())
    spread = math.sqrt(float((x**2).sum() * (y**2).sum()))
    if count < 2 or spread == 0:
        return Direction(0.0, 0.0)
    sums = np.bincount(index, x * y, len(sizes))[several] / n
    correlation = float(sums.sum()) * n / spread
    error = math.sqrt(count * float(sums.var(ddof=1)))
    if count < MIN_GROUPS or error == 0:
        return Direction(correlation, 0.0)
    t = float(sums.sum()) / error
    return Direction(correlation, math.copysign(float(stats.norm.isf(stats.t.sf(abs(t), count - 1))), t))


def _centre(values: np.ndarray, index: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Take each group's mean away, and scale so that the variance is that of single values in spite of it."""
    x = np.asarray(values, dtype=float)
    centred = x - (np.bincount(index, x, len(sizes)) / sizes)[index]
    return centred * np.sqrt(sizes / np.maximum(sizes - 1, 1))[index]


def compare_means(before: np.ndarray, now: np.ndarray) -> float:
    """Return by how many standard errors the mean has risen (Welch 1947); 0 where nothing is known of the spread."""
    a, b = np.asarray(before, dtype=float), np.asarray(now, dtype=float)
    if len(a) < 2 or len(b) < 2:
        return 0.0
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return float(b.mean() - a.mean()) / error if error > 0 else 0.0
