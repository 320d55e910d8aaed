"""The noise ceiling: how accurate a model can be where raters disagree with each other."""

from __future__ import annotations

from typing import Any

import numpy as np


def fit_concentration(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the maximum-likelihood a of Beta(a, a), the distribution of the share of raters who prefer the first.

    The votes of a pair are beta-binomial (Skellam 1948). If a is small, raters mostly agree; if it is large, votes are
    like coin tosses.

    Args:
        first, second: (n,) votes for either side; pairs with fewer than two votes have no influence.
        weights: (n,) how often each pair counts.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import betaln

    w = np.ones(len(first)) if weights is None else weights

    def loss(log_a: float) -> float:
        a = np.exp(log_a)
        return -float((w * (betaln(a + first, a + second) - betaln(a, a))).sum())

    fit: Any = minimize_scalar(loss, bounds=(-6, 6), method="bounded")
    return float(np.exp(fit.x))


def majority_probability(first: np.ndarray, second: np.ndarray, concentration: float) -> np.ndarray:
    """Return (n,) the probability, given the votes, that most of all raters prefer the side with more votes."""
    from scipy.special import betainc

    a, b = np.maximum(first, second), np.minimum(first, second)
    return betainc(concentration + b, concentration + a, 0.5)


def estimate_noise_ceiling(
    first: np.ndarray,
    second: np.ndarray,
    decided: np.ndarray,
    clusters: np.ndarray,
    *,
    certain: np.ndarray | None = None,
    draws: int = 200,
    level: float = 0.95,
) -> tuple[float, float, float] | None:
    """Return (value, low, high) of the accuracy of a model that knows what most raters prefer; None with few data.

    The accuracy is on the labels of these few raters, so it is below 1. Each pair has its own share of raters who
    prefer the first, drawn from Beta(a, a). a is fitted to the pairs with two or more votes, with or without a
    majority; then it gives for each decided label the probability that its majority is that of all raters (empirical
    Bayes). So a label of one vote lowers the ceiling more than one of five. The interval resamples whole clusters and
    refits. None means that fewer than 20 pairs have two votes.

    Args:
        first, second: (n,) votes for either side, which may be weighted.
        decided: (n,) bool, the labels on which accuracy is measured.
        clusters: (n,) the prompt of each pair.
        certain: (n,) bool, the labels that a lead has decided: they have no noise of raters, though their votes say how
            far raters agree.
    """
    has_two_votes = first + second >= 2
    if has_two_votes.sum() < 20 or not decided.any():
        return None
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(index.max()) + 1

    def value(weights: np.ndarray) -> float:
        a = fit_concentration(first[has_two_votes], second[has_two_votes], weights[has_two_votes])
        right = majority_probability(first, second, a)
        right = right if certain is None else np.where(certain, 1.0, right)
        return float(np.average(right[decided], weights=weights[decided]))

    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(groups, size=groups), minlength=groups)[index].astype(float)
        if weights[decided].any() and weights[has_two_votes].any():
            resampled.append(value(weights))
    low, high = np.quantile(resampled, [0.5 - level / 2, 0.5 + level / 2])
    return value(np.ones(len(first))), float(low), float(high)
