"""Votes: what one judgment says of each pair of completions, and what those on a comparison say of a pair together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE, VOTE_OUTCOMES
from rlhf_hitl.types.answers import Verdict
from rlhf_hitl.types.people import Role


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
        return get_winner(self.outcome)


def get_winner(outcome: int) -> int:
    """Return what an index into VOTE_OUTCOMES says without its strength: 0 the first is better, 1 neither, 2 the
    second."""
    return (outcome > TIE) - (outcome < TIE) + 1


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


@dataclass(frozen=True, slots=True)
class LabelVote:
    """A judgment as it counts in a label.

    Attributes:
        role: LEAD decides the comparison; a JUDGE is a model.
        weight: how much the rater's votes count, 0 to 1.
        probabilities: a judge's, of (first shown better, tie, second shown better), for two completions.
    """

    rater_id: str
    role: str
    verdict: str
    ranking: Sequence[Sequence[str]]
    order_shown: Sequence[str]
    strength: int | None = None
    simulated: bool = False
    weight: float = 1.0
    probabilities: Sequence[float] | None = None


class VotePart(NamedTuple):
    """What one vote says of one pair. A judge's vote may have a part for each outcome.

    `outcome` is an index into VOTE_OUTCOMES; `side` is 1 where the first was shown before the second, else -1. `votes`
    is how many votes it counts, and `weight` what it weighs in the rater model: a ranking of K has K (K - 1) / 2 pairs,
    and they weigh K - 1 votes together.
    """

    rater_id: str
    outcome: int
    side: int
    votes: float
    weight: float


@dataclass(slots=True)
class PairVotes:
    """All that is said of one pair.

    Attributes:
        counts: (9,) the judgments that say each of VOTE_OUTCOMES, as they were given.
        decision: what a lead decided, an index into VOTE_OUTCOMES; None where none did.
    """

    parts: list[VotePart] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0] * len(VOTE_OUTCOMES))
    judges: int = 0
    simulated: bool = False
    decision: int | None = None

    @property
    def decided(self) -> tuple[float, float, float] | None:
        """The label (first, tie, second) that a lead's decision makes; None without one."""
        if self.decision is None:
            return None
        return float(self.decision < TIE), float(self.decision == TIE), float(self.decision > TIE)


def gather_pair_votes(votes: Sequence[LabelVote]) -> dict[tuple[str, str], PairVotes]:
    """Return what votes say of each pair of completions, by the ids in canonical order; in the same order for the same
    votes, however they came.

    A vote that counts 0 says nothing. Both bad is a tie; a skip or a flag ranks no pair.
    """
    pairs: dict[tuple[str, str], PairVotes] = {}
    for vote in sorted(votes, key=_get_rater_id) if len(votes) > 1 else votes:
        if vote.weight <= 0:
            continue
        said = list(read_pair_votes(vote.verdict, vote.ranking, vote.order_shown, vote.strength))
        is_decision, is_judge = vote.role == Role.LEAD, vote.role == Role.JUDGE
        weight = vote.weight if len(said) == 1 else vote.weight * 2 / _count_ranked(len(said))
        for first, second, outcome, side in said:
            of_pair = pairs.setdefault((first, second), PairVotes())
            of_pair.counts[outcome] += 1
            of_pair.simulated |= vote.simulated
            if is_decision:
                of_pair.decision = outcome
                continue
            of_pair.judges += is_judge
            if vote.probabilities is None or len(said) > 1:
                of_pair.parts.append(VotePart(vote.rater_id, outcome, side, vote.weight, weight))
            else:
                of_pair.parts += _share_out(vote, side)
    return dict(sorted(pairs.items())) if len(pairs) > 1 else pairs


def _get_rater_id(vote: LabelVote) -> str:
    return vote.rater_id


def _count_ranked(pairs: int) -> int:
    """Return the number of completions that have so many pairs."""
    return round((1 + (1 + 8 * pairs) ** 0.5) / 2)


def _share_out(vote: LabelVote, side: int) -> Iterator[VotePart]:
    """Yield the parts of a judge's vote: each outcome with its probability."""
    outcomes = (FIRST_UNGRADED, TIE, SECOND_UNGRADED)
    for outcome, probability in zip(outcomes if side > 0 else outcomes[::-1], vote.probabilities or ()):
        if probability > 0:
            votes = vote.weight * probability
            yield VotePart(vote.rater_id, outcome, side, votes, votes)
