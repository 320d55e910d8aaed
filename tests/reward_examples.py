"""What tests of reward models share: short conversations, and votes with nothing but a preference."""

from __future__ import annotations

import numpy as np

from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, VOTE_OUTCOMES
from rlhf_hitl.types import Message

WORDS = ["sea", "sun", "poem", "paris", "thanks", "friend", "lazy", "quick", "brown", "fox", "capital", "today"]


def chat(prompt: str, completion: str):
    return Conversation((Message("user", prompt),), (Message("assistant", completion),))


def make_votes_from_preferences(targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return votes (n, 9) without strengths and ties.

    Args:
        targets: (n,) share of the votes for the first completion.
        weights: (n,) how many votes there are; 1 by default.
    """
    y = np.asarray(targets, np.float64)
    c = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    votes = np.zeros((len(y), len(VOTE_OUTCOMES)))
    votes[:, FIRST_UNGRADED], votes[:, SECOND_UNGRADED] = c * y, c * (1 - y)
    return votes
