"""Votes: what one judgment says of each pair of completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE
from rlhf_hitl.types.answers import Verdict


class PairVote(NamedTuple):
    """What one judgment says of a pair, in canonical order.

    `outcome` is an index into VOTE_OUTCOMES; `side` is 1 where the first was shown before the second, -1 where after
    it, and 0 where nobody knows.
    """

    first: str
    second: str
    outcome: int
    side: int

    @property
    def winner(self) -> int:
        """0 where the first is better, 1 where neither, 2 where the second is."""
        return (self.outcome > TIE) - (self.outcome < TIE) + 1


def read_pair_votes(
    verdict: str, ranking: Sequence[Sequence[str]], order_shown: Sequence[str], strength: int | None
) -> Iterator[PairVote]:
    """Yield what a judgment says of each pair that it ranks.

    Both bad is a tie. A completion that a partial ranking leaves out is in no pair, and a skip or a flag ranks none.
    In a ranking of three or more a strength belongs to no single pair.
    """
    rank: dict[str, int] = {}
    if verdict == Verdict.RANKED:
        rank = {i: r for r, group in enumerate(ranking) for i in group}
    elif verdict == Verdict.ALL_BAD:
        rank = dict.fromkeys(order_shown, 0)
    position = {i: n for n, i in enumerate(order_shown)}
    for first, second in combinations(sorted(rank), 2):
        side = 0
        if first in position and second in position:
            side = 1 if position[first] < position[second] else -1
        if rank[first] == rank[second]:
            outcome = TIE
        elif strength is None or len(rank) > 2:
            outcome = FIRST_UNGRADED if rank[first] < rank[second] else SECOND_UNGRADED
        else:
            outcome = TIE - 1 - strength if rank[first] < rank[second] else TIE + 1 + strength
        yield PairVote(first, second, outcome, side)
