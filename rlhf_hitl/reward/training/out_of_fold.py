"""What a head would say of its training pairs had it seen nothing of their prompts.

A head agrees with the votes that it has learnt, so its own word on them would count them twice. Its word as a witness
comes from heads that are fitted like it, each without one fold of the prompts. Source: Goh et al. 2022, "CROWDLAB",
which takes a classifier as one more annotator by out-of-sample probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair
from rlhf_hitl.reward.training.vote_weight_choice import split_by_prompt
from rlhf_hitl.store import Store
from rlhf_hitl.store.witness import PairProbabilities, insert_out_of_fold


@dataclass(frozen=True)
class OutOfFold:
    """Heads that are fitted like a head, each without one fold of the prompts, with the pairs (n,) bool it left out."""

    heads: tuple[tuple[np.ndarray, Head], ...]

    @classmethod
    def fit(cls, differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray, vote_weight: float) -> OutOfFold:
        """Fit them. With a single prompt there are none.

        Args: as `predict_out_of_fold`.
        """
        folds = [left_out for left_out in split_by_prompt(prompts) if not left_out.all()]
        return cls(tuple((f, fit_head(differences[~f], votes[~f], vote_weight=vote_weight)) for f in folds))

    def without_length(self, slopes: np.ndarray) -> OutOfFold:
        """Return them with the length's part taken out of their margins, by the slopes (d - 1,) of the inputs."""
        return OutOfFold(tuple((f, replace(head, length_slopes=slopes).without_length()) for f, head in self.heads))

    def margins(
        self, differences: np.ndarray, doubt: float = 0.0, novelty: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the margins (n,) of pairs (n, d) and the standard deviations (n,) that moderate them; NaN where there
        are no heads.

        Args:
            doubt: of the head that they are fitted like; novelty: (n,) of the pairs when their prompts are left out.
        """
        margins, stds = np.full((2, len(differences)), np.nan)
        for left_out, head in self.heads:
            of_these = None if novelty is None else novelty[left_out]
            margins[left_out], stds[left_out] = replace(head, doubt=doubt).margins(differences[left_out], of_these)
        return margins, stds

    def probabilities(self, differences: np.ndarray, temperature: float) -> np.ndarray:
        """Return (n, 3) the probabilities of first better, tie, second better; (0, 3) where there are no heads."""
        if not self.heads:
            return np.empty((0, 3))
        probabilities = np.empty((len(differences), 3))
        for left_out, head in self.heads:
            other = head.with_temperature(temperature)
            probabilities[left_out] = other.outcome_probabilities(*other.margins(differences[left_out]))
        return probabilities


def predict_out_of_fold(head: Head, differences: np.ndarray, votes: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Return (n, 3) the probabilities of first better, tie, second better, by heads that saw no vote on the prompt.

    Args:
        head: the one fitted to all pairs. Its vote weight is used, and its temperature.
        differences, votes: what it was fitted to, (n, d) and (n, 9).
        prompts: (n,) which prompt a pair belongs to. With a single one, nothing is known: (0, 3).
    """
    fitted = OutOfFold.fit(differences, votes, prompts, head.vote_weight)
    return fitted.probabilities(differences, head.temperature)


def save_out_of_fold(
    store: Store, reward_model_id: str, pairs: Sequence[LabelledPair], probabilities: np.ndarray
) -> None:
    """Keep what `predict_out_of_fold` returned for pairs as the word of a reward model that the store knows."""
    rows = [
        PairProbabilities(pair.label.comparison_id, pair.label.first, pair.label.second, (p_first, p_tie, p_second))
        for pair, (p_first, p_tie, p_second) in zip(pairs, probabilities.tolist())
    ]
    insert_out_of_fold(store, reward_model_id, rows)
