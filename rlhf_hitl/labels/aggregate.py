"""Judgments to labels: what all raters of a comparison, taken together, say of each pair of its completions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import UNRANKED, Judgment, Label, Split, Verdict

WINS, TIES, LOSSES = 0, 1, 2

#: What a label needs of a judgment: its verdict, ranking, order shown, strength, and whether it is simulated.
LabelVote = tuple[str, Sequence[Sequence[str]], Sequence[str], int | None, bool]


def read_labels(store: Store, *, split: Split | None = None, project: str | None = None) -> list[Label]:
    """The labels of every judged comparison, in order of comparison id.

    Superseded and surplus judgments do not count: a label rests on the judgments that were wanted. Nor do hidden
    repeats: they say something of the rater. What is kept in memory is the counts of each comparison.
    """
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    for judgment in read_judgments(store, split=split, project=project, repeats=False):
        if not judgment.surplus:
            tallies[judgment.comparison_id].add(_vote(judgment))
    return [label for comparison_id in sorted(tallies) for label in tallies[comparison_id].labels(comparison_id)]


def aggregate_judgments(comparison_id: str, judgments: Iterable[Judgment]) -> list[Label]:
    """One label for each pair of completions that at least one judgment speaks of: the shares of its votes."""
    return aggregate_votes(comparison_id, map(_vote, judgments))


def aggregate_votes(comparison_id: str, votes: Iterable[LabelVote]) -> list[Label]:
    """`aggregate` of what matters of each judgment."""
    tally = _Tally()
    for vote in votes:
        tally.add(vote)
    return tally.labels(comparison_id)


def _vote(judgment: Judgment) -> LabelVote:
    answer = judgment.answer
    return answer.verdict, answer.ranking, judgment.order_shown, answer.strength, judgment.simulated


class _Tally:
    """The votes of one comparison, counted."""

    __slots__ = ("simulated", "strengths", "votes")

    def __init__(self) -> None:
        self.votes: dict[tuple[str, str], list[int]] = {}
        self.strengths: dict[tuple[str, str], list[int]] = {}
        self.simulated = False

    def add(self, vote: LabelVote) -> None:
        *_, strength, simulated = vote
        said = list(read_pair_outcomes(vote))
        for first, second, outcome in said:
            self.votes.setdefault((first, second), [0, 0, 0])[outcome] += 1
            self.simulated = self.simulated or simulated
        if strength is not None and len(said) == 1:  # it is of a pair: in a longer ranking it is nobody's in particular
            [(first, second, outcome)] = said
            place = 3 - strength if outcome == WINS else 2 + strength
            self.strengths.setdefault((first, second), [0] * 6)[place] += 1

    def labels(self, comparison_id: str) -> list[Label]:
        return [
            Label(
                comparison_id,
                *pair,
                _shares(counts),
                _entropy(counts),
                sum(counts),
                self.simulated,
                self._strengths(pair),
            )
            for pair, counts in sorted(self.votes.items())
        ]

    def _strengths(self, pair: tuple[str, str]) -> tuple[int, int, int, int, int, int]:
        a, b, c, d, e, f = self.strengths.get(pair, (0,) * 6)
        return a, b, c, d, e, f


def read_pair_outcomes(vote: LabelVote) -> Iterable[tuple[str, str, int]]:
    """What one vote says of each pair (first, second) of ids in canonical order: WINS, TIES or LOSSES.

    Both bad is a tie: it says that neither is to be preferred. A completion left out of a partial ranking, a skip and
    a flag say nothing.
    """
    rank = _rank(vote)
    for first, second in combinations(sorted(rank), 2):
        a, b = rank[first], rank[second]
        yield first, second, WINS if a < b else LOSSES if a > b else TIES


def rank_completions(vote: LabelVote, ids: Iterable[str]) -> list[int]:
    """What one vote says of completions taken together: the rank of each, UNRANKED where it says nothing of it."""
    rank = _rank(vote)
    return [rank.get(i, UNRANKED) for i in ids]


def _rank(vote: LabelVote) -> dict[str, int]:
    verdict, ranking, shown, *_ = vote
    match verdict:
        case Verdict.RANKED:
            return {i: r for r, group in enumerate(ranking) for i in group}
        case Verdict.ALL_BAD:
            return dict.fromkeys(shown, 0)
    return {}


def _shares(counts: list[int]) -> tuple[float, float, float]:
    n = sum(counts)
    return counts[WINS] / n, counts[TIES] / n, counts[LOSSES] / n


def _entropy(counts: list[int]) -> float:
    n = sum(counts)
    return -sum(c / n * math.log(c / n) for c in counts if c) + 0.0
