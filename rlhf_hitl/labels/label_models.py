"""Label models: how the votes on a comparison become the labels of its pairs.

`shares` and `majority` take every vote as it is. The others are fitted to all votes of a store (`fitting.py`) and know
each rater or each completion. What they share is here, in `LabelModel.make_labels`: a lead's decision goes before all
votes, and what was said is counted as it was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.votes import VoteTable
from rlhf_hitl.stats.bradley_terry import fit_bradley_terry
from rlhf_hitl.stats.davidson import davidson_probabilities
from rlhf_hitl.stats.dawid_skene import fit_dawid_skene
from rlhf_hitl.stats.entropy import entropy_in_nats
from rlhf_hitl.stats.rater_model import RaterModelFit, RaterPopulation, update_pair
from rlhf_hitl.stats.rater_population import compute_vote_worth
from rlhf_hitl.stats.vote_outcomes import GRADED, TIE, VOTE_OUTCOMES
from rlhf_hitl.types import LABEL_MODELS, Label
from rlhf_hitl.types.votes import LabelVote, PairVotes, gather_pair_votes

Probabilities = tuple[float, float, float]
#: Digits of a fitted probability: the same votes are the same label, whatever the last bits of a sum are.
DIGITS = 6


def check_label_model(name: str) -> str:
    """Return the name of a label model. Raises BadInput for any other."""
    if name not in LABEL_MODELS:
        raise BadInput(f"label model {name!r}", expected=", ".join(LABEL_MODELS), fix="choose one of them")
    return name


class LabelModel(ABC):
    """Makes labels of votes, one comparison at a time."""

    name: str

    def make_labels(self, comparison_id: str, votes: Sequence[LabelVote]) -> list[Label]:
        """Return a label for each pair of completions that at least one vote ranks, in canonical order.

        They depend on the votes and not on their order.
        """
        pairs = gather_pair_votes(votes)
        probabilities = self.compute_probabilities(comparison_id, pairs) if pairs else []
        return [
            _make_label(comparison_id, pair, said, *self._decide(p, said))
            for (pair, said), p in zip(pairs.items(), probabilities)
        ]

    @abstractmethod
    def compute_probabilities(
        self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]
    ) -> Sequence[Probabilities]:
        """Return what is believed of each pair, (first better, tie, second better), a lead's decision aside."""

    def weigh_votes(self, said: PairVotes, probabilities: Probabilities) -> list[float]:
        """Return what the votes on a pair are worth for each of VOTE_OUTCOMES, in votes of a reference rater.

        Here each vote is worth one, and they are shared out as the probabilities say.
        """
        given = _sum_parts(said)
        total = sum(given)
        sides = (given[:TIE], given[TIE + 1 :])
        first, second = (
            [share * p * total / sum(side) for share in side] if sum(side) else [p * total * (i == n) for i in range(4)]
            for side, p, n in zip(sides, (probabilities[0], probabilities[2]), (TIE - 1, 0))
        )
        return [*first, probabilities[1] * total, *second]

    def get_rater_weight(self, rater_id: str) -> float:
        """Return what a vote of a rater is worth, in votes of a reference rater."""
        return 1.0

    def _decide(self, probabilities: Probabilities, said: PairVotes) -> tuple[Probabilities, list[float]]:
        """Return the label's probabilities and weighted votes. A decision is certain, and worth the votes it decides
        and one more."""
        weighted = self.weigh_votes(said, probabilities)
        if said.decision is None:
            return probabilities, weighted
        decided = [0.0] * len(VOTE_OUTCOMES)
        decided[said.decision] = sum(weighted) + 1
        return said.decided or probabilities, decided


def _make_label(
    comparison_id: str, pair: tuple[str, str], said: PairVotes, probabilities: Probabilities, weighted: list[float]
) -> Label:
    counts = fold_outcomes(said.counts)
    a, b, c, d, e, f = (said.counts[i] for i in GRADED)
    return Label(
        comparison_id,
        *pair,
        probabilities,
        entropy_in_nats(probabilities) + 0.0,  # + 0.0 turns a negative zero into zero
        sum(counts),
        said.simulated,
        (a, b, c, d, e, f),
        weight=sum(weighted),
        judges=said.judges,
        adjudicated=said.decision is not None,
        counts=counts,
        counted=fold_outcomes(_sum_parts(said)),
        weighted_votes=tuple(weighted),
    )


