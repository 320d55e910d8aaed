"""What votes say of policies: every vote on answers of two policies, of all rounds and imports, with what it can be
filtered by. People's votes, judges' and simulated ones are never mixed.

Raters see letters instead of names, so all votes of the queue are blind. Of an imported vote the file's makers know.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlhf_hitl.labels.agreement import JUDGES, PEOPLE, SIMULATED, name_population
from rlhf_hitl.labels.answer_features import count_style
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.stats.policy_ranking import PairOutcomes
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import load_completions, read_policies
from rlhf_hitl.store.counted_votes import read_counted_votes
from rlhf_hitl.store.label_votes import read_vote_weights
from rlhf_hitl.store.policies import UNNAMED
from rlhf_hitl.types import Verdict
from rlhf_hitl.types.votes import read_pair_votes

POPULATIONS = (PEOPLE, JUDGES, SIMULATED)
#: The columns of style: how much more of it the first answer has, as a share of what both have.
STYLE = ("length", "headings", "lists", "bold")
COMPLETIONS_AT_ONCE = 5000

#: Why something said about a pair is not in the ranking.
SKIPPED = "judgments that skip or flag"
UNTRUSTED = "votes of raters whose votes count nothing"
SAME_POLICY = "pairs of answers of one policy"
NO_POLICY = "pairs with an answer of no known policy"
FILTERED = "pairs of other languages or tags"
#: The same of one.
OF_ONE = {
    SKIPPED: "judgment that skips or flags",
    UNTRUSTED: "vote of a rater whose votes count nothing",
    SAME_POLICY: "pair of answers of one policy",
    NO_POLICY: "pair with an answer of no known policy",
    FILTERED: "pair of another language or tag",
}


def name_reason(reason: str, n: int) -> str:
    """Return a reason why `n` are not in the ranking, as it follows their number."""
    return OF_ONE[reason] if n == 1 else reason


@dataclass(frozen=True)
class PolicyVotes:
    """The votes of one population on pairs of answers, as arrays of pairs.

    Attributes:
        policies: by number.
        kind: (n,) the number of what can be filtered by, in `kinds`: a language, and the tags of a prompt.
        vote: (n,) the judgment that says it; a ranking of K answers has up to K (K - 1) / 2 pairs.
        left_out: reason → how many judgments or pairs.
        counts: population → how many judgments there are of it, whether or not they say something of policies.
    """

    population: str
    policies: tuple[str, ...]
    pairs: PairOutcomes
    kind: np.ndarray
    kinds: tuple[tuple[str, Mapping[str, Any]], ...]
    vote: np.ndarray
    left_out: Mapping[str, int]
    counts: Mapping[str, int]

    @property
    def votes(self) -> int:
        return len(np.unique(self.vote))

    def filter(self, language: str | None = None, tags: Mapping[str, str] | None = None) -> PolicyVotes:
        """Return those about prompts of a language, and that have all these tags; the others are counted."""
        fits = [
            (language is None or spoken == language)
            and all(str(of.get(name)) == value for name, value in (tags or {}).items())
            for spoken, of in self.kinds
        ]
        rows = np.array(fits, bool)[self.kind] if fits else np.zeros(0, bool)
        if rows.all():
            return self
        left_out = {**self.left_out, FILTERED: int((~rows).sum())}
        return replace(
            self, pairs=self.pairs.select(rows), kind=self.kind[rows], vote=self.vote[rows], left_out=left_out
        )

    def count_choices(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """Return the pairs of each language, and of each value of each tag."""
        languages: Counter[str] = Counter()
        tags: dict[str, Counter[str]] = {}
        for (language, of), n in zip(self.kinds, np.bincount(self.kind, minlength=len(self.kinds)).tolist()):
            languages[language] += n
            for name, value in of.items():
                if name != "language":
                    tags.setdefault(name, Counter())[str(value)] += n
        return dict(languages.most_common()), {name: dict(of.most_common()) for name, of in sorted(tags.items())}


def read_policy_votes(
    store: Store, population: str | None = None, *, project: str | None = None, with_style: bool = False
) -> PolicyVotes:
    """Read what the votes of one population say of policies.

    A tie, and "both bad", is a tie. A vote counts what its rater is trusted with, shared among its pairs as labels have
    it.

    Args:
        population: people, judges or simulated; None for people, or for simulated raters where no person has voted.
        with_style: read the texts of the answers too, and how their style differs.
    """
    gathered = {name: _Gathered() for name in POPULATIONS}
    weights = read_vote_weights(store)
    for vote in read_counted_votes(store, project=project):
        gathered[name_population(vote.is_judge, vote.simulated)].add(vote, weights.get(vote.rater_id, 1.0))
    counts = {name: of.judgments for name, of in gathered.items()}
    if population is None:
        population = SIMULATED if counts[SIMULATED] and not counts[PEOPLE] else PEOPLE
    return gathered[population].make(store, population, counts, with_style)


class _Gathered:
    """The pairs of one population as they are read: columns, and numbers for what repeats."""

    def __init__(self) -> None:
        self.judgments = 0
        self.left_out: Counter[str] = Counter()
        self._ids: dict[str, int] = {}
        self._families: dict[str, int] = {}
        self._kinds: dict[tuple[str, tuple[tuple[str, Any], ...]], int] = {}
        self._first, self._second, self._outcome = array("q"), array("q"), array("b")
        self._weight, self._prompt, self._kind, self._vote = array("d"), array("q"), array("q"), array("q")

    def add(self, vote: Any, rater_weight: float) -> None:
        self.judgments += 1
        if vote.verdict not in (Verdict.RANKED, Verdict.ALL_BAD):
            self.left_out[SKIPPED] += 1
            return
        if rater_weight <= 0:
            self.left_out[UNTRUSTED] += 1
            return
        said = list(read_pair_votes(vote.verdict, vote.ranking, vote.order_shown, vote.strength))
        if not said:
            return
        ranked = len({i for pair in said for i in (pair.first, pair.second)})
        weight = weigh_votes(rater_weight, ranked)
        tags = tuple(sorted((name, str(value)) for name, value in (vote.tags or {}).items()))
        kind = self._kinds.setdefault((vote.language, tags), len(self._kinds))
        prompt = self._families.setdefault(vote.family, len(self._families))
        for pair in said:
            self._first.append(self._ids.setdefault(pair.first, len(self._ids)))
            self._second.append(self._ids.setdefault(pair.second, len(self._ids)))
            self._outcome.append(pair.winner)
            self._weight.append(weight)
            self._prompt.append(prompt)
            self._kind.append(kind)
            self._vote.append(vote.seq)

    def make(self, store: Store, population: str, counts: Mapping[str, int], with_style: bool) -> PolicyVotes:
        ids = list(self._ids)
        policy_of: dict[str, str] = {}
        for begin in range(0, len(ids), COMPLETIONS_AT_ONCE):
            policy_of |= read_policies(store, ids[begin : begin + COMPLETIONS_AT_ONCE])
        names = [policy_of.get(id, UNNAMED) for id in ids]
        policies = tuple(sorted(set(names) - {UNNAMED, ""}))
        number = {name: n for n, name in enumerate(policies)}
        policy = np.array([number.get(name, -1) for name in names], np.int64)
        first, second = (np.array(side, np.int64) for side in (self._first, self._second))
        known = (policy[first] >= 0) & (policy[second] >= 0)
        rows = known & (policy[first] != policy[second])
        left_out = Counter(self.left_out)
        left_out[NO_POLICY] += int((~known).sum())
        left_out[SAME_POLICY] += int((known & ~rows).sum())
        first, second = first[rows], second[rows]
        style = np.zeros((len(first), 0))
        if with_style:
            counted = _count_styles(store, ids, np.unique(np.concatenate([first, second])))
            style = _compare_styles(counted[first], counted[second])
        pairs = PairOutcomes(
            policy[first],
            policy[second],
            np.array(self._outcome, np.int64)[rows],
            np.array(self._weight)[rows],
            np.array(self._prompt, np.int64)[rows],
            style,
            len(policies),
        )
        kinds = tuple((language, dict(tags)) for language, tags in self._kinds)
        return PolicyVotes(
            population,
            policies,
            pairs,
            np.array(self._kind, np.int64)[rows],
            kinds,
            np.array(self._vote, np.int64)[rows],
            {reason: n for reason, n in left_out.items() if n},
            counts,
        )


def _count_styles(store: Store, ids: Sequence[str], wanted: np.ndarray) -> np.ndarray:
    """Return (ids, 4) the counts of STYLE of the wanted completions, and 0 for the others."""
    counted = np.zeros((len(ids), len(STYLE)))
    for begin in range(0, len(wanted), COMPLETIONS_AT_ONCE):
        some: list[int] = [int(n) for n in wanted[begin : begin + COMPLETIONS_AT_ONCE]]
        with store.read() as conn:
            loaded = load_completions(conn, [ids[n] for n in some])
        for n in some:
            counted[n] = count_style(loaded[ids[n]].text)
    return counted


def _compare_styles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (n, 4) the difference of counts as a share of their sum, from -1 to 1; 0 where both are 0."""
    both = first + second
    return (first - second) / np.where(both > 0, both, 1)
