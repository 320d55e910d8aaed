"""What the figures are computed from, read once: what was judged, accepted, measured and spent, and when."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import combinations

from rlhf_hitl.config import Settings
from rlhf_hitl.labels.kept_fits import load_kept_label_model
from rlhf_hitl.labels.votes import to_label_vote
from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_judgments_of
from rlhf_hitl.store.label_votes import read_vote_weights
from rlhf_hitl.store.loop_steps import read_round_ends
from rlhf_hitl.store.routings import Routing, read_routings
from rlhf_hitl.store.runs import Run, read_runs
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.store.work_facts import (
    ComparisonFact,
    FeeFact,
    JudgmentFact,
    read_comparison_facts,
    read_fee_facts,
    read_judgment_facts,
)
from rlhf_hitl.types import Role, Route, Score, Split, Verdict


class Rounds:
    """Which round of the loop a time belongs to. What was done between two rounds counts with the later one, and what
    came after the last with the last."""

    def __init__(self, ends: Mapping[int, datetime]):
        self.numbers = sorted(ends) or [0]
        self._ends = [ends[n] for n in self.numbers[:-1]]

    def find(self, at: datetime) -> int:
        return self.numbers[bisect_left(self._ends, at)]


@dataclass(frozen=True)
class ControlOutcome:
    """A control comparison that raters have decided: whether the model erred, and the route it would have had."""

    comparison_id: str
    routed_at: datetime
    is_error: bool
    proposed: Route


@dataclass(frozen=True)
class KpiFacts:
    """Everything that the figures are computed from.

    Attributes:
        comparisons: those that were judged here or routed, by id.
        judgments: what people and simulated raters judged here, in the order it came.
        decisions: of training prompts, in the order they were made; `other_decisions`: of all others.
        control: the outcomes of control comparisons on which raters have a preference; `ties` are the others.
        rater_price, machine_price: of a second.
        fees: what AI judges asked for, call by call.
    """

    comparisons: Mapping[str, ComparisonFact]
    judgments: list[JudgmentFact]
    decisions: list[Routing]
    control: list[ControlOutcome]
    ties: int
    runs: list[Run]
    rounds: Rounds
    rater_price: float
    machine_price: float
    fees: Sequence[FeeFact] = ()
    other_decisions: Sequence[Routing] = ()

    @cached_property
    def counted(self) -> list[JudgmentFact]:
        """The judgments of the population: of training prompts, that say something and were wanted."""
        return [j for j in self.judgments if is_counted(j, self.comparisons)]

    @cached_property
    def first_judgment(self) -> dict[str, JudgmentFact]:
        """Comparison id → the first judgment of it."""
        first: dict[str, JudgmentFact] = {}
        for j in self.counted:
            first.setdefault(j.comparison_id, j)
        return first

    @cached_property
    def routings(self) -> dict[str, Routing]:
        """Comparison id → its newest decision."""
        return {r.comparison_id: r for r in self.decisions}

    @cached_property
    def accepted(self) -> list[Routing]:
        """The acceptances that nobody has judged, each dated from when it began to hold."""
        held = _date_from_beginning(self.decisions, lambda r: r.accepts and r.proposed is Route.AUTO)
        return [r for r in held if r.route is Route.AUTO and r.comparison_id not in self.first_judgment]

    @cached_property
    def sure(self) -> list[Routing]:
        """The decisions that hold on what the model would accept, checked by raters or not, each dated from when it
        began to hold. What was sent on afterwards is judged by people: it is not among them."""
        return _date_from_beginning(
            self.decisions, lambda r: r.proposed is Route.AUTO and r.route is not Route.ESCALATED
        )

    @cached_property
    def vote_pairs(self) -> list[tuple[str, JudgmentFact, JudgmentFact, float]]:
        """Each two votes on the same comparison, with the share of its pairs of which they say the same, in the order
        of the second. People and simulated raters are not compared with each other."""
        votes: dict[tuple[str, bool], list[JudgmentFact]] = defaultdict(list)
        for j in self.counted:
            votes[j.comparison_id, j.simulated].append(j)
        pairs = [
            (comparison, first, second, share)
            for (comparison, _), of_one in votes.items()
            for first, second in combinations(of_one, 2)
            if (share := _compare_votes(first, second)) is not None
        ]
        return sorted(pairs, key=lambda pair: pair[2].seq)

    def price(self, judgment: JudgmentFact) -> float:
        """Return what a judgment cost; nothing where its time was not measured."""
        return (judgment.seconds or 0.0) * self.rater_price


def _date_from_beginning(decisions: Iterable[Routing], belongs: Callable[[Routing], bool]) -> list[Routing]:
    """Return the newest decision of each comparison, where it belongs, with the time of the first of its unbroken run.

    Each routing decides again on what nobody has judged, by whatever model: were its time taken, what was accepted
    weeks ago would look as if it were of today.
    """
    held: dict[str, Routing] = {}
    for r in decisions:
        before = held.pop(r.comparison_id, None)
        if belongs(r):
            held[r.comparison_id] = r if before is None else replace(r, created_at=before.created_at)
    return list(held.values())


def _compare_votes(first: JudgmentFact, second: JudgmentFact) -> float | None:
    """Return the share of pairs of completions of which two votes say the same; None where there is no pair. Of what is
    all bad, none is better."""
    a, b = ({i: n for n, group in enumerate(j.ranking) for i in group} for j in (first, second))
    pairs = list(combinations(sorted(a.keys() | b.keys()), 2))
    if not pairs:
        return None
    said = [[(of.get(x, 0) > of.get(y, 0)) - (of.get(x, 0) < of.get(y, 0)) for x, y in pairs] for of in (a, b)]
    return sum(x == y for x, y in zip(*said)) / len(pairs)


def is_counted(judgment: JudgmentFact, comparisons: Mapping[str, ComparisonFact]) -> bool:
    """Return whether a judgment is of the population of the figures."""
    comparison = comparisons[judgment.comparison_id]
    says = judgment.verdict in (Verdict.RANKED, Verdict.ALL_BAD) and not judgment.surplus
    return says and comparison.is_work and comparison.split == Split.TRAIN


def read_kpi_facts(store: Store, settings: Settings) -> KpiFacts:
    """Read what the figures are computed from, each judgment once."""
    all_decisions = read_routings(store, newest=False)
    comparisons, judgments = read_comparison_facts(store), read_judgment_facts(store)
    judgments = [j for j in judgments if j.comparison_id in comparisons]  # what came in between comes next time
    of_train = {i for i, c in comparisons.items() if c.split == Split.TRAIN}
    decisions = [d for d in all_decisions if d.comparison_id in of_train]
    judged = {j.comparison_id for j in judgments if is_counted(j, comparisons)}
    control, ties = _measure_control_share(store, _find_control_share(decisions), judged)
    return KpiFacts(
        comparisons=comparisons,
        judgments=judgments,
        decisions=decisions,
        control=control,
        ties=ties,
        runs=read_runs(store),
        rounds=Rounds(read_round_ends(store)),
        rater_price=settings.rater_price_per_hour / 3600,
        machine_price=settings.machine_price_per_hour / 3600,
        other_decisions=[d for d in all_decisions if d.comparison_id not in of_train],
        fees=[fee for fee in read_fee_facts(store) if fee.comparison_id in comparisons],
    )


def _find_control_share(decisions: Iterable[Routing]) -> dict[str, Routing]:
    """Return comparison id → the decision that drew it as a control.

    What is sent on afterwards, because raters are split or a lead wants one more vote, stays a control: these are the
    contested cases, without which the rest would represent the easy ones. Only another draw changes it.
    """
    newest = {d.comparison_id: d for d in decisions if d.route is not Route.ESCALATED}
    return {i: d for i, d in newest.items() if d.route is Route.CONTROL}


def _measure_control_share(
    store: Store, drawn: Mapping[str, Routing], judged: set[str]
) -> tuple[list[ControlOutcome], int]:
    """Return the outcomes of control comparisons on whose two best completions raters have a preference, and the number
    of the others: a tie does not show whether the model was right."""
    wanted = {i: r for i, r in drawn.items() if i in judged and r.reward_model_id is not None}
    if not wanted:
        return [], 0
    scores: dict[str, dict[str, Score]] = {}
    for model in {str(r.reward_model_id) for r in wanted.values()}:
        scores[model] = {s.comparison_id: s for s in read_scores(store, model) if s.comparison_id in wanted}
    votes = defaultdict(list)
    label_model, vote_weights = load_kept_label_model(store), read_vote_weights(store)
    for j in read_judgments_of(store, wanted):
        says = j.answer.verdict in (Verdict.RANKED, Verdict.ALL_BAD) and not j.surplus and not j.source
        if says and j.role is not Role.JUDGE:  # a model's word does not measure a model
            votes[j.comparison_id].append(to_label_vote(j, vote_weights))
    outcomes, ties = [], 0
    for comparison_id, of_one in votes.items():
        r = wanted[comparison_id]
        score = scores[str(r.reward_model_id)][comparison_id]
        labels = label_model.make_labels(comparison_id, of_one)
        label = next((x for x in labels if {x.first, x.second} == {score.chosen, score.rejected}), None)
        if label is None or label.preferred is None:
            ties += 1
        else:
            outcomes.append(ControlOutcome(comparison_id, r.created_at, label.preferred != score.chosen, r.proposed))
    return outcomes, ties
