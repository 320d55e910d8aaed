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


@dataclass(frozen=True)
class Direction:
    """Where a step along the reward leads the gold reward.

    Attributes:
        correlation: of reward and gold among answers to the same prompt; 0 where either does not vary.
        z: the covariance in its standard errors.
    """

    correlation: float
    z: float


def measure_direction(rewards: np.ndarray, gold: np.ndarray, groups: np.ndarray) -> Direction:
    """Return how gold goes with the reward among answers that a policy might have given instead of each other.

    Args:
        rewards, gold: (n,) of the policy's answers.
        groups: (n,) whole numbers; answers are compared within a group, such as those to one prompt.
    """
    r, g = _centre(rewards, groups), _centre(gold, groups)
    spread = math.sqrt(float((r**2).mean() * (g**2).mean())) if len(r) else 0.0
    products = r * g
    error = float(products.std(ddof=1)) / math.sqrt(len(r)) if len(r) > 1 else 0.0
    if spread == 0 or error == 0:
        return Direction(0.0, 0.0)
    return Direction(float(products.mean()) / spread, float(products.mean()) / error)


def _centre(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Take each group's mean away, and scale so that the variance is that of single values in spite of it."""
    x = np.asarray(values, dtype=float)
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not len(x):
        return x
    means = np.bincount(index, x) / sizes
    alone = sizes[index] == 1
    centred = (x - means[index]) * np.sqrt(sizes / np.maximum(sizes - 1, 1))[index]
    return centred[~alone]


def compare_means(before: np.ndarray, now: np.ndarray) -> float:
    """Return by how many standard errors the mean has risen (Welch 1947); 0 where nothing is known of the spread."""
    a, b = np.asarray(before, dtype=float), np.asarray(now, dtype=float)
    if len(a) < 2 or len(b) < 2:
        return 0.0
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return float(b.mean() - a.mean()) / error if error > 0 else 0.0
