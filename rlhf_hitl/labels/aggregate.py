"""Aggregate judgments into labels: what the raters of a comparison together say of each pair of completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from rlhf_hitl.stats.entropy import entropy_in_nats
from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import UNRANKED, Judgment, Label, Split, Verdict

WINS, TIES, LOSSES = 0, 1, 2

#: The fields of a judgment that a label depends on: verdict, ranking, order shown, strength, and whether simulated.
LabelVote = tuple[str, Sequence[Sequence[str]], Sequence[str], int | None, bool]


def read_labels(store: Store, *, split: Split | None = None, project: str | None = None) -> list[Label]:
    """Return the labels of every judged comparison, in order of comparison id.

    Superseded and surplus judgments do not count: a label rests on the judgments that were wanted. Hidden repeats do
    not count either: they measure the rater. Only the counts of each comparison are held in memory.
    """
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    for judgment in read_judgments(store, split=split, project=project, repeats=False):
        if not judgment.surplus:
            tallies[judgment.comparison_id].add(_to_vote(judgment))
    return [label for comparison_id in sorted(tallies) for label in tallies[comparison_id].make_labels(comparison_id)]


def aggregate_judgments(comparison_id: str, judgments: Iterable[Judgment]) -> list[Label]:
    """Return a label for each pair of completions that at least one judgment ranks."""
    return aggregate_votes(comparison_id, map(_to_vote, judgments))


def aggregate_votes(comparison_id: str, votes: Iterable[LabelVote]) -> list[Label]:
    """Do what `aggregate_judgments` does, for judgments given as `LabelVote`."""
    tally = _Tally()
    for vote in votes:
        tally.add(vote)
    return tally.make_labels(comparison_id)


def _to_vote(judgment: Judgment) -> LabelVote:
    answer = judgment.answer
    return answer.verdict, answer.ranking, judgment.order_shown, answer.strength, judgment.simulated


class _Tally:
    """The counted votes of one comparison."""

    __slots__ = ("simulated", "strengths", "votes")

    def __init__(self) -> None:
        self.votes: dict[tuple[str, str], list[int]] = {}
        self.strengths: dict[tuple[str, str], list[int]] = {}
        self.simulated = False

    def add(self, vote: LabelVote) -> None:
        *_, strength, simulated = vote
        pair_outcomes = list(read_pair_outcomes(vote))
        for first, second, outcome in pair_outcomes:
            self.votes.setdefault((first, second), [0, 0, 0])[outcome] += 1
            self.simulated = self.simulated or simulated
        if strength is not None and len(pair_outcomes) == 1:  # in a longer ranking a strength belongs to no single pair
            [(first, second, outcome)] = pair_outcomes
            column = 3 - strength if outcome == WINS else 2 + strength
            self.strengths.setdefault((first, second), [0] * 6)[column] += 1

    def make_labels(self, comparison_id: str) -> list[Label]:
        return [
            Label(
                comparison_id,
                *pair,
                _compute_shares(counts),
                entropy_in_nats(_compute_shares(counts)) + 0.0,  # + 0.0 turns a negative zero into zero
                sum(counts),
                self.simulated,
                self._get_strengths(pair),
            )
            for pair, counts in sorted(self.votes.items())
        ]

    def _get_strengths(self, pair: tuple[str, str]) -> tuple[int, int, int, int, int, int]:
        a, b, c, d, e, f = self.strengths.get(pair, (0,) * 6)
        return a, b, c, d, e, f


def read_pair_outcomes(vote: LabelVote) -> Iterable[tuple[str, str, int]]:
    """Yield (first, second, WINS, TIES or LOSSES) for each pair of ids, in canonical order, that one vote ranks.

    Both bad is a tie: neither completion is preferred. A completion left out of a partial ranking is in no pair, and a
    skip or a flag ranks none.
    """
    rank = _rank_by_id(vote)
    for first, second in combinations(sorted(rank), 2):
        a, b = rank[first], rank[second]
        yield first, second, WINS if a < b else LOSSES if a > b else TIES


def rank_completions(vote: LabelVote, ids: Iterable[str]) -> list[int]:
    """Return the rank that one vote gives each completion, UNRANKED for those it does not rank."""
    rank = _rank_by_id(vote)
    return [rank.get(i, UNRANKED) for i in ids]


def _rank_by_id(vote: LabelVote) -> dict[str, int]:
    verdict, ranking, shown, *_ = vote
    match verdict:
        case Verdict.RANKED:
            return {i: r for r, group in enumerate(ranking) for i in group}
        case Verdict.ALL_BAD:
            return dict.fromkeys(shown, 0)
    return {}


def _compute_shares(counts: list[int]) -> tuple[float, float, float]:
    n = sum(counts)
    return counts[WINS] / n, counts[TIES] / n, counts[LOSSES] / n
