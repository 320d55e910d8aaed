"""The five key figures a lead watches, with their intervals and what they are computed from.

All are over one population: the processed comparisons of training prompts, which are those that raters here have judged
and those that the model accepted. Calibration and held-out prompts are left out, because raters always judge them; so
are hidden repeats and votes that were imported. The time they took is a cost all the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rlhf_hitl.config import Settings
from rlhf_hitl.kpi_powered import compute_powered_figures
from rlhf_hitl.kpi_report import POPULATION, KpiFigure, KpiReport, RoundFigures, say_population
from rlhf_hitl.labels.kept_fits import load_kept_label_model
from rlhf_hitl.labels.votes import to_label_vote
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.routing.gain_record import load_gains
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.label_votes import read_vote_weights
from rlhf_hitl.store.loop_steps import read_round_ends
from rlhf_hitl.store.projects import list_projects
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.routings import Routing, read_routings
from rlhf_hitl.store.runs import RunOutcome, read_runs
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Judgment, Role, Route, Score, Split, Verdict
from rlhf_hitl.wording import say_count

_NOT_DECIDED = "raters have decided no comparison of the control share yet"


def compute_kpi_report(store: Store, settings: Settings) -> KpiReport:
    """Compute the report on everything that was judged and routed so far.

    The model is measured on the control share: comparisons drawn at random and judged by raters whatever the model
    said. The ones it was unsure of are the hard ones, and those it accepted have no judgment: neither represents them
    all.
    """
    rounds = _Rounds(read_round_ends(store))
    decisions = read_routings(store, split=Split.TRAIN, newest=False)
    routings = {r.comparison_id: r for r in decisions}
    drawn = _find_control_share(decisions)
    judged = _read_judged(store, drawn.keys())
    accepted = [r for i, r in routings.items() if r.route is Route.AUTO and i not in judged.first]
    control, ties = _measure_control_share(store, drawn, judged)
    costs = _read_costs(store, settings, rounds)
    processed = len(judged.first) + len(accepted)
    unrouted = sum(i not in routings for i in judged.first)
    records = list_reward_models(store)
    learnt_from_simulated = {m.id: m.simulated for m in records}
    gains = (load_gains(Path(m.path)) for m in reversed(records))
    models = {r.reward_model_id for i, r in routings.items() if r.reward_model_id} & learnt_from_simulated.keys()
    return KpiReport(
        figures=(
            _compute_accuracy(control, ties, processed),
            _compute_intervention_rate(len(judged.first), unrouted, processed),
            _compute_error_reduction(control),
            _compute_review_time(judged),
            _compute_cost(costs, judged, settings, processed),
        ),
        rounds=_compute_rounds(rounds, control, judged, accepted, costs) if processed else (),
        queue=queue.count_places(store),
        judged=len(judged.first),
        accepted=len(accepted),
        unrouted=unrouted,
        waiting=sum(r.route is not Route.AUTO and i not in judged.first for i, r in routings.items()),
        judgments=costs.judgments,
        simulated_judgments=costs.simulated_judgments,
        models=len(models),
        simulated_models=sum(learnt_from_simulated[i] for i in models),
        currency=settings.currency,
        projects=tuple(p.id for p in list_projects(store)),
        powered=compute_powered_figures(store),
        gains=next((found for found in gains if found is not None), None),
    )


def _find_control_share(decisions: Iterable[Routing]) -> dict[str, Routing]:
    """Return comparison id → the decision that drew it as a control.

    What is sent on afterwards, because raters are split or a lead wants one more vote, stays a control: these are the
    contested cases, without which the rest would represent the easy ones. Only another draw changes it.
    """
    newest = {d.comparison_id: d for d in decisions if d.route is not Route.ESCALATED}
    return {i: d for i, d in newest.items() if d.route is Route.CONTROL}


class _Rounds:
    """Which round of the loop a time belongs to. What was done between two rounds counts with the later one, and what
    came after the last with the last."""

    def __init__(self, ends: Mapping[int, datetime]):
        self.numbers = sorted(ends) or [0]
        self._ends = [ends[n] for n in self.numbers[:-1]]

    def find(self, at: datetime) -> int:
        return self.numbers[bisect_left(self._ends, at)]


@dataclass
class _Judged:
    """What raters here have judged of the training prompts, and when each comparison first was.

    `seconds` are the active times of the `judgments`, as far as they were measured.
    """

    first: dict[str, datetime] = field(default_factory=dict)
    judgments: int = 0
    seconds: list[float] = field(default_factory=list)
    control: dict[str, list[Judgment]] = field(default_factory=lambda: defaultdict(list))


def _read_judged(store: Store, control: Collection[str]) -> _Judged:
    judged = _Judged()
    for j in read_judgments(store, split=Split.TRAIN, repeats=False):  # one after another: each may hold a long text
        if j.role is Role.JUDGE:
            continue  # a model's time is not a person's, and the automation is measured by what is left to people
        if j.surplus or j.source or j.answer.verdict not in (Verdict.RANKED, Verdict.ALL_BAD):
            continue
        judged.first.setdefault(j.comparison_id, j.created_at)
        judged.judgments += 1
        if j.answer.active_seconds is not None:
            judged.seconds.append(j.answer.active_seconds)
        if j.comparison_id in control:
            judged.control[j.comparison_id].append(j)
    return judged


@dataclass
class _Costs:
    """What was spent, in the currency of the settings, by round of the loop; and on what it was spent."""

    raters: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    machine: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    judgments: int = 0
    simulated_judgments: int = 0
    runs: int = 0
    unfinished_runs: int = 0
    machine_seconds: float = 0.0


def _read_costs(store: Store, settings: Settings, rounds: _Rounds) -> _Costs:
    costs = _Costs()
    for j in read_judgments(store):
        if not j.source and j.role is not Role.JUDGE:
            costs.judgments += 1
            costs.simulated_judgments += j.simulated
            seconds = j.answer.active_seconds or 0.0
            costs.raters[rounds.find(j.created_at)] += seconds / 3600 * settings.rater_price_per_hour
    for run in read_runs(store):
        costs.runs += 1
        costs.unfinished_runs += run.outcome is not RunOutcome.FINISHED
        costs.machine_seconds += run.seconds
        costs.machine[rounds.find(run.began_at)] += run.seconds / 3600 * settings.machine_price_per_hour
    return costs


@dataclass(frozen=True)
class _ControlOutcome:
    """A control comparison that raters have decided: whether the model erred, and the route it would have had."""

    routed_at: datetime
    is_error: bool
    proposed: Route


def _measure_control_share(
    store: Store, drawn: Mapping[str, Routing], judged: _Judged
) -> tuple[list[_ControlOutcome], int]:
    """Return the outcomes of control comparisons on whose two best completions raters have a preference, and the number
    of the others: a tie does not show whether the model was right."""
    scores: dict[str, dict[str, Score]] = {}
    outcomes, ties = [], 0
    label_model, vote_weights = load_kept_label_model(store), read_vote_weights(store)
    for comparison_id, judgments in judged.control.items():
        r = drawn[comparison_id]
        if r.reward_model_id is None:
            continue
        if r.reward_model_id not in scores:
            scores[r.reward_model_id] = {s.comparison_id: s for s in read_scores(store, r.reward_model_id)}
        score = scores[r.reward_model_id][comparison_id]
        labels = label_model.make_labels(comparison_id, [to_label_vote(j, vote_weights) for j in judgments])
        label = next((x for x in labels if {x.first, x.second} == {score.chosen, score.rejected}), None)
        if label is None or label.preferred is None:
            ties += 1
        else:
            outcomes.append(_ControlOutcome(r.created_at, label.preferred != score.chosen, r.proposed))
    return outcomes, ties


def _compute_accuracy(control: list[_ControlOutcome], ties: int, processed: int) -> KpiFigure:
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


def _compute_error_reduction(control: list[_ControlOutcome]) -> KpiFigure:
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


def _compute_review_time(judged: _Judged) -> KpiFigure:
    n, unmeasured = len(judged.seconds), judged.judgments - len(judged.seconds)
    counted = say_count(n, "judgment")
    note = f"mean active time of {counted} on the {len(judged.first):,} that raters judged of the {POPULATION}"
    if unmeasured:
        note += f"; {say_count(unmeasured, 'has', 'have')} no measured time"
    if not n:
        note = "no judgment with a measured time yet"
    mean = sum(judged.seconds) / n if n else None
    return KpiFigure("review_seconds", "Average review time", "s", mean, n, note)


def _compute_cost(costs: _Costs, judged: _Judged, settings: Settings, processed: int) -> KpiFigure:
    raters, machine, currency = sum(costs.raters.values()), sum(costs.machine.values()), settings.currency
    elsewhere = max(0.0, raters - sum(judged.seconds) / 3600 * settings.rater_price_per_hour)
    unfinished = f", {costs.unfinished_runs:,} of them not finished" if costs.unfinished_runs else ""
    note = (
        f"raters {raters:,.2f} {currency} ({elsewhere:,.2f} of it on calibration and held-out prompts, repeats and "
        f"skips) + machine {machine:,.2f} {currency} ({costs.machine_seconds / 3600:,.2f} h in "
        f"{say_count(costs.runs, 'run')}{unfinished}), over the {say_population(processed)}"
    )
    return KpiFigure(
        "cost_per_comparison",
        "Cost per processed comparison",
        currency,
        (raters + machine) / processed if processed else None,
        processed,
        note if processed else "no comparison of a training prompt has been judged or accepted yet",
    )


def _compute_rounds(
    rounds: _Rounds, control: list[_ControlOutcome], judged: _Judged, accepted: Iterable[Routing], costs: _Costs
) -> tuple[RoundFigures, ...]:
    """Return the figures of each round. Their numerators and denominators add up to those of the report."""
    judged_in, accepted_in, measured = defaultdict(int), defaultdict(int), defaultdict(list)
    for at in judged.first.values():
        judged_in[rounds.find(at)] += 1
    for r in accepted:
        accepted_in[rounds.find(r.created_at)] += 1
    for c in control:
        measured[rounds.find(c.routed_at)].append(not c.is_error)
    return tuple(
        RoundFigures(
            n,
            _estimate_share(sum(measured[n]), len(measured[n])),
            _estimate_share(judged_in[n], judged_in[n] + accepted_in[n]),
            judged_in[n] + accepted_in[n],
            costs.raters[n],
            costs.machine[n],
        )
        for n in rounds.numbers
    )


def _estimate_share(count: int, n: int) -> Estimate | None:
    return Estimate(count / n, *wilson_interval(count, n), n) if n else None
