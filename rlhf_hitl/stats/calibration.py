"""Calibration: are outcomes as frequent as the probabilities stated for them?"""

from __future__ import annotations

import math

import numpy as np

MIN_BIN, MAX_BINS = 20, 10  # examples of a bin, and bins


def split_into_equal_bins(values: np.ndarray, bins: int | None = None) -> list[np.ndarray]:
    """Return the indices of `values` (n,) in ascending order, cut into `bins` non-empty parts of about equal count.

    Without `bins` there is one part for each 20 values, and no more than ten.
    """
    order = np.argsort(values, kind="stable")
    bins = max(1, min(MAX_BINS, len(order) // MIN_BIN)) if bins is None else min(bins, len(order))
    return np.array_split(order, bins) if len(order) else []


def estimate_calibration_error(
    probabilities: np.ndarray, outcomes: np.ndarray, clusters: np.ndarray, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return (value, low, high) of the calibration error: how far stated probabilities are from shares of successes.

    It is the root of the mean squared gap between the two, over bins of equal count. Because of chance no measured gap
    is 0, and the square of each is too large on average: by so much that a perfectly calibrated model would seem off by
    a tenth on a hundred examples. So the square of a bin's gap is estimated by the mean product of two examples' gaps,
    over all pairs of different clusters, which is right on average (the debiased estimator of Kumar, Liang & Ma 2019,
    4.2; Ferro & Fricker 2012). A mean square below 0 counts as 0.

    The confidence interval holds the errors with which the measured sum of squared gaps is among the middle 95 % of the
    sums to be expected. Such a sum is like a multiple of a noncentral chi-square (Satterthwaite 1946), with the
    covariance of the bins' gaps over clusters. In it a variance is no smaller than that of independent examples with
    two more successes and failures (Agresti & Coull 1998): examples that are all successes would seem to have none. The
    upper end is no lower than that of the median sum which chance alone gives: less than that proves nothing more.

    Args:
        probabilities: (n,) in [0, 1].
        outcomes: (n,) 0 or 1, or a share between.
        clusters: (n,) the cluster of each example. Where no two of a bin differ, the interval is from 0 to 1.
    """
    from scipy import special, stats

    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    groups, group = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(p):
        return math.nan, 0.0, 1.0
    bins = split_into_equal_bins(p)
    n = np.array([len(rows) for rows in bins])
    bin_of = np.empty(len(p), int)
    bin_of[np.concatenate(bins)] = np.repeat(np.arange(len(bins)), n)
    cell, shape = group * len(bins) + bin_of, (len(groups), len(bins))
    sums = np.bincount(cell, p - y, minlength=math.prod(shape)).reshape(shape)  # of gaps
    counts = np.bincount(cell, minlength=math.prod(shape)).reshape(shape)

    pairs = n**2 - (counts**2).sum(0)  # of examples of different clusters; a bin of one cluster has none, and no weight
    if not pairs.any():
        return abs(float(np.mean(p - y))), 0.0, 1.0
    squares = np.divide(sums.sum(0) ** 2 - (sums**2).sum(0), pairs, out=np.zeros(len(bins)), where=pairs > 0)
    weights = np.where(pairs > 0, n, 0) / n[pairs > 0].sum()
    square = float(weights @ squares)

    deviations = (sums - counts * (sums.sum(0) / n)) / n
    covariance = len(groups) / (len(groups) - 1) * deviations.T @ deviations
    shares = (np.array([y[rows].sum() for rows in bins]) + 2) / (n + 4)
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), shares * (1 - shares) / n))
    # Few clusters: as where a share of clustered examples is estimated (Korn & Graubard 1998).
    upper_tail = 0.5 + level / 2
    covariance *= float(stats.t.ppf(upper_tail, len(groups) - 1) / stats.norm.ppf(upper_tail)) ** 2
    weighted = weights[:, None] * covariance
    trace, trace_of_square = float(np.trace(weighted)), float(np.trace(weighted @ weighted))
    scale, freedom = trace_of_square / trace, trace**2 / trace_of_square
    measured = float(weights @ (sums.sum(0) / n) ** 2) / scale

    def invert(x: float, tail: float) -> float:
        """Return the mean square with which a share `tail` of the sums is below x; 0 if it is less with any."""
        return scale * float(special.chndtrinc(x, freedom, tail)) if stats.chi2.cdf(x, freedom) > tail else 0.0

    ends = invert(measured, upper_tail), square, invert(max(measured, stats.chi2.median(freedom)), 1 - upper_tail)
    low, value, high = (min(1.0, math.sqrt(max(0.0, x))) for x in ends)
    return value, min(low, value), max(high, value)
