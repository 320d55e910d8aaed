"""Fit heads: weights, prior precisions by evidence, covariance and temperature.

Source: MacKay 1992, "The evidence framework applied to classification networks" (prior precision by evidence).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.standardiser import on_one_thread
from rlhf_hitl.reward.vote_scale import (
    compute_margin_derivatives,
    compute_negative_log_likelihood,
    fit_thresholds,
    place_cuts,
)

#: Of the log of a temperature before any label: two of them are 0.6 and 1.6. It was not tuned.
TEMPERATURE_SPREAD = 0.25
#: Fewer say nothing of the kinds of prompts on which a head is wrong and sure (and the scatter of fewer clusters is too
#: small: Cameron & Miller 2015, "A practitioner's guide to cluster-robust inference", VI).
MIN_PROMPTS_TO_SHARPEN = 30


@on_one_thread
def fit_head(differences: np.ndarray, votes: np.ndarray, *, vote_weight: float = 1.0, rounds: int = 30) -> Head:
    """Fit a head to labelled differences. The prior precisions follow the evidence, the thresholds are the likeliest.

    Args:
        differences: (n, d) inputs of the first completion minus those of the second; the last column is the length's.
        votes: (n, 9) how many votes each of VOTE_OUTCOMES has; fractions are fine.
        vote_weight: a power of the likelihood (Grünwald & van Ommen 2017, "Inconsistency of Bayesian inference for
            misspecified linear models, and a proposal for repairing it"): the likelihood takes votes as independent,
            and votes about one prompt are not.
        rounds: of evidence maximisation, at most. Within a round the likelihood is replaced by its Gaussian
            approximation near the mode, so that a round reads the n labels once.
    """
    x, v = np.asarray(differences, np.float64), vote_weight * np.asarray(votes, np.float64)
    d = x.shape[1]
    group = np.r_[np.zeros(d - 1, int), 1]
    alpha, w, thresholds = np.ones(2), np.zeros(d), (0.0, 0.0, 0.0)
    for _ in range(rounds):
        thresholds = fit_thresholds(x @ w, v)
        cuts = place_cuts(thresholds)
        slopes, curvatures = compute_margin_derivatives(x @ w, v, cuts)
        curvature = _compute_weighted_gram(x, curvatures)
        pull = curvature @ w - x.T @ slopes
        before, mode = alpha, w
        for _ in range(5):
            covariance = np.linalg.inv(curvature + np.diag(alpha[group]))
            mode = covariance @ pull
            # MacKay's update for a group: alpha = gamma / |w|^2, with gamma the number of well-determined weights.
            gamma = np.array([(1 - alpha[g] * np.diag(covariance)[group == g]).sum() for g in (0, 1)])
            size = np.array([(mode[group == g] ** 2).sum() for g in (0, 1)])
            alpha = np.clip(gamma / np.maximum(size, 1e-12), 1e-3, 1e6)
        w = _search_along_line(mode, w, x, v, cuts, alpha[group])
        if np.allclose(np.log(alpha), np.log(before), atol=1e-2):
            break
    w, hessian = _find_mode(x, v, place_cuts(thresholds), alpha[group], w)
    precisions = float(alpha[0]), float(alpha[1])
    return Head(w, np.linalg.inv(hessian), precisions, thresholds=thresholds, vote_weight=vote_weight)


def bootstrap_covariance(
    head: Head, differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray, *, heads: int = 128, seed: int = 0
) -> Head:
    """Return the head with the covariance of an ensemble in place of Laplace's.

    Each member is fitted to as many prompts, drawn with replacement and taken whole (labels of one prompt are not
    independent), under the head's prior moved to a draw from it. Without that, members would agree where there are no
    labels (anchored ensembles: Pearce et al. 2020, "Uncertainty in neural networks: approximately Bayesian
    ensembling"). Mode, prior and thresholds stay the head's.

    Args:
        differences, votes: what the head was fitted to, (n, d) and (n, 9).
        prompts: (n,) which prompt a label belongs to.
        heads: the number of members; more than inputs, or all agree in some directions.
    """
    rng = np.random.default_rng(seed)
    names, index = np.unique(prompts, return_inverse=True)
    d = len(head.weights)
    alpha = np.r_[np.full(d - 1, head.precisions[0]), head.precisions[1]]
    cuts, members = place_cuts(head.thresholds), np.empty((heads, d))
    for i in range(heads):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[index]
        drawn = times > 0
        anchor = rng.normal(size=d) / np.sqrt(alpha)
        weighted_votes = votes[drawn] * (head.vote_weight * times[drawn, None])
        members[i], _ = _find_mode(differences[drawn], weighted_votes, cuts, alpha, head.weights, anchor)
    return replace(head, covariance=np.cov(members, rowvar=False))


def calibrate_temperature(
    head: Head,
    margins: np.ndarray,
    stds: np.ndarray,
    targets: np.ndarray,
    prompts: np.ndarray,
    counts: np.ndarray | None = None,
) -> Head:
    """Return the head with a temperature at which its `probabilities` fit what raters said of unseen prompts, as near
    to 1 as that allows.

    What fits best is the mode of a posterior (Guo et al. 2017, with a prior): the log of the temperature is normal
    around 0 with a standard deviation of TEMPERATURE_SPREAD. The likelihood is brought to the power at which its
    curvature is what the scatter between prompts says (Pauli, Racugno & Ventura 2011, "Bayesian composite marginal
    likelihoods"), because labels of one prompt are not independent. Taken is the temperature next to 1 that is worse
    than that by no more than one standard error of the difference between prompts (the rule of Breiman et al. 1984,
    "Classification and regression trees", 3.4.3). So it stays 1 unless many prompts say otherwise. Below 1, where an
    error costs without limit, it needs MIN_PROMPTS_TO_SHARPEN of them.

    Args:
        head: what is calibrated; its thresholds are used.
        margins, stds: (n,) of labelled pairs whose prompts their head was not fitted to; with none the head is returned
            as it is.
        targets: (n,) the share of the votes with a preference that prefer the first.
        prompts: (n,) which prompt a pair belongs to.
        counts: (n,) how many votes with a preference there are; 1 each by default.
    """
    w = np.ones(len(margins)) if counts is None else np.asarray(counts, float)
    known = (w > 0) & np.isfinite(margins) & np.isfinite(stds)
    m, s, t, w = margins[known], stds[known], targets[known], w[known]
    _, prompt = np.unique(np.asarray(prompts)[known], return_inverse=True)
    if len(m) == 0 or prompt.max() == 0:
        return head  # one prompt says nothing about others

    def losses(log_t: float) -> np.ndarray:
        p = np.clip(head.with_temperature(math.exp(log_t)).probabilities(m, s), 1e-12, 1 - 1e-12)
        return -w * (t * np.log(p) + (1 - t) * np.log(1 - p))

    step = 0.05
    below, at, above = (losses(log_t) for log_t in (-step, 0.0, step))
    slopes = (above - below) / (2 * step)
    curvature = float((above - 2 * at + below).sum()) / step**2
    if curvature <= 0:  # far from its best the likelihood may bend the other way: then the information is the slopes'
        curvature = float(((slopes - slopes.mean()) ** 2).sum())
    scatter = np.bincount(prompt, slopes)
    scatter = float(((scatter - scatter.mean()) ** 2).sum())
    power = min(1.0, curvature / scatter) if scatter > 0 else 1.0

    def loss(log_t: float) -> float:
        return power * float(losses(log_t).sum()) + 0.5 * (log_t / TEMPERATURE_SPREAD) ** 2

    best: Any = minimize_scalar(loss, bounds=(-2, 2), method="bounded")
    fitting, groups = losses(float(best.x)), int(prompt.max()) + 1
    if best.x < 0 and groups < MIN_PROMPTS_TO_SHARPEN:
        return head.with_temperature(1.0)

    def is_as_good(log_t: float) -> bool:
        worse = np.bincount(prompt, losses(log_t) - fitting)
        return float(worse.sum()) <= math.sqrt(groups) * float(worse.std(ddof=1))

    near, far = 0.0, 1.0  # shares of the way to the best
    for _ in range(20):
        middle = (near + far) / 2
        near, far = (near, middle) if is_as_good(middle * float(best.x)) else (middle, far)
    return head.with_temperature(math.exp(0.0 if is_as_good(0.0) else far * float(best.x)))


def compute_laplace_covariance(
    labels: Iterable[tuple[np.ndarray, np.ndarray]], weights: np.ndarray, precision: float = 1.0
) -> np.ndarray:
    """Return the Laplace covariance (d, d) of Bradley-Terry weights (d,) that were trained elsewhere.

    Args:
        labels: in chunks, each the differences (n, d) and how much they count (n,).
        precision: of the prior.
    """
    curvature = precision * np.eye(len(weights))
    for differences, counts in labels:
        p = expit(differences @ weights)
        curvature += (differences * (counts * p * (1 - p))[:, None]).T @ differences
    return np.linalg.inv(curvature)


def _compute_weighted_gram(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return x' diag(weights) x, (d, d). It is computed in float32, as it sets the length of steps and the width of the
    posterior, not where the mode is."""
    z = (x * np.sqrt(weights)[:, None]).astype(np.float32)
    return (z.T @ z).astype(np.float64)


def _compute_negative_log_posterior(
    w: np.ndarray, x: np.ndarray, votes: np.ndarray, cuts: np.ndarray, alpha: np.ndarray, anchor: np.ndarray | float = 0
) -> float:
    """Return the negative log posterior of weights under a prior around `anchor`, up to a constant."""
    return compute_negative_log_likelihood(x @ w, votes, cuts) + float(0.5 * (alpha * (w - anchor) ** 2).sum())


def _search_along_line(
    goal: np.ndarray,
    w: np.ndarray,
    x: np.ndarray,
    votes: np.ndarray,
    cuts: np.ndarray,
    alpha: np.ndarray,
    anchor: np.ndarray | float = 0,
) -> np.ndarray:
    """Go from w towards `goal` as far as the (convex) loss does not rise: all of the way, half of it, ..."""
    here, scale = _compute_negative_log_posterior(w, x, votes, cuts, alpha, anchor), 1.0
    while (
        scale > 1e-6 and _compute_negative_log_posterior(w + scale * (goal - w), x, votes, cuts, alpha, anchor) > here
    ):
        scale /= 2
    return w + scale * (goal - w)


def _find_mode(
    x: np.ndarray,
    votes: np.ndarray,
    cuts: np.ndarray,
    alpha: np.ndarray,
    w: np.ndarray,
    anchor: np.ndarray | float = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior's mode and the Hessian there, by Newton steps from w."""
    hessian = np.diag(alpha)
    for _ in range(50):
        slopes, curvatures = compute_margin_derivatives(x @ w, votes, cuts)
        hessian = _compute_weighted_gram(x, curvatures) + np.diag(alpha)
        step = np.linalg.solve(hessian, x.T @ slopes + alpha * (w - anchor))
        if np.abs(step).max() < 1e-7:
            break
        w = _search_along_line(w - step, w, x, votes, cuts, alpha, anchor)
    return w, hessian
