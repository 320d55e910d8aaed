"""What a head would say of its training pairs had it seen nothing of their prompts.

A head agrees with the votes that it has learnt, so its own word on them would count them twice. Its word as a witness
comes from heads that are fitted like it, each without one fold of the prompts. Source: Goh et al. 2022, "CROWDLAB",
which takes a classifier as one more annotator by out-of-sample probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair
from rlhf_hitl.reward.training.vote_weight_choice import split_by_prompt
from rlhf_hitl.store import Store
from rlhf_hitl.store.witness import PairProbabilities, insert_out_of_fold


def predict_out_of_fold(head: Head, differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Return (n, 3) the probabilities of first better, tie, second better, by heads that saw no vote on the prompt.

    Args:
        head: the one fitted to all pairs. Its vote weight is used, and its temperature, which other prompts set.
        differences, votes: what it was fitted to, (n, d) and (n, 9).
        prompts: (n,) which prompt a pair belongs to. With a single one, nothing is known: (0, 3).
    """
    probabilities = np.empty((len(differences), 3))
    for left_out in split_by_prompt(prompts):
        if left_out.all():
            return np.empty((0, 3))
        other = fit_head(differences[~left_out], votes[~left_out], vote_weight=head.vote_weight)
        other = other.with_temperature(head.temperature)
        probabilities[left_out] = other.outcome_probabilities(*other.margins(differences[left_out]))
    return probabilities


def save_out_of_fold(
    store: Store, reward_model_id: str, pairs: Sequence[LabelledPair], probabilities: np.ndarray
) -> None:
    """Keep what `predict_out_of_fold` returned for pairs as the word of a reward model that the store knows."""
    rows = [
        PairProbabilities(pair.label.comparison_id, pair.label.first, pair.label.second, (p_first, p_tie, p_second))
        for pair, (p_first, p_tie, p_second) in zip(pairs, probabilities.tolist())
    ]
    insert_out_of_fold(store, reward_model_id, rows)
