"""Votes: the judgments of a comparison as they count in its labels, and those of a whole store as compact arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import orjson

from rlhf_hitl.stats.rater_model import VoteArrays
from rlhf_hitl.store import Store
from rlhf_hitl.store.label_votes import VoteRow, read_vote_rows, read_vote_weights
from rlhf_hitl.types import UNRANKED, Judgment, Role, Split, Verdict
from rlhf_hitl.types.votes import LabelVote, PairVotes, gather_pair_votes


def to_label_vote(judgment: Judgment, vote_weights: Mapping[str, float]) -> LabelVote:
    """Return a judgment as a vote. `vote_weights` are those of `read_vote_weights`."""
    answer, rater = judgment.answer, judgment.rater_id
    return LabelVote(
        rater,
        judgment.role,
        answer.verdict,
        answer.ranking,
        judgment.order_shown,
        answer.strength,
        judgment.simulated,
        vote_weights.get(rater, 1.0),
        judgment.probabilities,
    )


def rank_completions(vote: LabelVote, ids: Sequence[str]) -> list[int]:
    """Return the rank that one vote gives each completion, UNRANKED for those it does not rank."""
    rank: dict[str, int] = {}
    if vote.verdict == Verdict.RANKED:
        rank = {i: r for r, group in enumerate(vote.ranking) for i in group}
    elif vote.verdict == Verdict.ALL_BAD:
        rank = dict.fromkeys(vote.order_shown, 0)
    return [rank.get(i, UNRANKED) for i in ids]


def share_out_ranks(vote: LabelVote, ids: Sequence[str]) -> list[tuple[list[int], float]]:
    """Return the rankings that one vote gives the completions, each with its share of the vote: one, or for a judge's
    probabilities of a pair the ranking of each outcome, as in the labels of pairs."""
    if not vote.probabilities or len(vote.order_shown) != 2:
        return [(rank_completions(vote, ids), 1.0)]
    first, second = vote.order_shown
    outcomes = ({first: 0, second: 1}, {first: 0, second: 0}, {first: 1, second: 0})
    return [([rank.get(i, UNRANKED) for i in ids], float(p)) for rank, p in zip(outcomes, vote.probabilities) if p > 0]


def read_votes(
    store: Store,
    *,
    split: Split | None = None,
    project: str | None = None,
    judges: bool = True,
    comparison_id: str | None = None,
    judges_measure: bool = False,
) -> Iterator[tuple[str, list[LabelVote]]]:
    """Yield the id and the votes of each comparison that has any.

    Superseded and surplus judgments are no votes, nor are those of hidden repeats and golds, which measure raters.
    Judges' votes count in the train split only.

    Args:
        judges: False leaves them out there, too.
        comparison_id: only of this comparison.
        judges_measure: judges' votes count in every split, for who wants to measure a model against other models.
    """
    weights = read_vote_weights(store)
    read = read_vote_rows(
        store, split=split, project=project, comparison_id=comparison_id, judges_measure=judges_measure
    )
    for of, rows in groupby(read, _get_comparison_id):
        votes = [_read_row(row, weights.get(row.rater_id, 1.0)) for row in rows]
        yield of, votes if judges else [vote for vote in votes if vote.role != Role.JUDGE]


def _get_comparison_id(row: VoteRow) -> str:
    return row.comparison_id


def _read_row(row: VoteRow, weight: float) -> LabelVote:
    _, rater_id, role, verdict, ranking, order_shown, strength, simulated, probabilities = row
    return LabelVote(
        rater_id,
        role or Role.RATER.value,
        verdict,
        orjson.loads(ranking),
        orjson.loads(order_shown),
        strength,
        bool(simulated),
        weight,
        None if probabilities is None else orjson.loads(probabilities),
    )


@dataclass(frozen=True)
class VoteTable:
    """The votes of many comparisons as arrays, in an order that follows from the votes alone.

    Attributes:
        comparison_ids: (comparisons,) bytes, sorted.
        starts: (comparisons + 1,) the first pair of each comparison; its pairs are in canonical order.
        digests: (comparisons,) of what is said of each, to be known again within this process.
        rater_ids: sorted.
        votes: of pairs and raters, as they are numbered here.
        known: (pairs,) what a lead decided, an index into VOTE_OUTCOMES; -1 where none did.
    """

    comparison_ids: np.ndarray
    starts: np.ndarray
    digests: np.ndarray
    rater_ids: list[str]
    votes: VoteArrays
    known: np.ndarray

    @property
    def pairs(self) -> int:
        return len(self.known)

    def find_first_pair(self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]) -> int | None:
        """Return the number of a comparison's first pair; None where the table has it not, or with other votes."""
        key = comparison_id.encode()
        n = int(np.searchsorted(self.comparison_ids, key))
        if n == len(self.comparison_ids) or self.comparison_ids[n] != key or self.digests[n] != _digest(pairs):
            return None
        return int(self.starts[n])


def make_vote_table(votes: Iterable[tuple[str, list[LabelVote]]]) -> VoteTable:
    """Return the votes of comparisons as arrays. A million votes take some 50 MB."""
    ids: list[bytes] = []
    sizes, digests = array("i"), array("q")
    pair, rater, outcome, side, weight = array("i"), array("i"), array("b"), array("b"), array("d")
    known, numbers = array("b"), dict[str, int]()
    for comparison_id, of_comparison in votes:
        pairs = gather_pair_votes(of_comparison)
        if not pairs:
            continue
        ids.append(comparison_id.encode())
        sizes.append(len(pairs))
        digests.append(_digest(pairs))
        for of_pair in pairs.values():
            for part in of_pair.parts:
                pair.append(len(known))
                rater.append(numbers.setdefault(part.rater_id, len(numbers)))
                outcome.append(part.outcome)
                side.append(part.side)
                weight.append(part.weight)
            known.append(-1 if of_pair.decision is None else of_pair.decision)
    rater_ids = sorted(numbers)
    renumbered = np.empty(len(numbers), np.int64)
    renumbered[[numbers[i] for i in rater_ids]] = np.arange(len(numbers))
    columns = (np.array(column) for column in (pair, outcome, side, weight))
    of_pair, *said = columns
    arrays = VoteArrays(of_pair.astype(np.int64), renumbered[np.array(rater, np.int64)], *said)
    table = VoteTable(
        np.array(ids, bytes), _accumulate(np.array(sizes)), np.array(digests), rater_ids, arrays, np.array(known)
    )
    return table if (table.comparison_ids[1:] > table.comparison_ids[:-1]).all() else _sort_by_id(table)


def _digest(pairs: Mapping[tuple[str, str], PairVotes]) -> int:
    said = (*((pair, tuple(votes.parts), votes.decision) for pair, votes in pairs.items()),)
    return hash(said)


def _accumulate(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _sort_by_id(table: VoteTable) -> VoteTable:
    """Return the table with its comparisons in the order of their ids' bytes: databases may sort otherwise."""
    order = np.argsort(table.comparison_ids)
    sizes = np.diff(table.starts)[order]
    pairs = np.concatenate([np.arange(a, b) for a, b in zip(table.starts[order], table.starts[order + 1])])
    number = np.empty(table.pairs, np.int64)
    number[pairs] = np.arange(table.pairs)
    v = table.votes
    by_pair = np.argsort(number[v.pair], kind="stable")
    arrays = VoteArrays(number[v.pair][by_pair], *(of[by_pair] for of in (v.rater, v.outcome, v.side, v.weight)))
    return VoteTable(
        table.comparison_ids[order],
        _accumulate(sizes),
        table.digests[order],
        table.rater_ids,
        arrays,
        table.known[pairs],
    )