def fold_outcomes(of: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return (first, tie, second) of a number for each of VOTE_OUTCOMES."""
    return sum(of[:TIE]), of[TIE], sum(of[TIE + 1 :])


def _sum_parts(said: PairVotes) -> list[float]:
    """Return the votes on a pair for each of VOTE_OUTCOMES. In each pair of a ranking a vote counts one: how much that
    is, among the pairs of one completion, `vote_weight.weigh_votes` says where it matters."""
    given = [0.0] * len(VOTE_OUTCOMES)
    for part in said.parts:
        given[part.outcome] += part.votes
    return given


class Shares(LabelModel):
    """The plain shares of the votes."""

    name = "shares"

    def compute_probabilities(
        self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]
    ) -> list[Probabilities]:
        return [self._share(said) for said in pairs.values()]

    def _share(self, said: PairVotes) -> Probabilities:
        first, tie, second = fold_outcomes(_sum_parts(said))
        n = first + tie + second
        return (first / n, tie / n, second / n) if n else (0.0, 1.0, 0.0)  # a decision without votes

    def weigh_votes(self, said: PairVotes, probabilities: Probabilities) -> list[float]:
        return _sum_parts(said)


class Majority(Shares):
    """The outcome of most votes for certain; where several have as many, each is as likely."""

    name = "majority"

    def compute_probabilities(
        self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]
    ) -> list[Probabilities]:
        return [self._choose(self._share(said)) for said in pairs.values()]

    def _choose(self, shares: Probabilities) -> Probabilities:
        best = [share > max(shares) - 1e-9 for share in shares]
        first, tie, second = (is_best / sum(best) for is_best in best)
        return first, tie, second

    def weigh_votes(self, said: PairVotes, probabilities: Probabilities) -> list[float]:
        return LabelModel.weigh_votes(self, said, probabilities)


@dataclass(frozen=True)
class Raters(LabelModel):
    """The rater model (`stats/rater_model.py`): what a reference rater would say, given who said what.

    Reward models learn from the votes as they were given, each worth the reliability of its rater: that is how hard it
    pulls, at the margin, compared with a vote of the reference rater. They do not learn from the probabilities, which
    are drawn towards what pairs are like on the whole: a reward model has a prior of its own, and to shrink twice is
    worse than not at all.

    Attributes:
        raters: rater id → RATER_COLUMNS. Others are like the typical one.
        table, p: the votes that were read, and what the fit says of each pair, (pairs, 3). None: of none.
    """

    name = "raters"
    population: RaterPopulation
    raters: Mapping[str, Sequence[float]]
    table: VoteTable | None = None
    p: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    fit: RaterModelFit | None = None

    def compute_probabilities(
        self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]
    ) -> list[Probabilities]:
        start = None if self.table is None else self.table.find_first_pair(comparison_id, pairs)
        if start is not None:
            return [_round(p) for p in self.p[start : start + len(pairs)]]
        return [self._update(said) for said in pairs.values()]  # votes that came after the fit

    def find_consensus(self, comparison_id: str, votes: Sequence[LabelVote]) -> list[Probabilities] | None:
        """Return what the fit, which knows a witness, believes of each pair in canonical order; None where it has not
        read just these votes."""
        pairs = gather_pair_votes(votes)
        start = None if self.table is None else self.table.find_first_pair(comparison_id, pairs)
        if start is None or self.fit is None:
            return None
        return [_round(p) for p in self.fit.consensus[start : start + len(pairs)]]

    def weigh_votes(self, said: PairVotes, probabilities: Probabilities) -> list[float]:
        weighted = [0.0] * len(VOTE_OUTCOMES)
        for part in said.parts:
            weighted[part.outcome] += part.votes * self.get_rater_weight(part.rater_id)
        return weighted

    def get_rater_weight(self, rater_id: str) -> float:
        return round(compute_vote_worth(self._get_row(rater_id)), DIGITS)

    def _update(self, said: PairVotes) -> Probabilities:
        rows = np.array([self._get_row(part.rater_id) for part in said.parts], float)
        outcomes, sides = (np.array([getattr(part, name) for part in said.parts], int) for name in ("outcome", "side"))
        weights = np.array([part.weight for part in said.parts], float)
        return _round(update_pair(self.population, rows, outcomes, sides, weights))

    def _get_row(self, rater_id: str) -> Sequence[float]:
        return self.raters.get(rater_id) or self._new_rater

    @cached_property
    def _new_rater(self) -> list[float]:
        return self.population.describe_new_rater().tolist()


class DawidSkene(LabelModel):
    """Dawid and Skene's model: each rater with a table of what they say, given what is true."""

    name = "dawid-skene"

    def __init__(self, table: VoteTable):
        self.table, votes = table, table.votes
        said = _SIDES[votes.outcome]
        # Each vote also with its pair the other way round: which of two completions comes first is a matter of ids.
        fit = fit_dawid_skene(
            np.r_[votes.pair, votes.pair + table.pairs],
            np.r_[votes.rater, votes.rater],
            np.r_[said, 2 - said],
            2 * table.pairs,
            len(table.rater_ids),
            weight=np.r_[votes.weight, votes.weight],
        )
        self.p, self.tables, self.prior = fit.p[: table.pairs], fit.tables, fit.prior
        self._numbers = {rater: n for n, rater in enumerate(table.rater_ids)}

    def compute_probabilities(
        self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]
    ) -> list[Probabilities]:
        start = self.table.find_first_pair(comparison_id, pairs)
        if start is not None:
            return [_round(p) for p in self.p[start : start + len(pairs)]]
        return [self._update(said) for said in pairs.values()]

    def _update(self, said: PairVotes) -> Probabilities:
        logs = np.log(np.maximum(self.prior, 1e-10))
        for part in said.parts:
            if (n := self._numbers.get(part.rater_id)) is not None:
                logs = logs + part.weight * np.log(self.tables[n, :, _SIDES[part.outcome]])
        p = np.exp(logs - logs.max())
        return _round(p / p.sum())


