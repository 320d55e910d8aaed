"""What automation saves against having people judge everything, and what it costs, day by day.

What people would cost for a comparison is what they did cost, as a mean over the comparisons that they judged. Every
comparison that the model would accept counts as saved at that price; what raters took to check some of those (controls
and audits), the fees of AI judges, and what the machine took are what automation costs. The difference is the money
saved: against the same comparisons, each judged by people as often as now.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from rlhf_hitl.kpi_facts import KpiFacts

#: Longer histories are told for so many of their newest days; the sums go back to the first.
MOST_DAYS = 180


@dataclass(frozen=True)
class SavingsDay:
    """What was saved and spent up to the end of a day (UTC), in the currency of the settings.

    Attributes:
        sure: comparisons so far that the model would accept, those included that raters check.
        gross: what people would have cost on them. net: what is left of it, with its 95 % interval.
        checks, judges, machine: what raters' controls and audits of them, AI judges, and the machine cost so far.
        roi: net saved for each unit spent on checks, judges and the machine; None before raters have checked anything.
    """

    day: date
    sure: int
    gross: float
    checks: float
    judges: float
    machine: float
    net: float
    low: float
    high: float
    roi: float | None


@dataclass(frozen=True)
class Savings:
    """What automation saved.

    Attributes:
        manual_cost: what raters cost for one comparison, with its 95 % interval; None while it is not known.
        judged: on how many comparisons that is measured.
        days: from the first on which something was routed or spent.
    """

    manual_cost: float | None
    manual_low: float | None
    manual_high: float | None
    judged: int
    days: tuple[SavingsDay, ...]

    @property
    def newest(self) -> SavingsDay | None:
        """The sums of all days."""
        return self.days[-1] if self.days else None


def compute_savings(facts: KpiFacts) -> Savings:
    """Return what automation saved so far."""
    costs: dict[str, float] = defaultdict(float)
    measured: set[str] = set()
    for j in facts.counted:
        costs[j.comparison_id] += facts.price(j)
        if j.seconds is not None:
            measured.add(j.comparison_id)
    priced = np.array([costs[i] for i in sorted(measured)])
    if not len(priced):
        return Savings(None, None, None, 0, ())
    mean = float(priced.mean())
    half = 1.96 * float(priced.std(ddof=1)) / math.sqrt(len(priced)) if len(priced) > 1 else mean
    low, high = max(0.0, mean - half), mean + half
    days = _add_up(facts, mean, low, high)
    return Savings(mean, low, high, len(priced), tuple(days[-MOST_DAYS:]))


def _add_up(facts: KpiFacts, mean: float, low: float, high: float) -> list[SavingsDay]:
    sure_on: dict[date, int] = defaultdict(int)
    checks_on: dict[date, float] = defaultdict(float)
    judges_on: dict[date, float] = defaultdict(float)
    machine_on: dict[date, float] = defaultdict(float)
    for r in facts.sure:
        sure_on[r.created_at.date()] += 1
    sure = {r.comparison_id for r in facts.sure}
    for j in facts.counted:
        if j.comparison_id in sure:
            checks_on[j.created_at.date()] += facts.price(j)
    for fee in facts.fees:
        judges_on[fee.created_at.date()] += fee.cost
    for run in facts.runs:
        machine_on[run.began_at.date()] += run.seconds * facts.machine_price
    known = sure_on.keys() | judges_on.keys() | machine_on.keys()
    if not known:
        return []
    first, last = min(known), max(known | checks_on.keys())
    days, count, checks, judges, machine = [], 0, 0.0, 0.0, 0.0
    for n in range((last - first).days + 1):
        day = first + timedelta(n)
        count, checks = count + sure_on[day], checks + checks_on[day]
        judges, machine = judges + judges_on[day], machine + machine_on[day]
        spent, gross = checks + judges + machine, count * mean
        # Before raters have checked any of it, hardly anything is spent, and what is returned for that says nothing.
        roi = (gross - spent) / spent if checks else None
        ends = count * low - spent, count * high - spent
        days.append(SavingsDay(day, count, gross, checks, judges, machine, gross - spent, *ends, roi))
    return days
