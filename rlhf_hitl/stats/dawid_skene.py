"""Dawid and Skene's model: every rater has a table of how often they say what, given what is true.

Source: Dawid & Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm". A plain
alternative to `rater_model`: it knows nothing of order, sides or strengths, and does not shrink raters with few votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

_FLOOR = 1e-10  # of an entry of a rater's table


@dataclass(frozen=True)
class DawidSkeneFit:
    """What the model says of votes.

    Attributes:
        p: (pairs, 3) the probability that first, tie, second is true; the prior for a pair without votes.
        tables: (raters, 3, 3) the probability of each true outcome's being answered by each: [rater, true, said].
        prior: (3,) how often each is true.
        rounds: how many it took.
    """

    p: np.ndarray
    tables: np.ndarray
    prior: np.ndarray
    rounds: int


def fit_dawid_skene(
    pair: np.ndarray,
    rater: np.ndarray,
    said: np.ndarray,
    pairs: int,
    raters: int,
    *,
    weight: np.ndarray | None = None,
    rounds: int = 100,
    tolerance: float = 1e-5,
) -> DawidSkeneFit:
    """Fit by expectation maximisation, beginning at the shares of votes.

    Args:
        pair, rater: (n,) numbers from 0.
        said: (n,) 0 first, 1 tie, 2 second.
        pairs, raters: how many there are.
        weight: (n,) how many votes each counts; 1 by default.
        rounds: the most that are made; fewer if the evidence bound per vote rises by less than `tolerance`.
    """
    weight = np.ones(len(pair)) if weight is None else np.asarray(weight, float)
    # One row of votes for each pair, one column for each rater and answer.
    votes = csr_array((weight, (pair, np.asarray(rater) * 3 + said)), shape=(pairs, raters * 3))
    shares = np.zeros((pairs, 3))
    np.add.at(shares, (pair, said), weight)
    count = shares.sum(1)
    is_judged = count > 0
    p = np.where(is_judged[:, None], shares / np.maximum(count, 1e-300)[:, None], 0.0)
    made, bound, prior, logs = 0, -np.inf, _find_prior(p, is_judged), _fit_tables(votes, p)
    while made < rounds:
        made += 1
        likelihood = votes @ logs + np.log(np.maximum(prior, _FLOOR))
        likelihood -= likelihood.max(1, keepdims=True)
        p = np.exp(likelihood)
        p *= is_judged[:, None] / p.sum(1, keepdims=True)
        prior, logs = _find_prior(p, is_judged), _fit_tables(votes, p)
        entropy = -(p * np.log(np.maximum(p, _FLOOR))).sum()
        joint = (p * (votes @ logs + count[:, None] * np.log(np.maximum(prior, _FLOOR)))).sum()
        before, bound = bound, (joint + entropy) / max(weight.sum(), 1e-300)
        if bound - before < tolerance:
            break
    p = np.where(is_judged[:, None], p, prior)
    return DawidSkeneFit(p, np.exp(logs).reshape(raters, 3, 3).transpose(0, 2, 1), prior, made)


def _find_prior(p: np.ndarray, is_judged: np.ndarray) -> np.ndarray:
    return p[is_judged].mean(0) if is_judged.any() else np.full(3, 1 / 3)


def _fit_tables(votes: csr_array, p: np.ndarray) -> np.ndarray:
    """Return the log probability (raters * 3 answers, 3 true) of answers; raters without votes answer anything."""
    counts = np.maximum(np.asarray(votes.T @ p), _FLOOR).reshape(-1, 3, 3)
    return np.log(counts / counts.sum(1, keepdims=True)).reshape(-1, 3)
