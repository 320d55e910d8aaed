"""What raters as a whole reward besides the content: position, length, formatting, script, and whose answer it is.

All effects come from one logistic regression of the votes on how the two answers of a pair differ, so each is what
remains when the others are equal. An effect is a win probability: how often the answer with the feature wins against
one that is otherwise equal, where a tie is half a win; 50 % is no effect. Intervals are clustered by prompt.

The side on which an answer is shown is drawn at random, so an effect of position is a bias. The others are what votes
go with: a longer answer may also be the better one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from heapq import nsmallest
from typing import Any

import numpy as np

from rlhf_hitl.labels.agreement import NOT_STATED, PEOPLE, name_population
from rlhf_hitl.labels.answer_features import AnswerFeatures, find_prompt_script, read_features
from rlhf_hitl.stats.logistic import fit_logistic
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key, find_comparisons
from rlhf_hitl.store.counted_votes import CountedVote, read_counted_votes
from rlhf_hitl.store.people import list_raters
from rlhf_hitl.types.votes import read_pair_votes

MAX_COMPARISONS = 20_000  # whose answers are read; of more, a random part
MAX_POLICIES = 20  # told apart; the others are taken together
MIN_PROMPTS = 10  # on which a feature must differ, or its effect is not known
MIN_GROUP_VOTES = 100  # of a language
MIN_GROUP_RATERS = 5  # of a rater group: with fewer, a figure of the group would be one of persons

#: Feature → (its kind, what the winner has).
FEATURES = {
    "position": ("position", "shown first"),
    "length": ("length", "twice as long"),
    "list": ("formatting", "with a list"),
    "heading": ("formatting", "with headings"),
    "bold": ("formatting", "with bold text"),
    "code": ("formatting", "with a code block"),
    "script": ("language", "in another script than the question"),
}


@dataclass(frozen=True)
class BiasEffect:
    """How often an answer wins that differs in one feature and is equal in all others.

    Attributes:
        kind: position, length, formatting, language or policy.
        key: the feature; `policy:NAME` for a policy, which is held against the average of those it was compared with,
            directly or through others.
        title: what the answer has, in words.
        value, low, high: the win probability with its 95 % interval; None where it is not known.
        votes, prompts: on how many votes and prompts the two answers differ in it.
    """

    kind: str
    key: str
    title: str
    value: float | None
    low: float | None
    high: float | None
    votes: int
    prompts: int


@dataclass(frozen=True)
class BiasGroup:
    """The effects in the votes of one group: of one language, or of the raters with one value of an attribute."""

    group: str
    raters: int
    votes: int
    effects: list[BiasEffect]


@dataclass(frozen=True)
class BiasReport:
    """What some raters reward.

    Attributes:
        population: people, judges (models) or simulated.
        votes: how many votes it rests on; a ranking of three is one vote.
        is_sample: whether there were more comparisons than MAX_COMPARISONS, of which a random part was read.
        groups: `language`, or `rater:` and an attribute → its groups, those with most votes first.
        too_small: the same → how many groups are not shown because they are too small.
    """

    population: str
    votes: int
    raters: int
    comparisons: int
    prompts: int
    is_sample: bool
    effects: list[BiasEffect]
    groups: dict[str, list[BiasGroup]] = field(default_factory=dict)
    too_small: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _PairVote:
    """What one vote says of one pair: `wins` is 1, 0.5 or 0 for the first; `side` is 1 where it was shown before."""

    first: str
    second: str
    wins: float
    side: int
    weight: float
    vote: CountedVote


def measure_bias(
    store: Store,
    population: str = PEOPLE,
    *,
    project: str | None = None,
    comparison_ids: Collection[str] | None = None,
    max_comparisons: int = MAX_COMPARISONS,
) -> BiasReport:
    """Measure what the votes of one population reward.

    Args:
        population: people, judges or simulated.
        project, comparison_ids: only votes on these comparisons (those of a slice, for instance).
        max_comparisons: how many comparisons to read at most.
    """
    votes, is_sample = _draw_votes(
        read_counted_votes(store, project=project, comparison_ids=comparison_ids), population, max_comparisons
    )
    features: dict[str, AnswerFeatures] = {}
    policy_of: dict[str, str] = {}
    for comparison in find_comparisons(store, ids=sorted({vote.comparison_id for vote in votes})):
        if unread := [c for c in comparison.completions if c.id not in features]:
            asked = find_prompt_script(comparison.prompt)
            features |= {c.id: read_features(c, asked) for c in unread}
            policy_of |= {c.id: c.policy for c in unread}
    pairs = [pair for vote in votes for pair in _read_pairs(vote)]
    judged = Counter(policy_of[i] for pair in pairs for i in (pair.first, pair.second))
    policies = [name for name, _ in judged.most_common(MAX_POLICIES)] if len(judged) > 1 else []
    table = _DesignTable(pairs, features, policy_of, policies)
    report = BiasReport(
        population,
        votes=len(votes),
        raters=len({v.rater_id for v in votes}),
        comparisons=len({v.comparison_id for v in votes}),
        prompts=len({v.family for v in votes}),
        is_sample=is_sample,
        effects=table.measure(np.ones(len(pairs), bool)),
    )
    if population == PEOPLE:
        _add_groups(report, "language", pairs, table, {v.seq: v.language or NOT_STATED for v in votes})
        for attribute, value_of in _read_attributes(store).items():
            group_of = {v.seq: value_of[v.rater_id] for v in votes if v.rater_id in value_of}
            _add_groups(report, f"rater:{attribute}", pairs, table, group_of)
    return report


def _draw_votes(votes: Iterable[CountedVote], population: str, max_comparisons: int) -> tuple[list[CountedVote], bool]:
    """Return the votes of a population on at most so many comparisons, drawn at random, and whether any was left out.

    What is kept are the comparisons with the smallest shuffle keys, of which never more than twice as many are held.
    """
    by_comparison: dict[str, list[CountedVote]] = {}
    highest: int | None = None
    for vote in votes:
        if name_population(vote.is_judge, vote.simulated) != population:
            continue
        if highest is not None and compute_shuffle_key(vote.comparison_id) > highest:
            continue
        by_comparison.setdefault(vote.comparison_id, []).append(vote)
        if len(by_comparison) > 2 * max_comparisons:
            by_comparison, highest = _keep_smallest(by_comparison, max_comparisons)
    if len(by_comparison) > max_comparisons:
        by_comparison, highest = _keep_smallest(by_comparison, max_comparisons)
    return [vote for votes_of_one in by_comparison.values() for vote in votes_of_one], highest is not None


def _keep_smallest(by_comparison: dict[str, list[CountedVote]], n: int) -> tuple[dict[str, list[CountedVote]], int]:
    kept = nsmallest(n, by_comparison, key=compute_shuffle_key)
    return {i: by_comparison[i] for i in kept}, compute_shuffle_key(kept[-1])


def _read_pairs(vote: CountedVote) -> list[_PairVote]:
    pairs = list(read_pair_votes(vote.verdict, vote.ranking, vote.order_shown, vote.strength))
    ranked = len({i for said in pairs for i in (said.first, said.second)})
    return [
        _PairVote(
            said.first,
            said.second,
            1 - said.winner / 2,
            said.side,
            2 / ranked,  # the pairs of a ranking of K weigh K - 1 pairs
            vote,
        )
        for said in pairs
    ]


class _DesignTable:
    """The votes on pairs as a regression: the features of the first answer less those of the second."""

    def __init__(
        self,
        pairs: Sequence[_PairVote],
        features: Mapping[str, AnswerFeatures],
        policy_of: Mapping[str, str],
        policies: Sequence[str],
    ) -> None:
        self.policies = policies
        policy_number = {name: n for n, name in enumerate(policies)}
        row_of = {i: np.array(_to_row(f), float) for i, f in features.items()}
        columns = len(FEATURES) + (len(policies) + 1 if policies else 0)  # the last: all other policies
        x = np.zeros((len(pairs), columns))
        for n, pair in enumerate(pairs):
            x[n, 0] = pair.side
            x[n, 1 : len(FEATURES)] = row_of[pair.first] - row_of[pair.second]
            if policies:
                for side, id in ((1, pair.first), (-1, pair.second)):
                    x[n, len(FEATURES) + policy_number.get(policy_of[id], len(policies))] += side
        self.x = x
        self.wins = np.array([pair.wins for pair in pairs])
        self.weights = np.array([pair.weight for pair in pairs])
        self.families = np.unique([pair.vote.family for pair in pairs], return_inverse=True)[1]

    def measure(self, rows: np.ndarray) -> list[BiasEffect]:
        """Return the effect of each feature and policy in some rows, (n,) bool."""
        x, families = self.x[rows], self.families[rows]
        # A column that is the same for both answers everywhere says nothing, and would only cost time.
        used = np.flatnonzero(x.any(0)) if len(x) else np.zeros(0, int)
        fit = fit_logistic(x[:, used], self.wins[rows], families, self.weights[rows])
        component = _find_components(x[:, used], used >= len(FEATURES))
        effects = []
        for column in range(len(FEATURES) + len(self.policies)):
            is_policy = column >= len(FEATURES)
            if is_policy:
                name = self.policies[column - len(FEATURES)]
                kind, key, title = "policy", f"policy:{name}", f"by {name}"
            else:
                key = list(FEATURES)[column]
                kind, title = FEATURES[key]
            differs = x[:, column] != 0
            prompts = len(np.unique(families[differs]))
            ends: tuple[float | None, ...] = (None, None, None)
            if prompts >= MIN_PROMPTS:
                contrast = (used == column).astype(float)
                if is_policy:
                    average = component == component[used == column]
                    contrast -= average / average.sum()
                ends = tuple(_to_probability(logit) for logit in fit.estimate(contrast))
            effects.append(BiasEffect(kind, key, title, *ends, votes=int(differs.sum()), prompts=prompts))
        return effects


def _find_components(x: np.ndarray, is_policy: np.ndarray) -> np.ndarray:
    """Return (k,) a number for each column of a policy that all policies share with which it was compared, directly or
    through others; negative for other columns. Nothing is known of policies that no chain of votes connects."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    columns = (x[:, is_policy] != 0).astype(float)
    component = np.full(len(is_policy), -1)
    if columns.shape[1]:
        component[is_policy] = connected_components(csr_array(columns.T @ columns), directed=False)[1]
    return component


