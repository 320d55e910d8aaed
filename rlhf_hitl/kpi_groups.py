"""The figures of each round, day, tag, rater or project, by one function for all of them.

What is counted in the groups of a grouping adds up to the whole, but for tags where a prompt has several, and for
raters where several judged the same. What does not belong to a group, such as an acceptance to a rater, is in none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any, Literal, get_args

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.kpi_facts import KpiFacts
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.types import Route

Grouping = Literal["round", "day", "tag", "rater", "project"]
GROUPINGS: tuple[str, ...] = get_args(Grouping)
#: Groups by time are told in their order, the others by how much was done.
BY_TIME = ("round", "day")
#: Of how many comparisons the newest agreement is.
NEWEST = 50
WITHOUT_TAG = "without a tag"


@dataclass(frozen=True)
class Spread:
    """How long something took: its mean with a 95 % interval (normal), the median, and the 95th percentile."""

    n: int
    mean: float
    low: float
    high: float
    median: float
    p95: float


@dataclass(frozen=True)
class GroupFigures:
    """The figures of one group. Shares are None where nothing supports them.

    Attributes:
        judged, accepted: comparisons of training prompts that raters judged here, and that the model accepted.
        accuracy: the model's on the control share, before review.
        intervention: share of the processed comparisons that raters judged.
        error_reduction: share of the model's errors on the control share that raters would have seen.
        judgments: on training prompts; `days` on how many days.
        review: active seconds of a judgment.
        agreement: share of pairs of votes on the same comparison that say the same; n counts comparisons.
        newest_agreement, earlier_agreement: of the NEWEST comparisons, and of those before them; None where there are
            none before them.
        latency: hours from when a comparison came until it was first judged or accepted.
        rater_cost: of all judgments, also of those that measure models and raters, in the currency of the settings.
        judge_cost: the fees of AI judges; they belong to no rater.
        machine_cost: None where machine time belongs to no group.
    """

    group: str
    judged: int
    accepted: int
    accuracy: Estimate | None
    intervention: Estimate | None
    error_reduction: Estimate | None
    judgments: int
    days: int
    review: Spread | None
    agreement: Estimate | None
    newest_agreement: Estimate | None
    earlier_agreement: Estimate | None
    latency: Spread | None
    rater_cost: float
    judge_cost: float
    machine_cost: float | None

    @property
    def processed(self) -> int:
        return self.judged + self.accepted

    @property
    def is_slipping(self) -> bool:
        """Whether the newest votes agree less with others' than earlier ones did, by more than chance explains."""
        newest, earlier = self.newest_agreement, self.earlier_agreement
        return newest is not None and earlier is not None and newest.high < earlier.low

    @property
    def throughput(self) -> float | None:
        """Judgments per day on which somebody judged."""
        return self.judgments / self.days if self.days else None

    @property
    def cost(self) -> float:
        """What raters, judges and the machine cost; without the machine where its time belongs to no group."""
        return self.rater_cost + self.judge_cost + (self.machine_cost or 0.0)

    @property
    def cost_per_comparison(self) -> float | None:
        """What a processed comparison cost; without the machine where its time belongs to no group."""
        return self.cost / self.processed if self.processed else None

    def as_dict(self) -> dict[str, Any]:
        own = {"processed": self.processed, "throughput": self.throughput, "is_slipping": self.is_slipping}
        return asdict(self) | own | {"cost_per_comparison": self.cost_per_comparison}


@dataclass
class _Tally:
    """What was counted of one group."""

    judged: int = 0
    accepted: int = 0
    right: list[bool] = field(default_factory=list)
    errors_seen: list[bool] = field(default_factory=list)
    judgments: int = 0
    days: set[Any] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    agreed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    hours: list[float] = field(default_factory=list)
    rater_cost: float = 0.0
    judge_cost: float = 0.0
    machine_cost: float = 0.0


def check_grouping(by: str) -> str:
    """Return a grouping as it was given. Raises BadInput for one that does not exist."""
    if by in GROUPINGS or (by.startswith("tag:") and len(by) > 4):
        return by
    raise BadInput(f"--by {by!r}", expected=f"one of {', '.join(GROUPINGS)}, tag:NAME", fix="write e.g. --by day")


