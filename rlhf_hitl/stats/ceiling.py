"""How right can a model be where raters disagree among themselves?"""

from __future__ import annotations

from typing import Any

import numpy as np


def fit_concentration(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The a of Beta(a, a), the distribution of how many of all raters prefer the first, that makes the votes likeliest
    (beta-binomial: Skellam 1948). Small: raters mostly agree. Large: they toss coins.

    Args:
        first, second: (n,) votes for either side; pairs with fewer than two say nothing.
        weights: (n,) how often each pair counts.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import betaln

    w = np.ones(len(first)) if weights is None else weights

    def loss(log_a: float) -> float:
        a = np.exp(log_a)
        return -float((w * (betaln(a + first, a + second) - betaln(a, a))).sum())

    found: Any = minimize_scalar(loss, bounds=(-6, 6), method="bounded")
    return float(np.exp(found.x))


def majority_probability(first: np.ndarray, second: np.ndarray, concentration: float) -> np.ndarray:
    """(n,) probability that the side with more votes is what most of all raters prefer, given the votes."""
    from scipy.special import betainc

    a, b = np.maximum(first, second), np.minimum(first, second)
    return betainc(concentration + b, concentration + a, 0.5)


def estimate_noise_ceiling(
    first: np.ndarray,
    second: np.ndarray,
    decided: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int = 200,
    level: float = 0.95,
) -> tuple[float, float, float] | None:
    """(value, low, high): the accuracy of one who knows of every pair what most of all raters prefer, on the labels
    that these few raters gave. None where fewer than 20 pairs have two votes.

    Each pair has its own share of raters who prefer the first, drawn from Beta(a, a); a is fitted to the pairs with two
    votes or more, those without a majority too, and then says of each decided label how likely its majority is that of
    all raters (empirical Bayes). So a label of one vote lowers the ceiling more than one of five. The interval draws
    whole clusters again and refits.

    Args:
        first, second: (n,) votes for either side.
        decided: (n,) bool, the labels that accuracy is taken over.
        clusters: (n,) the prompt of each.
    """
    several = first + second >= 2
    if several.sum() < 20 or not decided.any():
        return None
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(index.max()) + 1

    def value(weights: np.ndarray) -> float:
        a = fit_concentration(first[several], second[several], weights[several])
        return float(np.average(majority_probability(first, second, a)[decided], weights=weights[decided]))

    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(groups, size=groups), minlength=groups)[index].astype(float)
        if weights[decided].any() and weights[several].any():
            drawn.append(value(weights))
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return value(np.ones(len(first))), float(low), float(high)
