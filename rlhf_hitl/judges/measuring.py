"""Measure a judge against people: on the comparisons that both have judged, with intervals clustered by comparison.

A *lean* is what a vote says of a pair as one number: 1 for the first, -1 for the second, 0 for a tie; of a judge with
probabilities, p(first better) - p(second better).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations, islice
from typing import Any

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.stats.intervals import clustered_mean_interval, clustered_share_interval
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judges import find_reliability, read_calls
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Comparison, Judgment, Rater, Role, Verdict
from rlhf_hitl.types.judges import Judge

COMPARISONS_AT_ONCE = 500


@dataclass(frozen=True)
class Measured:
    """A mean with its 95 % interval over `comparisons` comparisons; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    comparisons: int


@dataclass(frozen=True)
class JudgeReport:
    """What is known of a judge.

    agreement: how often a person's vote says the same as the judge's (first, tie, second).
    people_agreement: the same of two people, on the same comparisons: what the judge is to be held against.
    position_bias: its lean to the answer shown first, from its calls in both orders; 0 is none.
    flips: how often its choice turns with the order.
    length_bias: its lean to the longer answer, less that of people on the same pairs; 0 is none.
    self_preference: its lean to the policies of its own family, less that of people on the same pairs.
    """

    name: str
    judgments: int
    agreement: Measured
    people_agreement: Measured
    reliability: tuple[float, float, float] | None
    position_bias: Measured
    flips: Measured
    length_bias: Measured
    self_preference: Measured
    own_policies: str = ""
    simulated: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Sample:
    """Values, each of a comparison."""

    values: list[float] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)

    def add(self, value: float, comparison_id: str) -> None:
        self.values.append(value)
        self.clusters.append(comparison_id)

    def measure(self, *, bound: float = 0.0) -> Measured:
        """Return the mean: of a share where `bound` is 0, else of values from -bound to bound."""
        if not self.values:
            return Measured(None, None, None, 0)
        x, clusters = np.array(self.values), np.array(self.clusters)
        if bound:
            low, high = clustered_mean_interval(x, clusters, (-bound, bound))
        else:
            low, high = clustered_share_interval(x, clusters)
        return Measured(float(x.mean()), low, high, len(set(self.clusters)))


def measure_judge(store: Store, rater: Rater, judge: Judge | None = None, *, own_policies: str = "") -> JudgeReport:
    """Measure a judge against the people who judged the same comparisons.

    Judgments that were superseded, surplus ones and hidden repeats do not count, nor those of other judges and of
    leads who decided a comparison.

    Args:
        judge: how it was asked, where the store knows: imported votes have no calls.
        own_policies: a glob of the policies that are its own family.

    Raises:
        BadInput: the rater is no judge.
    """
    if rater.role is not Role.JUDGE:
        raise BadInput(f"rater {rater.name!r}", expected="a judge", fix="see `rlhf-hitl judges list`")
    samples = {name: _Sample() for name in ("agreement", "people", "length", "self")}
    judgments, simulated = 0, False
    for comparison, own, people in _read_shared(store, rater.id):
        judgments += 1
        simulated = simulated or any(person.simulated for person in people)
        for pair in combinations([c.id for c in comparison.completions], 2):
            _add_pair(samples, comparison, pair, own, people, own_policies)
    position, flips = _measure_position(store, judge)
    return JudgeReport(
        rater.name,
        judgments,
        samples["agreement"].measure(),
        samples["people"].measure(),
        find_reliability(store, rater.id),
        position,
        flips,
        samples["length"].measure(bound=2.0),
        samples["self"].measure(bound=2.0),
        own_policies,
        simulated,
    )


def _read_shared(store: Store, rater_id: str) -> Iterator[tuple[Comparison, Judgment, list[Judgment]]]:
    """Yield each comparison that a judge has judged, its judgment, and those of people."""
    own_all = (j for j in read_judgments(store, rater_id=rater_id, repeats=False) if not j.surplus)
    while page := {j.comparison_id: j for j in islice(own_all, COMPARISONS_AT_ONCE)}:
        people: dict[str, list[Judgment]] = {}
        for judgment in read_judgments(store, comparison_ids=list(page), repeats=False):
            if judgment.role is Role.RATER and not judgment.surplus:
                people.setdefault(judgment.comparison_id, []).append(judgment)
        for comparison in find_comparisons(store, ids=list(page)):
            yield comparison, page[comparison.id], people.get(comparison.id, [])


def _add_pair(
    samples: dict[str, _Sample],
    comparison: Comparison,
    pair: tuple[str, str],
    own: Judgment,
    people: list[Judgment],
    own_policies: str,
) -> None:
    leans = [lean for person in people if (lean := find_lean(person, pair)) is not None]
    lean = find_lean(own, pair)
    if lean is None or not leans:
        return
    choice = find_lean(own, pair, plain=True)
    for other in leans:
        samples["agreement"].add(float(other == choice), comparison.id)
    for a, b in combinations(leans, 2):
        samples["people"].add(float(a == b), comparison.id)
    excess = lean - sum(leans) / len(leans)
    first, second = (comparison.find_completion(i) for i in pair)
    if len(first.text) != len(second.text):
        samples["length"].add(excess if len(first.text) > len(second.text) else -excess, comparison.id)
    are_own = [bool(own_policies) and fnmatchcase(c.policy, own_policies) for c in (first, second)]
    if are_own[0] != are_own[1]:
        samples["self"].add(excess if are_own[0] else -excess, comparison.id)


def find_lean(judgment: Judgment, pair: tuple[str, str], *, plain: bool = False) -> float | None:
    """Return the lean of a judgment in a pair; None where it does not rank both.

    Args:
        plain: what it chose, also where it has probabilities.
    """
    if judgment.probabilities is not None and not plain:
        first, _, second = judgment.probabilities
        return first - second if judgment.order_shown[0] == pair[0] else second - first
    answer = judgment.answer
    if answer.verdict is Verdict.ALL_BAD:
        return 0.0
    rank = {id: r for r, group in enumerate(answer.ranking) for id in group}
    if not set(pair) <= rank.keys():
        return None
    return float(np.sign(rank[pair[1]] - rank[pair[0]]))


def _measure_position(store: Store, judge: Judge | None) -> tuple[Measured, Measured]:
    """Return the lean to what is shown first, and how often a choice turns with the order."""
    position, flips = _Sample(), _Sample()
    if judge is not None:
        # Draws of one order come one after another; the last of an order says what they come to as well as any.
        seen: dict[tuple[str, tuple[str, str]], float] = {}
        for comparison_id, call in read_calls(store, judge):
            if call.probabilities is None:
                continue
            first, _, second = call.probabilities
            lean = first - second
            turned = seen.pop((comparison_id, (call.order_shown[1], call.order_shown[0])), None)
            if turned is None:
                seen[comparison_id, call.order_shown] = lean
                continue
            position.add((lean + turned) / 2, comparison_id)
            if lean and turned:
                flips.add(float((lean > 0) == (turned > 0)), comparison_id)
    return position.measure(bound=1.0), flips.measure()
