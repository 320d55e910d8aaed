"""Ties by Davidson's model (Davidson 1970, "On extending the Bradley-Terry model to accommodate ties").

Two completions with a margin of m are tied with odds nu : 2 cosh(m / 2); the larger nu, the more often people call a
tie.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def davidson_probabilities(margins: np.ndarray, nu: float) -> np.ndarray:
    """Return (n, 3) the probabilities of first better, tie, second better at margins (n,)."""
    m = np.asarray(margins, float)
    logs = np.stack([m / 2, np.full_like(m, np.log(nu) if nu > 0 else -np.inf), -m / 2], axis=1)
    odds = np.exp(logs - logs.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def fit_nu(margins: np.ndarray, ties: np.ndarray) -> float:
    """Return the maximum-likelihood nu: the expected share of ties equals the observed one. It is 0 without ties.

    Args:
        margins: (n,) in calibrated logits.
        ties: (n,) the share of each pair's votes that call it a tie.
    """
    from scipy.optimize import brentq

    share = float(np.mean(ties)) if len(ties) else 0.0
    if share <= 0:
        return 0.0

    def excess(log_nu: float) -> float:
        return float(davidson_probabilities(margins, np.exp(log_nu))[:, 1].mean()) - share

    bound = 30.0 + float(np.abs(margins).max())
    if excess(bound) <= 0:  # nothing but ties
        return float(np.exp(bound))
    root: Any = brentq(excess, -bound, bound)
    return float(np.exp(root))


def is_tie_likeliest(margins: np.ndarray, nu: float) -> np.ndarray:
    """Return (n,) whether a tie is the likeliest outcome. With nu <= 1 it never is, even for equal rewards."""
    m = np.asarray(margins, float)
    return np.exp(np.minimum(np.abs(m) / 2, 700)) < nu
