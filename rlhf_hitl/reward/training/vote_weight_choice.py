"""Choose by cross-validation how much a vote counts when a head is fitted."""

from __future__ import annotations

import math

import numpy as np

from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.stats.vote_outcomes import TIE

# The weights that are tried. Which is right depends on how similar the labels of one prompt are.
VOTE_WEIGHTS = (1.0, 0.3, 0.1, 0.03)


def choose_vote_weight(
    differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray
) -> tuple[float, dict[float, float]]:
    """Return which of VOTE_WEIGHTS gives the heads that predict unseen prompts best, and the losses of all.

    Args: see `cross_validate`.
    """
    losses = {weight: cross_validate(differences, votes, prompts, weight) for weight in VOTE_WEIGHTS}
    return min(losses, key=lambda weight: losses[weight]), losses


def compute_length_only_loss(differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray) -> float:
    """Return the best loss of heads that read nothing but the lengths, as `choose_vote_weight` computes it."""
    _, losses = choose_vote_weight(differences[:, -1:], votes, prompts)
    return min(losses.values())


def split_by_prompt(prompts: np.ndarray, folds: int = 5) -> list[np.ndarray]:
    """Return the folds of pairs, each (n,) bool. A prompt is never split between folds, and each pair is in one."""
    names, index = np.unique(prompts, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[index] % min(folds, len(names))
    return [fold == k for k in np.unique(fold)]


def cross_validate(
    differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray, vote_weight: float = 1.0, folds: int = 5
) -> float:
    """Return the mean negative log likelihood per vote of preferences, predicted by heads that saw no label of their
    prompts.

    Args:
        differences: (n, d) inputs of the first completion less those of the second.
        votes: (n, 9) for each of VOTE_OUTCOMES.
        prompts: (n,) which prompt a pair belongs to; a prompt is never split between folds.
        vote_weight: how much a vote counts in fitting.
    """
    for_first, for_second = votes[:, :TIE].sum(1), votes[:, TIE + 1 :].sum(1)
    loss = 0.0
    for predicted in split_by_prompt(prompts, folds):
        if predicted.all():
            return math.inf  # a single prompt says nothing about others
        head = fit_head(differences[~predicted], votes[~predicted], vote_weight=vote_weight)
        p = np.clip(head.probabilities(*head.margins(differences[predicted])), 1e-12, 1 - 1e-12)
        loss -= float((for_first[predicted] * np.log(p) + for_second[predicted] * np.log1p(-p)).sum())
    return loss / float((for_first + for_second).sum())