def compute_groups(facts: KpiFacts, by: str, *, rater_names: Mapping[str, str] | None = None) -> list[GroupFigures]:
    """Return the figures of each group: in the order of time, or those in which most was done first.

    Args:
        by: round, day, tag (of any name), tag:NAME, rater or project. Days are UTC days.
        rater_names: rater id → name.

    Raises:
        BadInput: there is no such grouping.
    """
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    find = _make_group_finder(facts, check_grouping(by), rater_names or {})

    def tally(comparison: str | None, at: datetime, rater: str | None = None) -> Iterable[_Tally]:
        return [tallies[name] for name in find(comparison, at, rater)]

    seen: set[tuple[str, str]] = set()
    counted = {j.seq for j in facts.counted}
    first = {j.seq for j in facts.first_judgment.values()}
    for j in facts.judgments:
        groups = tally(j.comparison_id, j.created_at, j.rater_id)
        price = facts.price(j)
        for of in groups:
            of.rater_cost += price
        if j.seq not in counted:
            continue
        is_first = j.seq in first
        # A rater's comparisons are those that they judged, whoever was first.
        is_new = (j.comparison_id, j.rater_id) not in seen if by == "rater" else is_first
        seen.add((j.comparison_id, j.rater_id))
        for of in groups:
            of.judged += is_new
            of.judgments += 1
            of.days.add(j.created_at.date())
            if j.seconds is not None:
                of.seconds.append(j.seconds)
            if is_first:
                of.hours.append(_count_hours(facts, j.comparison_id, j.created_at))
    for r in facts.accepted:
        for of in tally(r.comparison_id, r.created_at):
            of.accepted += 1
            of.hours.append(_count_hours(facts, r.comparison_id, r.created_at))
    for c in facts.control:
        for of in tally(c.comparison_id, c.routed_at):
            of.right.append(not c.is_error)
            if c.is_error:
                of.errors_seen.append(c.proposed is not Route.AUTO)
    for comparison, first, second, share in facts.vote_pairs:
        raters = {first.rater_id, second.rater_id} if by == "rater" else {None}
        for rater in sorted(raters, key=str):
            for of in tally(comparison, max(first.created_at, second.created_at), rater):
                of.agreed[comparison].append(share)
    for fee in facts.fees:
        for of in tally(fee.comparison_id, fee.created_at):
            of.judge_cost += fee.cost
    if by in BY_TIME:
        for run in facts.runs:
            for of in tally(None, run.began_at):
                of.machine_cost += run.seconds * facts.machine_price
    figures = [_make_figures(name, of, by) for name, of in tallies.items()]
    if by in BY_TIME:
        return sorted(figures, key=lambda g: (len(g.group), g.group))
    return sorted(figures, key=lambda g: (-g.processed, -g.judgments, g.group))


def _make_group_finder(
    facts: KpiFacts, by: str, rater_names: Mapping[str, str]
) -> Callable[[str | None, datetime, str | None], Iterable[str]]:
    """Return the function that names the groups of something: of a comparison, a time and a rater, as far as it has
    them."""
    comparisons = facts.comparisons
    match by:
        case "round":
            return lambda comparison, at, rater: (str(facts.rounds.find(at)),)
        case "day":
            days: dict[date, tuple[str]] = {}

            def find_day(comparison: str | None, at: datetime, rater: str | None) -> Iterable[str]:
                day = at.date()
                return days.get(day) or days.setdefault(day, (day.isoformat(),))

            return find_day
        case "rater":
            return lambda comparison, at, rater: () if rater is None else (rater_names.get(rater, rater),)
        case "project":
            return lambda comparison, at, rater: () if comparison is None else (comparisons[comparison].project,)
        case "tag":
            found: dict[str, Sequence[str]] = {}

            def find_tags(comparison: str | None, at: datetime, rater: str | None) -> Iterable[str]:
                if comparison is None:
                    return ()
                if comparison not in found:
                    tags = sorted(f"{name}={value}" for name, value in comparisons[comparison].tags.items())
                    found[comparison] = tags or (WITHOUT_TAG,)
                return found[comparison]

            return find_tags
    tag = by.removeprefix("tag:")
    return lambda comparison, at, rater: (
        () if comparison is None else (str(comparisons[comparison].tags.get(tag, WITHOUT_TAG)),)
    )


def _count_hours(facts: KpiFacts, comparison: str, at: datetime) -> float:
    """Return the hours from when a comparison came; never below 0, whatever the clock says."""
    return max(0.0, (at - facts.comparisons[comparison].created_at).total_seconds() / 3600)


def _make_figures(name: str, of: _Tally, by: str) -> GroupFigures:
    shares = [sum(x) / len(x) for x in of.agreed.values()]  # in the order in which they got their second vote
    newest, earlier = (shares[-NEWEST:], shares[:-NEWEST]) if len(shares) > NEWEST else ([], [])
    return GroupFigures(
        group=name,
        judged=of.judged,
        accepted=of.accepted,
        accuracy=estimate_share(sum(of.right), len(of.right)),
        intervention=None if by == "rater" else estimate_share(of.judged, of.judged + of.accepted),
        error_reduction=estimate_share(sum(of.errors_seen), len(of.errors_seen)),
        judgments=of.judgments,
        days=len(of.days),
        review=measure_spread(of.seconds),
        agreement=_estimate_mean_share(shares),
        newest_agreement=_estimate_mean_share(newest),
        earlier_agreement=_estimate_mean_share(earlier),
        latency=measure_spread(of.hours),
        rater_cost=of.rater_cost,
        judge_cost=of.judge_cost,
        machine_cost=of.machine_cost if by in BY_TIME else None,
    )


def estimate_share(count: int, n: int) -> Estimate | None:
    """Return a share with its Wilson interval; None where there is nothing."""
    return Estimate(count / n, *wilson_interval(count, n), n) if n else None


def _estimate_mean_share(shares: list[float]) -> Estimate | None:
    """Return the mean of shares, one for each comparison, with an interval no narrower than that of as many yes and no
    (a share between varies less)."""
    if not shares:
        return None
    mean = float(np.mean(shares))
    low, high = wilson_interval(round(mean * len(shares)), len(shares))
    return Estimate(mean, min(low, mean), max(high, mean), len(shares))


def measure_spread(values: list[float]) -> Spread | None:
    """Return how values spread; None where there are none."""
    if not values:
        return None
    x = np.array(values, float)
    half = 1.96 * float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    mean, (median, p95) = float(x.mean()), (float(q) for q in np.quantile(x, (0.5, 0.95)))
    return Spread(len(x), mean, max(0.0, mean - half), mean + half, median, p95)