#: (9,) 0 first, 1 tie, 2 second of each of VOTE_OUTCOMES.
_SIDES = np.array([0] * TIE + [1] + [2] * TIE)


class BradleyTerry(LabelModel):
    """Bradley and Terry's model, with ties: a strength for each completion, and all raters alike."""

    name = "bradley-terry"

    def __init__(self, votes: Iterable[tuple[str, Sequence[LabelVote]]]):
        numbers: dict[str, int] = {}
        first, second, counts = array("q"), array("q"), array("d")
        for _, of_comparison in votes:
            for pair, said in gather_pair_votes(of_comparison).items():
                for side, completion_id in zip((first, second), pair):
                    side.append(numbers.setdefault(completion_id, len(numbers)))
                counts.extend(fold_outcomes(_sum_parts(said)))
        # Numbered by their ids, so that the sums are the same in whatever order the votes came.
        names = sorted(numbers)
        order = np.empty(len(names), np.int64)
        order[[numbers[name] for name in names]] = np.arange(len(names))
        one, other = (order[np.array(side, np.int64)] for side in (first, second))
        votes_of_pairs = np.array(counts).reshape(-1, 3)
        by_pair = np.lexsort((*votes_of_pairs.T, other, one))
        fit = fit_bradley_terry(one[by_pair], other[by_pair], votes_of_pairs[by_pair], len(names))
        self.strengths, self.nu = dict(zip(names, fit.strengths.tolist())), fit.nu

    def compute_probabilities(
        self, comparison_id: str, pairs: Mapping[tuple[str, str], PairVotes]
    ) -> list[Probabilities]:
        margins = [self.strengths.get(first, 0.0) - self.strengths.get(second, 0.0) for first, second in pairs]
        return [_round(p) for p in davidson_probabilities(np.array(margins), self.nu)]


def _round(p: Any) -> Probabilities:
    first, second = (round(float(p[i]), DIGITS) for i in (0, 2))
    return first, round(1 - first - second, DIGITS), second
