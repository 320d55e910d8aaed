"""The nine outcomes of a vote on a pair of completions, in the order that they have on the ordinal scale; votes as
arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: The columns of an array of votes: the outcomes of a vote on a pair, from the best for the first completion to the
#: best for the second. The ungraded outcomes state which is better, but not how strongly.
VOTE_OUTCOMES = (
    "much", "clearly", "slightly", "unsaid", "tie", "second unsaid", "second slightly", "second clearly", "second much",
)  # fmt: skip
FIRST_UNGRADED, TIE, SECOND_UNGRADED = 3, 4, 5
GRADED = [0, 1, 2, 6, 7, 8]


@dataclass(frozen=True)
class VoteArrays:
    """Votes, one element each.

    Attributes:
        pair, rater: (n,) int, numbers from 0.
        outcome: (n,) int8 in VOTE_OUTCOMES.
        side: (n,) 1 where the first completion was shown before the second, -1 where after, 0 where nobody knows.
        weight: (n,) how many votes it counts; 2 / K in each pair of a ranking of K.
    """

    pair: np.ndarray
    rater: np.ndarray
    outcome: np.ndarray
    side: np.ndarray
    weight: np.ndarray
