"""Is a probability worth its number?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar


def expected_calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> float:
    """Mean gap between stated probability and share of successes, over bins of equal count (Nguyen & O'Connor 2015).

    Args:
        probabilities: (n,) in [0, 1].
        outcomes: (n,) 0 or 1 (or a share).
    """
    p, y = np.asarray(probabilities, float), np.asarray(outcomes, float)
    if len(p) == 0:
        return float("nan")
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(p)))
    return float(sum(len(i) * abs(p[i].mean() - y[i].mean()) for i in parts) / len(p))


def fit_temperature(margins: np.ndarray, targets: np.ndarray) -> float:
    """The T > 0 for which sigmoid(margin / T) has the best log likelihood (Guo et al. 2017). 1 without data.

    Args:
        margins: (n,) logits.
        targets: (n,) probability of the first outcome, 0 to 1.
    """
    m, y = np.asarray(margins, float), np.asarray(targets, float)
    if len(m) == 0 or np.allclose(m, 0):
        return 1.0

    def loss(log_t: float) -> float:
        z = m / np.exp(log_t)
        return float(np.mean(np.logaddexp(0, z) - y * z))

    # Bounded: on few, cleanly separated examples the best T runs to zero.
    best: Any = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(np.exp(best.x))
