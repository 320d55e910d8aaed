"""The nine outcomes of a vote on a pair of completions, in the order that they have on the ordinal scale."""

from __future__ import annotations

#: The columns of an array of votes: the outcomes of a vote on a pair, from the best for the first completion to the
#: best for the second. The ungraded outcomes state which is better, but not how strongly.
VOTE_OUTCOMES = (
    "much", "clearly", "slightly", "unsaid", "tie", "second unsaid", "second slightly", "second clearly", "second much",
)  # fmt: skip
FIRST_UNGRADED, TIE, SECOND_UNGRADED = 3, 4, 5
GRADED = [0, 1, 2, 6, 7, 8]