def _to_row(f: AnswerFeatures) -> tuple[float, ...]:
    """Return the features after the position, in the order of FEATURES."""
    return math.log2(f.characters + 1), f.has_list, f.has_heading, f.has_bold, f.has_code, f.is_foreign


def _to_probability(logit: float) -> float:
    from scipy import special

    return float(special.expit(logit))


def _read_attributes(store: Store) -> dict[str, dict[str, str]]:
    """Return attribute → rater id → value, of the raters who agreed to be counted in such groups."""
    attributes: dict[str, dict[str, str]] = {}
    for rater in list_raters(store):
        for name, value in rater.attributes.items():
            attributes.setdefault(name, {})[rater.id] = value
    return dict(sorted(attributes.items()))


def _add_groups(
    report: BiasReport,
    grouping: str,
    pairs: Sequence[_PairVote],
    table: _DesignTable,
    group_of: Mapping[int, str],
) -> None:
    """Add the groups of one grouping to a report, unless there is only one language.

    Args:
        group_of: `seq` of a vote → its group; votes that are missing are in none.
    """
    groups = np.array([group_of.get(pair.vote.seq, "") for pair in pairs])
    raters_of: dict[str, set[str]] = {}
    votes_of: Counter[str] = Counter()
    for vote in {pair.vote.seq: pair.vote for pair in pairs}.values():
        if group := group_of.get(vote.seq):
            raters_of.setdefault(group, set()).add(vote.rater_id)
            votes_of[group] += 1
    if grouping == "language":
        shown = [g for g, n in votes_of.most_common() if n >= MIN_GROUP_VOTES]
        if len(votes_of) < 2:
            return
    else:
        shown = [g for g, _ in votes_of.most_common() if len(raters_of[g]) >= MIN_GROUP_RATERS]
    report.groups[grouping] = [
        BiasGroup(
            group,
            raters=len(raters_of[group]),
            votes=votes_of[group],
            effects=[e for e in table.measure(groups == group) if e.kind != "policy"],
        )
        for group in shown
    ]
    report.too_small[grouping] = len(votes_of) - len(shown)
