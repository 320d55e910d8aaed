"""Further figures of the report: how far raters agree, how fast work goes, what waits, and what automation saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from rlhf_hitl.kpi_facts import KpiFacts
from rlhf_hitl.kpi_groups import GroupFigures, measure_spread
from rlhf_hitl.kpi_report import KpiFigure
from rlhf_hitl.kpi_savings import Savings
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.store import Store
from rlhf_hitl.store.alert_facts import Waiting, find_oldest_waiting
from rlhf_hitl.types import utc_now
from rlhf_hitl.wording import say_count

#: Throughput is told over so many of the newest days on which somebody judged.
THROUGHPUT_DAYS = 7
COST_DAYS = 7


def compute_other_figures(
    store: Store,
    facts: KpiFacts,
    groups: Mapping[str, Sequence[GroupFigures]],
    savings: Savings,
    currency: str,
) -> tuple[KpiFigure, ...]:
    """Return the figures beside the five: each with what it is over, or what is missing."""
    waiting = find_oldest_waiting(store)
    return (
        _compute_newest_cost(groups["day"], currency),
        _compute_agreement(facts),
        _compute_throughput(groups["day"]),
        _compute_latency(facts),
        _compute_queue_age(waiting),
        _compute_backlog(waiting),
        _compute_saved(savings, currency),
        _compute_return(savings),
    )


def _compute_newest_cost(days: Sequence[GroupFigures], currency: str) -> KpiFigure:
    """Return what the last COST_DAYS days cost altogether, today included."""
    title = f"Cost of the last {COST_DAYS} days"
    since = (utc_now() - timedelta(COST_DAYS - 1)).date().isoformat()
    newest = [day for day in days if day.group >= since]
    raters, machine = sum(day.rater_cost for day in newest), sum(day.machine_cost or 0.0 for day in newest)
    processed = sum(day.processed for day in newest)
    before = [day for day in days if _shift(since, -COST_DAYS) <= day.group < since]
    judges, spent = sum(day.judge_cost for day in newest), sum(day.cost for day in before)
    note = (
        f"raters {raters:,.2f}{f' + judges {judges:,.2f}' if judges else ''} + machine {machine:,.2f} {currency} since "
        f"{since}, for {processed:,} processed; the {COST_DAYS} days before cost {spent:,.2f} {currency}"
    )
    return KpiFigure("cost_last_days", title, currency, raters + judges + machine, processed, note)


def _shift(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days)).isoformat()


def _compute_agreement(facts: KpiFacts) -> KpiFigure:
    pairs = facts.vote_pairs
    title = "Raters say the same"
    if not pairs:
        return KpiFigure("agreement", title, "share", None, 0, "no two raters have judged the same comparison yet")
    of_comparison: dict[str, list[float]] = {}
    for comparison, _, _, share in pairs:
        of_comparison.setdefault(comparison, []).append(share)
    n = len(of_comparison)
    mean = sum(sum(shares) / len(shares) for shares in of_comparison.values()) / n
    low, high = wilson_interval(round(mean * n), n)
    note = f"over {say_count(len(pairs), 'pair')} of votes on {say_count(n, 'comparison')}; chance is not taken out"
    return KpiFigure("agreement", title, "share", mean, n, note, min(low, mean), max(high, mean))


def _compute_throughput(days: Sequence[GroupFigures]) -> KpiFigure:
    worked = [day for day in days if day.judgments][-THROUGHPUT_DAYS:]
    title, unit = "Judgments a day", "a day"
    if not worked:
        return KpiFigure("throughput", title, unit, None, 0, "nothing is judged yet")
    judgments = sum(day.judgments for day in worked)
    note = f"{say_count(judgments, 'judgment')} on the newest {say_count(len(worked), 'day')} with any (UTC)"
    return KpiFigure("throughput", title, unit, judgments / len(worked), judgments, note)


def _compute_latency(facts: KpiFacts) -> KpiFigure:
    came = {i: c.created_at for i, c in facts.comparisons.items()}
    decided = [(i, j.created_at) for i, j in facts.first_judgment.items()]
    decided += [(r.comparison_id, r.created_at) for r in facts.accepted]
    spread = measure_spread([max(timedelta(0), at - came[i]).total_seconds() / 3600 for i, at in decided])
    title = "Hours until decided"
    if spread is None:
        return KpiFigure("latency", title, "h", None, 0, "nothing is judged or accepted yet")
    note = (
        f"median from when a comparison came until it was first judged or accepted, of {spread.n:,}; 95 in a hundred "
        f"took less than {spread.p95:,.3g} h"
    )
    return KpiFigure("latency", title, "h", spread.median, spread.n, note)


def _compute_queue_age(waiting: Sequence[Waiting]) -> KpiFigure:
    title = "Oldest in the queue"
    if not waiting:
        return KpiFigure("queue_age", title, "h", None, 0, "nothing waits for raters")
    oldest = max(waiting, key=lambda w: w.age)
    by_project = ", ".join(f"{w.project} {_say_age(w.age)}" for w in sorted(waiting, key=lambda w: -w.age)[:3])
    note = f"how long the comparison that came first has waited for a rater: {by_project}"
    return KpiFigure("queue_age", title, "h", oldest.age.total_seconds() / 3600, len(waiting), note)


def _compute_backlog(waiting: Sequence[Waiting]) -> KpiFigure:
    places = sum(w.places for w in waiting)
    of = ", ".join(f"{w.places:,} in {w.project}" for w in sorted(waiting, key=lambda w: -w.places)[:3])
    return KpiFigure("backlog", "Judgments that wait", "", places, places, of or "nothing waits for raters")


def _compute_saved(savings: Savings, currency: str) -> KpiFigure:
    title, newest = "Saved against all-manual", savings.newest
    if newest is None or savings.manual_cost is None:
        missing = "nothing is routed yet" if savings.manual_cost is not None else "what a judgment costs is not known"
        return KpiFigure("saved", title, currency, None, 0, missing)
    note = (
        f"{say_count(newest.sure, 'comparison')} that the model is sure of, at {savings.manual_cost:,.3g} {currency} "
        f"each by people ({savings.judged:,} measured), less checks {newest.checks:,.2f}"
        f"{f', judges {newest.judges:,.2f}' if newest.judges else ''} and machine {newest.machine:,.2f} {currency}"
    )
    return KpiFigure("saved", title, currency, newest.net, newest.sure, note, newest.low, newest.high)


def _compute_return(savings: Savings) -> KpiFigure:
    title, newest = "Return on automation", savings.newest
    if newest is None or newest.roi is None:
        return KpiFigure("roi", title, "times", None, 0, "automation has cost nothing yet")
    note = "what is saved, net, for each unit of money spent on checks, judges and the machine"
    return KpiFigure("roi", title, "times", newest.roi, newest.sure, note)


def _say_age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:,.1f} h"
