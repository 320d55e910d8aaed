"""Logistic regression of votes on what tells two answers apart, with errors clustered by prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PRIOR_SD = 2.5  # logits: a coefficient beyond twice this would be a win probability above 0.99
MAX_STEPS, TOLERANCE = 50, 1e-9


@dataclass(frozen=True, slots=True)
class LogisticFit:
    """The coefficients and what is known of them.

    Attributes:
        coefficients: (k,) logits for one unit of each column.
        robust: (k, k) their covariance with errors clustered (the sandwich).
        independent: (k, k) their covariance if all votes were independent: the inverse of the curvature.
        clusters: how many clusters there were.
    """

    coefficients: np.ndarray
    robust: np.ndarray
    independent: np.ndarray
    clusters: int

    def estimate(self, contrast: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
        """Return a weighted sum of coefficients, and the ends of its interval, in logits.

        The variance is the larger of the two: where votes hardly vary, the sandwich is close to zero and would be sure
        of what a few votes say. The interval uses t with (clusters - 1) degrees of freedom; it is infinite with one.
        """
        from scipy import special

        value = float(contrast @ self.coefficients)
        if self.clusters < 2:
            return value, -np.inf, np.inf
        variance = max(float(contrast @ matrix @ contrast) for matrix in (self.robust, self.independent))
        half = float(special.stdtrit(self.clusters - 1, 0.5 + level / 2)) * np.sqrt(variance)
        return value, value - half, value + half


def fit_logistic(
    x: np.ndarray, wins: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> LogisticFit:
    """Fit P(win) = 1 / (1 + exp(-x β)), without a constant: swapping the two answers must swap the outcome.

    A tie is half a win: the likelihood is that of a share (Papke & Wooldridge 1996, *J. Appl. Econometrics* 11:619),
    and the sandwich of Liang & Zeger (1986, *Biometrika* 73:13), with the factor clusters / (clusters - 1), holds
    whatever the spread of ties. Each coefficient has a normal prior of mean 0 and standard deviation PRIOR_SD (the
    scale of Gelman et al. 2008, *Ann. Appl. Stat.* 2:1360), so that a column that decides every vote, or that others
    imply, keeps a finite coefficient.

    Args:
        x: (n, k) the first answer's features less those of the second.
        wins: (n,) 1 where the first answer won, 0 where it lost, 0.5 at a tie.
        clusters: (n,) the cluster of each vote.
        weights: (n,) of each vote; by default 1.
    """
    from scipy import special

    n, k = x.shape
    weights = np.ones(n) if weights is None else weights
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(index.max()) + 1 if n else 0
    precision = np.eye(k) / PRIOR_SD**2
    beta = np.zeros(k)
    for _ in range(MAX_STEPS):
        p = special.expit(x @ beta)
        gradient = x.T @ (weights * (wins - p)) - precision @ beta
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + precision
        step = np.linalg.solve(curvature, gradient)
        # The objective is concave: a step that is too long is cut, and the next is computed where it ends.
        beta = beta + step * min(1.0, 2.0 / max(float(np.abs(step).max(initial=0)), 1e-300))
        if float(np.abs(step).max(initial=0)) < TOLERANCE:
            break
    p = special.expit(x @ beta)
    independent = np.linalg.inv((x * (weights * p * (1 - p))[:, None]).T @ x + precision)
    scores = np.zeros((groups, k))
    np.add.at(scores, index, x * (weights * (wins - p))[:, None])
    robust = independent @ (scores.T @ scores) @ independent * (groups / (groups - 1) if groups > 1 else 1)
    return LogisticFit(beta, robust, independent, groups)
