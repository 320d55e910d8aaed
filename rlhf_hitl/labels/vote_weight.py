"""The weight of votes: how much they count in the label of one pair of completions."""

from __future__ import annotations

from typing import Any, TypeVar

Votes = TypeVar("Votes")  # a number, or a NumPy array of numbers


def weigh_votes(votes: Votes, completions: Any) -> Votes:
    """Return the weight that votes on a comparison of K completions have in the label of one of its pairs.

    A vote on K completions is one act of judging, and each completion is in K - 1 of the pairs that follow from it. So
    a vote counts 1 / (K - 1) in each pair: for the completion, the pairs together weigh one vote.

    Args:
        votes: the number of votes on the pair, or an array of such numbers.
        completions: K, the number of completions that were compared, at least 2; or an array that goes with `votes`.
    """
    return votes / (completions - 1)  # type: ignore[operator]
