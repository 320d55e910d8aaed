"""Is a probability worth its number?"""

from __future__ import annotations

import numpy as np


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
