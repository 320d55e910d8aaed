"""The ordinal scale on which a head reads votes: nine outcomes, cut out of margin plus logistic noise by thresholds.

An outcome lies above a cut of the scale, below one, or between two. As every outcome is above one cut and below
another, the likelihood is Bradley-Terry at each cut. `losses.ordinal_loss` is the same likelihood in torch. Source:
Agresti 1992, "Analysis of ordinal paired comparison data".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from rlhf_hitl.stats.vote_outcomes import GRADED, TIE

# Which of the cuts t3, t2, t1, -t1, -t2, -t3 an outcome is above, and which it is below.
_ABOVE = np.zeros((9, 6))
_ABOVE[[0, 1, 2, 3, 4, 6, 7], [0, 1, 2, 2, 3, 4, 5]] = 1
_BELOW = _ABOVE[::-1, ::-1].copy()


def place_cuts(thresholds: Any) -> np.ndarray:
    """Return the six cuts of the scale, highest first, for thresholds (t1, t2, t3)."""
    t1, t2, t3 = thresholds
    return np.array([t3, t2, t1, -t1, -t2, -t3])


def compute_margin_derivatives(
    margins: np.ndarray, votes: np.ndarray, cuts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and second derivatives (n,) of the negative log likelihood of votes (n, 9) in the margins."""
    above, below, cuts = _select_used_cuts(votes, cuts)
    p = expit(margins[:, None] - cuts)
    return (below * p - above * (1 - p)).sum(1), ((above + below) * p * (1 - p)).sum(1)


def compute_negative_log_likelihood(margins: np.ndarray, votes: np.ndarray, cuts: np.ndarray) -> float:
    """Return the negative log likelihood of votes (n, 9) at margins (n,), up to what depends on the cuts alone."""
    above, below, cuts = _select_used_cuts(votes, cuts)
    z = margins[:, None] - cuts
    return float((above * np.logaddexp(0, -z) + below * np.logaddexp(0, z)).sum())


def fit_thresholds(margins: np.ndarray, votes: np.ndarray) -> tuple[float, float, float]:
    """Return the thresholds (t1, t2, t3) under which votes (n, 9) at margins (n,) are likeliest.

    A threshold that no vote informs equals the one before it: without ties t1 is 0.
    """
    total = votes.sum(0)
    within = np.array([total[TIE], total[2] + total[6], total[1] + total[7]])  # votes between neighbouring cuts
    graded = total[GRADED].sum()
    free = np.flatnonzero([within[0] > 0, graded > 0, graded > 0])
    if not len(free):
        return 0.0, 0.0, 0.0
    sides = np.array([2.0, 1.0, 1.0])  # the tie lies between -t1 and t1

    def loss(log_gaps: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = np.zeros(3)
        gaps[free] = np.exp(log_gaps)
        t = np.cumsum(gaps)
        z = margins[:, None] - place_cuts(t)
        above, below = votes @ _ABOVE, votes @ _BELOW
        at_cut = (above * expit(-z) - below * expit(z)).sum(0)
        at_t = at_cut[2::-1] - at_cut[3:]
        width = -np.expm1(-sides * gaps)
        at_gap = np.cumsum(at_t[::-1])[::-1].copy()
        value = float((above * np.logaddexp(0, -z) + below * np.logaddexp(0, z)).sum())
        for i in free:
            value -= within[i] * np.log(width[i])
            at_gap[i] -= within[i] * sides[i] * (1 - width[i]) / width[i]
        return value, (at_gap * gaps)[free]

    best: Any = minimize(loss, np.log(np.full(len(free), 0.5)), jac=True, bounds=[(-6, 3)] * len(free))
    gaps = np.zeros(3)
    gaps[free] = np.exp(best.x)
    t1, t2, t3 = np.cumsum(gaps).tolist()
    return t1, t2, t3


def _select_used_cuts(votes: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the votes above and below each cut, (n, cuts), and the cuts, leaving out those that no vote is next to."""
    above, below = votes @ _ABOVE, votes @ _BELOW
    used = np.flatnonzero(above.any(0) | below.any(0))
    return above[:, used], below[:, used], cuts[used]
