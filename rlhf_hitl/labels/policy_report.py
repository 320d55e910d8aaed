"""The ranking of a store's policies for reading: by name, with style control beside without, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rlhf_hitl.errors import NotFound
from rlhf_hitl.labels.agreement import JUDGES, PEOPLE, SIMULATED
from rlhf_hitl.labels.policy_votes import STYLE, PolicyVotes, name_reason
from rlhf_hitl.stats.policy_ranking import MIN_PROMPTS, PolicyRanking, RatedPolicy, rank_policies
from rlhf_hitl.store import Store
from rlhf_hitl.store.policies import read_lineage
from rlhf_hitl.store.promotions import Promotion, list_promotions
from rlhf_hitl.store.reward_models import display_name_of_id, list_reward_models
from rlhf_hitl.types.promotions import Decision
from rlhf_hitl.wording import say_count

#: With a fitted share of ties above this, differences of ratings are mostly the model's way to explain ties.
MOST_TIES = 0.75
POPULATION_TITLES = {PEOPLE: "people", JUDGES: "models that judge", SIMULATED: "simulated raters"}


#: How a promotion by raters came out; `open`: they are still at it.
PromotionOutcome = Literal["open", "promoted", "rejected", "undecided"]


@dataclass(frozen=True)
class PolicyFigures:
    """Where a policy stands; as `RatedPolicy` has it, with its name.

    Attributes:
        held: whether only the prior says how far it is from the others.
        swept: whether it won, or lost, all its comparisons.
        plain_rating, plain_rank: without style control, where the ranking is with it.
    """

    policy: str
    group: int
    rank: int
    rating: float
    low: float | None
    high: float | None
    win_rate: float | None
    win_low: float | None
    win_high: float | None
    votes: float
    prompts: int
    held: bool
    swept: Literal["won", "lost"] | None
    plain_rating: float | None = None
    plain_rank: int | None = None


@dataclass(frozen=True)
class StyleWorth:
    """What one standard deviation more of a feature of style is worth, in logits, with its 95 % interval."""

    feature: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PolicyReport:
    """A ranking of policies.

    Attributes:
        population: whose votes: people, judges or simulated.
        counts: population → judgments of it in the store, whether or not they say something of policies.
        votes, pairs, prompts: what the ranking rests on; a ranking of K answers is one vote on several pairs.
        language, tags: only of prompts with these.
        base: the policy that win rates are against; None: the average policy.
        policies: by group and rank.
        groups: how many no comparison connects.
        wins, ties: the votes of the policy of the row over that of the column, in the order of `policies`.
        tie_rate: how often two equal policies tie.
        style: empty without style control.
        left_out: reason → how many.
    """

    population: str
    counts: Mapping[str, int]
    votes: int
    pairs: int
    prompts: int
    language: str | None
    tags: Mapping[str, str]
    base: str | None
    policies: list[PolicyFigures]
    groups: int
    wins: list[list[float]]
    ties: list[list[float]]
    tie_rate: float
    style: list[StyleWorth] = field(default_factory=list)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_stretched(self) -> bool:
        """Whether so much is tied that the fit needs huge differences to explain who is better."""
        return self.tie_rate > MOST_TIES and any(map(any, self.wins))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def say_notes(self) -> list[str]:
        """Return what has to be known beside the figures, a sentence each."""
        whose = POPULATION_TITLES[self.population]
        notes = [
            f"Over {say_count(self.votes, 'vote')} of {whose} on {say_count(self.prompts, 'prompt')}: rating on Elo's "
            "scale, where 400 points are odds of ten to one and the policies that both won and lost average 1000; "
            "intervals of 95 % from a bootstrap over prompts; rank: 1 and the policies that are shown to be better"
        ]
        if self.population == SIMULATED:
            notes.append("These votes are simulated: they say nothing of what people prefer")
        if self.style:
            notes.append("With style control: ratings are of answers alike in length, headings, lists and bold text")
        if self.groups > 1:
            notes.append(
                f"No comparison connects the {self.groups} groups: nothing says which of them is better, and ranks are "
                "within a group"
            )
        if any(p.held for p in self.policies):
            notes.append(
                "Who won, or lost, everything has an open interval: only a weak prior (normal, of 4 logits) says how "
                "far ahead, or behind, they are"
            )
        if self.is_stretched:
            notes.append(
                f"Two equal policies would tie in {self.tie_rate:.2%} of votes, which stretches the scale: read ranks "
                "and who beats whom, not how far apart ratings are"
            )
        if any(p.low is None and p.high is None for p in self.policies):
            notes.append(
                f"Policies on fewer than {MIN_PROMPTS} prompts, or with nothing but ties, have no interval, but for an "
                "open one of who won, or lost, everything"
            )
        notes += [f"Left out: {n:,} {name_reason(reason, n)}" for reason, n in self.left_out.items()]
        others = [f"{n:,} of {POPULATION_TITLES[p]}" for p, n in self.counts.items() if n and p != self.population]
        if others:
            notes.append(f"Never mixed with these, and ranked apart: {' and '.join(others)}")
        return notes


def make_policy_report(
    votes: PolicyVotes,
    roots: Sequence[str] = (),
    *,
    base: str | None = None,
    language: str | None = None,
    tags: Mapping[str, str] | None = None,
    style_control: bool = False,
) -> PolicyReport:
    """Rank the policies that votes compare.

    Args:
        votes: read with style where there is style control.
        roots: policies from which others were tuned; the first that was compared is the base if none is named.
        base: the policy that win rates are against.
        language, tags: only votes about prompts that have these.

    Raises:
        NotFound: no vote is about the base.
    """
    wanted = votes.filter(language, tags)
    number = {name: n for n, name in enumerate(votes.policies)}
    if base is not None and base not in number:
        named = ", ".join(list(votes.policies)[:5]) or "none yet"
        raise NotFound(f"base {base!r}", expected=f"a policy that raters have compared ({named})", fix="check the name")
    if base is None:
        base = next((name for name in roots if name in number), None)
    against = None if base is None else number[base]
    plain = rank_policies(wanted.pairs.without_style(), base=against)
    ranking = rank_policies(wanted.pairs, base=against) if style_control else plain
    order = [r.policy for r in ranking.rated]
    without = {r.policy: r for r in plain.rated} if style_control else {}
    return PolicyReport(
        population=votes.population,
        counts=votes.counts,
        votes=wanted.votes,
        pairs=len(wanted.vote),
        prompts=len(set(wanted.pairs.prompt.tolist())),
        language=language,
        tags=dict(tags or {}),
        base=None if ranking.base is None else votes.policies[ranking.base],
        policies=[_name(r, votes.policies[r.policy], without.get(r.policy)) for r in ranking.rated],
        groups=ranking.groups,
        wins=_order(ranking, order, "wins"),
        ties=_order(ranking, order, "ties"),
        tie_rate=ranking.tie_rate,
        style=[StyleWorth(STYLE[e.column], e.value, e.low, e.high) for e in ranking.style],
        left_out=wanted.left_out,
    )


def list_roots(store: Store) -> list[str]:
    """Return the policies from which recorded ones were tuned, those with most tuned from them first."""
    entries = read_lineage(store)
    roots = [(n, e.name) for n, e in enumerate(entries) if e.depth == 0]
    ends = [n for n, _ in roots[1:]] + [len(entries)]
    lines = sorted((begin - end, begin, name) for end, (begin, name) in zip(ends, roots))
    return [name for length, _, name in lines if length < -1]


def describe_lineage(store: Store) -> list[dict[str, Any]]:
    """Return the lineage as plain values, each policy below the one it was made of, with what gates decided of it."""
    models = list_reward_models(store)
    promotions = {promotion.new_policy: promotion for promotion in list_promotions(store)}  # the newest of each
    lines = []
    for entry in read_lineage(store):
        record, promotion = entry.record, promotions.get(entry.name)
        model_id = record and record.reward_model_id
        lines.append(
            {
                "policy": entry.name,
                "parent": entry.parent,
                "depth": entry.depth,
                "method": record and record.method.value,
                "round": record and record.round,
                "reward_model_id": model_id,
                "reward_model": model_id and display_name_of_id(model_id, models),
                "path": record and record.path,
                "place": record and record.place,
                "settings_digest": record and record.settings_digest,
                "created_at": record and record.created_at.isoformat(),
                "replaced": record.replaced if record else 0,
                "outcome": promotion and _name_outcome(promotion),
                "gate": promotion and _say_promotion(promotion),
            }
        )
    return lines


def _name_outcome(promotion: Promotion) -> PromotionOutcome:
    if promotion.is_open:
        return "open"
    names: dict[Decision, PromotionOutcome] = {
        Decision.PROMOTE: "promoted", Decision.REJECT: "rejected", Decision.UNDECIDED: "undecided"
    }  # fmt: skip
    return names[promotion.decision]


def _say_promotion(promotion: Promotion) -> str:
    """Return how a promotion by raters came out, or stands, in a line."""
    whose = "simulated judgment" if promotion.simulated else "judgment"
    line = f"{_name_outcome(promotion)} over {promotion.old_policy}, {say_count(promotion.judgments, whose)}"
    if promotion.win_rate is not None:
        line += f": win rate {promotion.win_rate:.0%}"
        helped = promotion.reward_model_id is not None
        line += " with the reward model's help" if helped else ""
        # A ranking of the same votes has another interval: this one holds however often it is looked at.
        line += f" ({promotion.low:.0%} to {promotion.high:.0%} at any look)"
        won, tied, lost = (promotion.counts.get(kind, 0) for kind in ("won", "tied", "lost"))
        line += f"; {(won + tied / 2) / (won + tied + lost):.0%} of the votes" if helped and won + tied + lost else ""
    if promotion.regressions:
        line += f"; loses under {', '.join(promotion.regressions)}"
    return line


def _name(rated: RatedPolicy, name: str, plain: RatedPolicy | None) -> PolicyFigures:
    return PolicyFigures(
        name,
        rated.group,
        rated.rank,
        rated.rating,
        rated.low,
        rated.high,
        rated.win_rate,
        rated.win_low,
        rated.win_high,
        rated.votes,
        rated.prompts,
        rated.is_held,
        rated.swept,
        None if plain is None else plain.rating,
        None if plain is None else plain.rank,
    )


def _order(ranking: PolicyRanking, order: Sequence[int], name: str) -> list[list[float]]:
    table = getattr(ranking, name)
    return [[float(table[row, column]) for column in order] for row in order]
