"""Calibration: are outcomes as frequent as the probabilities stated for them?"""

from __future__ import annotations

import numpy as np


def split_into_equal_bins(values: np.ndarray, bins: int = 10) -> list[np.ndarray]:
    """Return the indices of `values` (n,) in ascending order, cut into `bins` non-empty parts of about equal count."""
    order = np.argsort(values, kind="stable")
    return np.array_split(order, min(bins, len(order))) if len(order) else []


def expected_calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> float:
    """Return the mean gap between stated probability and share of successes, over bins of equal count.

    Source: Nguyen & O'Connor 2015.

    Args:
        probabilities: (n,) in [0, 1].
        outcomes: (n,) 0 or 1, or a share between.
    """
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    if len(p) == 0:
        return float("nan")
    return float(sum(len(i) * abs(p[i].mean() - y[i].mean()) for i in split_into_equal_bins(p, bins)) / len(p))


def calibration_error_interval(
    probabilities: np.ndarray, outcomes: np.ndarray, clusters: np.ndarray, *, draws: int = 500, level: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval of the expected calibration error, by resampling whole clusters.

    It is a basic bootstrap (Davison & Hinkley 1997, 5.2), widened where necessary to contain the estimate. The
    calibration error of a sample is biased upwards, and that of a resample by about as much again. The basic bootstrap
    subtracts this bias; percentiles would add it.

    Args:
        probabilities, outcomes: as for `expected_calibration_error`.
        clusters: (n,) the cluster of each example.
    """
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    estimate = expected_calibration_error(p, y)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    rng = np.random.default_rng(0)
    resampled = np.empty(draws)
    for i in range(draws):
        rows = np.concatenate([members[c] for c in rng.integers(len(members), size=len(members))])
        resampled[i] = expected_calibration_error(p[rows], y[rows])
    upper, lower = np.quantile(resampled, [0.5 + level / 2, 0.5 - level / 2])
    low, high = 2 * estimate - upper, 2 * estimate - lower
    return max(0.0, min(float(low), estimate)), min(1.0, max(float(high), estimate))
