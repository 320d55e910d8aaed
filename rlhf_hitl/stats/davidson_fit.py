"""Fit Davidson's model of wins and ties to the outcomes of pairs: a strength for each competitor, and what covariates
are worth.

A pair with a margin of m logits ends as first better, tie, second better with odds exp(m / 2) : nu : exp(-m / 2)
(Davidson 1970, "On extending the Bradley-Terry model to accommodate ties"); m is the difference of the strengths, plus
covariates times their coefficients. Without ties nu is 0 and this is Bradley and Terry's model. It is an exponential
family, so the log-likelihood is concave and Newton's method finds its top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MAX_STEPS = 100
MAX_LOGITS_A_STEP = 2.0
#: The curvature of the step before is used again where that step came so many times nearer.
GOOD_STEP = 5.0


@dataclass(frozen=True)
class PairRows:
    """What is fitted: pairs of competitors, several rows of one pair where its covariates differ.

    Attributes:
        first, second: (n,) the numbers of the competitors, from 0.
        covariates: (n, k) of the first less those of the second; k may be 0.
        competitors: how many there are.
        prior_deviation: in logits, the standard deviation of the normal prior of each strength, coefficient and log nu
            around 0; infinity for none. A likelihood without a top has one with it.
    """

    first: np.ndarray
    second: np.ndarray
    covariates: np.ndarray
    competitors: int
    prior_deviation: float = math.inf

    @property
    def parameters(self) -> int:
        return self.competitors + self.covariates.shape[1] + 1


@dataclass(frozen=True)
class DavidsonFit:
    """A fit: `strengths` (competitors,) and `coefficients` (k,) in logits; `log_nu` is -inf without ties."""

    strengths: np.ndarray
    coefficients: np.ndarray
    log_nu: float


def fit_davidson(
    rows: PairRows, counts: np.ndarray, start: DavidsonFit | None = None, tolerance: float = 1e-9
) -> DavidsonFit:
    """Return the strengths at the top of the posterior; those that comparisons connect sum to their start's sum, 0.

    Args:
        counts: (n, 3) the weight of the outcomes first better, tie, second better of each row.
        start: a fit to begin with, such as that of other counts.
        tolerance: in logits, of the last step.
    """
    theta = np.zeros(rows.parameters)
    if start is not None:
        theta[: rows.competitors], theta[rows.competitors : -1] = start.strengths, start.coefficients
    counted, precision = _Counts(counts), rows.prior_deviation**-2
    if counted.ties and start is not None and math.isfinite(start.log_nu):
        theta[-1] = start.log_nu
    came, inverse = math.inf, None  # how far the step before went
    at = _evaluate(rows, counted, theta, precision)
    for _ in range(MAX_STEPS):
        is_fresh = inverse is None
        if inverse is None:
            inverse = _invert(_compute_curvature(rows, counted, at, precision))
        step = inverse @ at.slope
        largest = float(np.abs(step).max())
        if largest < tolerance and is_fresh:
            break
        step *= min(1.0, MAX_LOGITS_A_STEP / (largest or 1.0))
        reached = _evaluate(rows, counted, theta + step, precision)
        least = at.value - 1e-12 * abs(at.value)  # rounding
        if reached.value < least and not is_fresh:
            inverse = None
            continue
        while reached.value < least and np.abs(step).max() > 1e-15:  # a step uphill leads up if it is short enough
            step /= 2
            reached = _evaluate(rows, counted, theta + step, precision)
        theta, at = theta + step, reached
        if largest < tolerance:
            break
        if largest > came / GOOD_STEP:
            inverse = None
        came = largest
    k = rows.competitors
    return DavidsonFit(theta[:k], theta[k:-1], float(theta[-1]) if counted.ties else -math.inf)


def compute_margins(rows: PairRows, fit: DavidsonFit) -> np.ndarray:
    """Return (n,) the margin of each row, in logits."""
    return fit.strengths[rows.first] - fit.strengths[rows.second] + rows.covariates @ fit.coefficients


class _Counts:
    """The weight of the outcomes of each row, as the likelihood needs it: all, wins less losses, and ties."""

    def __init__(self, counts: np.ndarray):
        better, self.tied, worse = np.ascontiguousarray(counts.T)
        self.all, self.won = better + self.tied + worse, better - worse
        self.ties = float(self.tied.sum())


class _Point(NamedTuple):
    """The log-posterior somewhere, its gradient, and of each row the expected lead (the probability that the first is
    better less that of the second) and the probability of a tie."""

    value: float
    slope: np.ndarray
    lead: np.ndarray
    tie: np.ndarray


def _evaluate(rows: PairRows, counts: _Counts, theta: np.ndarray, precision: float) -> _Point:
    k, nu = rows.competitors, math.exp(theta[-1]) if counts.ties else 0.0
    half = (theta[rows.first] - theta[rows.second] + rows.covariates @ theta[k:-1]) / 2
    size = np.abs(half)
    ratio = np.exp(-size)  # the odds of better : tie : worse are 1 : nu ratio : ratio²
    worse = ratio * ratio
    tie = nu * ratio
    whole = 1 + tie + worse
    lead = np.copysign((1 - worse) / whole, half)
    tie /= whole
    value = float(counts.won @ half - counts.all @ (size + np.log(whole)))
    of_margin = (counts.won - counts.all * lead) / 2
    slope = np.zeros(len(theta))
    slope[:k] = np.bincount(rows.first, of_margin, k) - np.bincount(rows.second, of_margin, k)
    slope[k:-1] = rows.covariates.T @ of_margin
    if counts.ties:
        value += counts.ties * float(theta[-1])
        slope[-1] = counts.ties - counts.all @ tie
    return _Point(value - precision * float(theta @ theta) / 2, slope - precision * theta, lead, tie)


def _compute_curvature(rows: PairRows, counts: _Counts, at: _Point, precision: float) -> np.ndarray:
    """Return (p, p) the negative Hessian of the log-posterior: the covariance of what is counted."""
    k, z = rows.competitors, rows.covariates
    spread = counts.all * (1 - at.tie - at.lead**2) / 4
    matrix = np.zeros((rows.parameters, rows.parameters))
    between = np.bincount(rows.first * k + rows.second, spread, k * k).reshape(k, k)
    between += between.T
    matrix[:k, :k] = np.diag(between.sum(1)) - between
    for column in range(z.shape[1]):
        weighed = spread * z[:, column]
        matrix[:k, k + column] = np.bincount(rows.first, weighed, k) - np.bincount(rows.second, weighed, k)
    matrix[k:-1, k:-1] = z.T @ (spread[:, None] * z)
    if counts.ties:
        shared = -counts.all * at.tie * at.lead / 2
        matrix[:k, -1] = np.bincount(rows.first, shared, k) - np.bincount(rows.second, shared, k)
        matrix[k:-1, -1] = z.T @ shared
        matrix[-1, -1] = counts.all @ (at.tie * (1 - at.tie))
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    return matrix + precision * np.eye(len(matrix))


def _invert(matrix: np.ndarray) -> np.ndarray:
    """Return the pseudo-inverse: without a prior, nothing is known of the mean of those that comparisons connect."""
    return np.linalg.pinv(matrix, rcond=1e-12, hermitian=True)
