"""From the features of labelled pairs to a calibrated head: all that a training of a head decides, without a store."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np

from rlhf_hitl.reward.head import HOME_SHARES, Head
from rlhf_hitl.reward.head_fitting import bootstrap_covariance, calibrate_temperature, fit_head
from rlhf_hitl.reward.novelty import Novelty, join_pair
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.style import fit_style_effects
from rlhf_hitl.reward.training import UncertaintyMethod
from rlhf_hitl.reward.training.out_of_fold import OutOfFold
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight, compute_length_only_loss
from rlhf_hitl.reward.vote_scale import compute_margin_derivatives, place_cuts
from rlhf_hitl.stats.vote_outcomes import TIE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearntHead:
    """A head with what belongs to it.

    Attributes:
        novelty: None where there are too few prompts to tell.
        out_of_fold: what heads without a pair's prompt say of it.
        losses: vote weight → cross-validated loss; `length_only_loss`: of the lengths alone.
    """

    standardiser: Standardiser
    head: Head
    novelty: Novelty | None
    out_of_fold: OutOfFold
    losses: dict[float, float]
    length_only_loss: float


def learn_head(
    features: np.ndarray,
    lengths: np.ndarray,
    styles: np.ndarray,
    votes: np.ndarray,
    prompts: np.ndarray,
    *,
    uncertainty: UncertaintyMethod = "laplace",
    length_neutral: bool = False,
) -> LearntHead:
    """Learn a head from n labelled pairs: how much a vote counts and the temperature by cross-validation over prompts.

    Args:
        features: (2n, width) of all first conversations, then of all second ones.
        lengths: (2n,) in characters; styles: (2n, 5), of `measure_style`.
        votes: (n, 9) for each of VOTE_OUTCOMES; prompts: (n,) which prompt a pair belongs to.
        length_neutral: take the length's part out of the margins.
    """
    n = len(votes)
    standardiser = Standardiser.fit(features, lengths)
    differences = standardiser.differences(features, lengths)
    vote_weight, losses = choose_vote_weight(differences, votes, prompts)
    length_only_loss = compute_length_only_loss(differences, votes, prompts)
    if losses[vote_weight] >= length_only_loss:
        log.warning(
            "on training prompts it was not fitted to, the head predicts raters no better than the answers' lengths "
            "alone do: have more prompts rated before it is relied on"
        )
    head = fit_head(differences, votes, vote_weight=vote_weight)
    if uncertainty == "bootstrap":
        head = bootstrap_covariance(head, differences, votes, prompts)
    slopes = measure_length_slopes(differences)
    head = replace(head, length_slopes=slopes)
    out_of_fold = OutOfFold.fit(differences, votes, prompts, vote_weight)
    if length_neutral:
        head = head.without_length()
        out_of_fold = out_of_fold.without_length(slopes)
    margins = differences @ head.weights
    head = replace(head, style_effects=fit_style_effects(margins, styles[:n] - styles[n:]))
    novelty, left_out, usual = None, None, 0.0
    if (found := Novelty.fit(features, np.tile(prompts, 2))) is not None:
        novelty, of_each = found
        left_out, usual = join_pair(of_each[:n], of_each[n:]), novelty.usual
    head = calibrate_head(head, out_of_fold, differences, votes, prompts, left_out, usual)
    return LearntHead(standardiser, head, novelty, out_of_fold, losses, length_only_loss)


def measure_length_slopes(differences: np.ndarray) -> np.ndarray:
    """Return how much each input but the last goes with the last, the length's, in differences (n, d): (d - 1,)."""
    length = differences[:, -1]
    return differences[:, :-1].T @ length / max(float(length @ length), 1e-12)


def calibrate_head(
    head: Head,
    out_of_fold: OutOfFold,
    differences: np.ndarray,
    votes: np.ndarray,
    prompts: np.ndarray,
    novelty: np.ndarray | None,
    usual: float = 0.0,
) -> Head:
    """Return a head with its doubt, what uncertainty is usual, and the temperature, by the heads without each prompt.

    The calibration split has no part in it: its labels show what error the router's threshold keeps, and would be
    used twice (`benchmarks/doubt.py` measures what either would change).

    The doubt is the prior's: the mean variance of a margin before any vote, for as many times of what the axes hold as
    lies outside them.

    Args:
        differences, votes: (n, d) and (n, 9), what the head was fitted to.
        novelty: (n,) of the pairs when their prompts are left out; None where it was not measured.
        usual: the log odds of what lies outside the axes at a novelty of 0 (`Novelty.usual`).
    """
    if novelty is not None:
        prior = float((differences[:, :-1] ** 2).sum(1).mean()) / head.precisions[0]
        head = replace(head, doubt=math.sqrt(prior * math.exp(usual)))
        # The heads out of fold learnt from fewer prompts, so they are less certain than this one is of new prompts.
        beyond = head.doubt * np.sqrt(np.maximum(np.exp(novelty) - 1, 0))
        stds = np.hypot(leave_prompts_out(head, differences, votes, prompts), beyond)
        found = np.quantile(head.uncertainties(stds, novelty), HOME_SHARES)
        head = replace(head, usual_uncertainties=tuple(found.tolist()))
    margins, stds = out_of_fold.margins(differences, head.doubt, novelty)
    for_first, for_second = votes[:, :TIE].sum(1), votes[:, TIE + 1 :].sum(1)
    counts = for_first + for_second
    shares = np.divide(for_first, counts, out=np.full(len(votes), 0.5), where=counts > 0)
    return calibrate_temperature(head, margins, stds, shares, prompts, counts * head.vote_weight)


def leave_prompts_out(head: Head, differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Return the standard deviations (n,) of training margins by the posterior without the votes on their prompts, at
    the same mode: of a prompt's pairs, V + V (1 / C - V)^-1 V with their covariance V and the votes' curvatures C
    (Woodbury).

    Args: as `calibrate_head`.
    """
    cuts = place_cuts(head.thresholds)
    _, curvatures = compute_margin_derivatives(differences @ head.weights, head.vote_weight * votes, cuts)
    roots = np.sqrt(np.maximum(curvatures, 1e-12))
    variances = np.empty(len(differences))
    for prompt in np.unique(prompts):
        rows = np.flatnonzero(prompts == prompt)
        x = differences[rows] * roots[rows, None]
        shares, axes = np.linalg.eigh(x @ head.covariance @ x.T)
        # A share of 1 is all that is known; only covariances that are not Laplace's (`bootstrap`) come near it.
        shares = np.clip(shares, 0, 0.99)
        variances[rows] = (axes**2 @ (shares / (1 - shares))) / roots[rows] ** 2
    return np.sqrt(variances)
