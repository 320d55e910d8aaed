"""The five key figures a lead watches, with their intervals and what they are computed from.

All are over one population: the processed comparisons of training prompts, which are those that raters here have judged
and those that the model accepted. Calibration and held-out prompts are left out, because raters always judge them; so
are hidden repeats and votes that were imported. The time they took is a cost all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from rlhf_hitl.config import Settings
from rlhf_hitl.kpi_facts import ControlOutcome, KpiFacts, read_kpi_facts
from rlhf_hitl.kpi_forecast import compute_forecast
from rlhf_hitl.kpi_groups import GROUPINGS, compute_groups, measure_spread
from rlhf_hitl.kpi_others import compute_other_figures
from rlhf_hitl.kpi_powered import compute_powered_figures
from rlhf_hitl.kpi_report import POPULATION, KpiFigure, KpiReport, RoundFigures, say_population
from rlhf_hitl.kpi_savings import compute_savings
from rlhf_hitl.routing.audit import measure_audits
from rlhf_hitl.routing.gain_record import load_gains
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.people import list_raters
from rlhf_hitl.store.projects import list_projects
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.runs import RunOutcome
from rlhf_hitl.types import Route
from rlhf_hitl.wording import say_count

_NOT_DECIDED = "raters have decided no comparison of the control share yet"


def compute_kpi_report(store: Store, settings: Settings, *, by: Sequence[str] = ()) -> KpiReport:
    """Compute the report on everything that was judged and routed so far.

    The model is measured on the control share: comparisons drawn at random and judged by raters whatever the model
    said. The ones it was unsure of are the hard ones, and those it accepted have no judgment: neither represents them
    all.

    Args:
        by: groupings such as `tag:category`, beside those of GROUPINGS, which are always in it.
    """
    facts = read_kpi_facts(store, settings)
    judged, accepted, routings = facts.first_judgment, facts.accepted, facts.routings
    processed = len(judged) + len(accepted)
    unrouted = sum(i not in routings for i in judged)
    records = list_reward_models(store)
    learnt_from_simulated = {m.id: m.simulated for m in records}
    gains = (load_gains(Path(m.path)) for m in reversed(records))
    models = {r.reward_model_id for i, r in routings.items() if r.reward_model_id} & learnt_from_simulated.keys()
    names = {rater.id: rater.name for rater in list_raters(store)}
    groups = {by: tuple(compute_groups(facts, by, rater_names=names)) for by in dict.fromkeys((*GROUPINGS, *by))}
    savings = compute_savings(facts)
    projects = tuple(p.id for p in list_projects(store))
    return KpiReport(
        figures=(
            _compute_accuracy(facts, processed),
            _compute_intervention_rate(len(judged), unrouted, processed),
            _compute_error_reduction(facts.control),
            _compute_review_time(facts),
            _compute_cost(facts, settings, processed),
        ),
        rounds=compute_rounds(facts) if processed else (),
        queue=queue.count_places(store),
        judged=len(judged),
        accepted=len(accepted),
        unrouted=unrouted,
        waiting=sum(r.route is not Route.AUTO and i not in judged for i, r in routings.items()),
        judgments=len(facts.judgments),
        simulated_judgments=sum(j.simulated for j in facts.judgments),
        models=len(models),
        simulated_models=sum(learnt_from_simulated[i] for i in models),
        currency=settings.currency,
        projects=projects,
        powered=compute_powered_figures(store, chain(facts.decisions, facts.other_decisions), facts.routings.keys()),
        gains=next((found for found in gains if found is not None), None),
        others=compute_other_figures(store, facts, groups, savings, settings.currency),
        groups=groups,
        savings=savings,
        forecast=compute_forecast(records, savings.manual_cost),
        audits=tuple(measure_audits(store, project) for project in projects),
    )


def _compute_accuracy(facts: KpiFacts, processed: int) -> KpiFigure:
    control, ties = facts.control, facts.ties
    return _make_share(
        "accuracy_before_review",
        "Model accuracy before human review",
        sum(not c.is_error for c in control),
        len(control),
        note=f"over {len(control):,} of the {say_population(processed)}: the control share, drawn at random and judged "
        f"whatever the model said; {say_count(ties, 'tie')} left out",
        missing=_NOT_DECIDED,
    )


def _compute_intervention_rate(judged: int, unrouted: int, processed: int) -> KpiFigure:
    return _make_share(
        "intervention_rate",
        "Human intervention rate",
        judged,
        processed,
        note=f"raters judged {judged:,} of the {say_population(processed)}"
        + (f", {unrouted:,} of them before a model had routed them" if unrouted else ""),
        missing="no comparison of a training prompt has been judged or accepted yet",
    )


def _make_share(key: str, title: str, count: int, n: int, *, note: str, missing: str) -> KpiFigure:
    """Return the share `count` / `n` with its Wilson interval; where `n` is 0, a figure that says what is missing."""
    if not n:
        return KpiFigure(key, title, "share", None, 0, missing)
    return KpiFigure(key, title, "share", count / n, n, note, *wilson_interval(count, n))


def _compute_error_reduction(control: list[ControlOutcome]) -> KpiFigure:
    """Return 1 - (errors left with review) / (errors of the model alone), both estimated on the control share.

    With review, only what would have been accepted can be wrong: the raters' judgments count as right. So it is the
    share of the model's errors that would have gone to raters.
    """
    errors = [c for c in control if c.is_error]
    found = sum(c.proposed is not Route.AUTO for c in errors)
    counted = say_count(len(errors), "error")
    note = f"over the {counted} of the model on the control share: raters would have seen {found:,}"
    if not any(c.proposed is Route.AUTO for c in control):
        note += "; nothing would have been accepted, so raters judge everything"
    missing = "the model made no error on the control share" if control else _NOT_DECIDED
    return _make_share("error_reduction", "Error reduction by review", found, len(errors), note=note, missing=missing)


def _compute_review_time(facts: KpiFacts) -> KpiFigure:
    spread = measure_spread([j.seconds for j in facts.counted if j.seconds is not None])
    if spread is None:
        return KpiFigure("review_seconds", "Average review time", "s", None, 0, "no judgment with a measured time yet")
    unmeasured = len(facts.counted) - spread.n
    note = (
        f"mean active time of {say_count(spread.n, 'judgment')} on the {len(facts.first_judgment):,} that raters "
        f"judged of the {POPULATION}; median {spread.median:,.3g} s, 95 in a hundred below {spread.p95:,.3g} s"
    )
    if unmeasured:
        note += f"; {say_count(unmeasured, 'has', 'have')} no measured time"
    return KpiFigure("review_seconds", "Average review time", "s", spread.mean, spread.n, note, spread.low, spread.high)


def _compute_cost(facts: KpiFacts, settings: Settings, processed: int) -> KpiFigure:
    currency, seconds = settings.currency, sum(run.seconds for run in facts.runs)
    raters, machine = sum(map(facts.price, facts.judgments)), seconds * facts.machine_price
    judges = sum(fee.cost for fee in facts.fees)
    asked = f" + judges {judges:,.2f} {currency} ({say_count(len(facts.fees), 'paid call')})" if facts.fees else ""
    elsewhere = max(0.0, raters - sum(map(facts.price, facts.counted)))
    unfinished = sum(run.outcome is not RunOutcome.FINISHED for run in facts.runs)
    note = (
        f"raters {raters:,.2f} {currency} ({elsewhere:,.2f} of it on calibration and held-out prompts, repeats and "
        f"skips){asked} + machine {machine:,.2f} {currency} ({seconds / 3600:,.2f} h in "
        f"{say_count(len(facts.runs), 'run')}{f', {unfinished:,} of them not finished' if unfinished else ''}), over "
        f"the {say_population(processed)}"
    )
    return KpiFigure(
        "cost_per_comparison",
        "Cost per processed comparison",
        currency,
        (raters + judges + machine) / processed if processed else None,
        processed,
        note if processed else "no comparison of a training prompt has been judged or accepted yet",
    )


def compute_rounds(facts: KpiFacts) -> tuple[RoundFigures, ...]:
    """Return the figures of each round. Their numerators and denominators add up to those of the report."""
    groups = {int(g.group): g for g in compute_groups(facts, "round")}
    figures = []
    for n in facts.rounds.numbers:
        g = groups.get(n)
        if g is None:
            figures.append(RoundFigures(n, None, None, 0, 0.0, 0.0))
        else:
            machine = g.machine_cost or 0.0
            figures.append(
                RoundFigures(n, g.accuracy, g.intervention, g.processed, g.rater_cost, machine, g.judge_cost)
            )
    return tuple(figures)
