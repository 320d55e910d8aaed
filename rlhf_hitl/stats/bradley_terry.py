"""Bradley and Terry's model with ties: a strength for each completion, of all votes on its pairs.

Sources: Bradley & Terry 1952; Davidson 1970 for ties (see `davidson`). A plain alternative to `rater_model`: raters are
all alike. Strengths have a normal prior, so that a completion that won every time stays finite, and completions that
were never compared with each other are comparable only by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from rlhf_hitl.stats.davidson import davidson_probabilities

_MOST_LOG_NU = 12.0


@dataclass(frozen=True)
class BradleyTerryFit:
    """Strengths (completions,) in logits, and Davidson's nu, the odds of a tie between equals over two (0: no ties)."""

    strengths: np.ndarray
    nu: float

    def predict(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the probability (n, 3) of first, tie, second for pairs of completions (n,)."""
        return davidson_probabilities(self.strengths[first] - self.strengths[second], self.nu)


def fit_bradley_terry(
    first: np.ndarray, second: np.ndarray, votes: np.ndarray, completions: int, *, precision: float = 0.5
) -> BradleyTerryFit:
    """Fit strengths and nu by penalised maximum likelihood.

    Args:
        first, second: (n,) the completions of each pair, numbers from 0.
        votes: (n, 3) how many said first, tie, second; fractions are fine.
        completions: how many there are.
        precision: of the normal prior of strengths. With a half (a variance of 2) one vote alone says 0.74, not 1.
    """
    votes = np.asarray(votes, float).reshape(-1, 3)
    ties = votes[:, 1].sum()

    def lose(x: np.ndarray) -> tuple[float, np.ndarray]:
        strengths, log_nu = x[:-1], x[-1] if ties else -np.inf
        margins = strengths[first] - strengths[second]
        logs = np.stack([margins / 2, np.full_like(margins, log_nu), -margins / 2], 1)
        total = np.logaddexp(np.logaddexp(logs[:, 0], logs[:, 2]), logs[:, 1])
        p = np.exp(logs - total[:, None])
        n = votes.sum(1)
        said = votes[:, 0] * logs[:, 0] + votes[:, 2] * logs[:, 2] + (votes[:, 1] * log_nu if ties else 0.0)
        value = float((n * total - said).sum() + precision / 2 * strengths @ strengths)
        slope = 0.5 * (n * (p[:, 0] - p[:, 2]) - votes[:, 0] + votes[:, 2])
        gradient = precision * strengths
        gradient += np.bincount(first, slope, completions) - np.bincount(second, slope, completions)
        return value, np.append(gradient, (n * p[:, 1] - votes[:, 1]).sum() if ties else 0.0)

    bounds = [(None, None)] * completions + [(-_MOST_LOG_NU, _MOST_LOG_NU)]
    options = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-9}
    best: Any = minimize(lose, np.zeros(completions + 1), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return BradleyTerryFit(best.x[:-1], float(np.exp(best.x[-1])) if ties else 0.0)
