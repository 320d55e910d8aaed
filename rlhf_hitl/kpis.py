"""The five key figures a lead watches, with their intervals and what they are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rlhf_hitl.config import Settings
from rlhf_hitl.labels.aggregate import read_labels
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.loop_steps import read_finished_steps
from rlhf_hitl.store.routings import Routing, read_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Label, Route, Score


@dataclass(frozen=True)
class KpiFigure:
    """One key figure.

    Attributes:
        value: None where no data supports it yet.
        n: how many observations it is computed from.
        note: what it is computed from, or what is missing.
        low, high: its 95 % interval, where there is one.
    """

    key: str
    title: str
    unit: str
    value: float | None
    n: int
    note: str
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "not known yet"
        text = f"{self.value:.1%}" if self.unit == "share" else f"{self.value:.3g} {self.unit}"
        if self.low is not None and self.high is not None:
            text += f"  (95 %: {self.low:.1%} to {self.high:.1%})"
        return text


@dataclass(frozen=True)
class RoundFigures:
    """The figures of one round, for the plots.

    Attributes:
        accuracy: the model's, on the control arm of the round; None before that is judged.
        sent_to_raters: share of the routed comparisons that went to raters.
    """

    round: int
    accuracy: float | None
    sent_to_raters: float


@dataclass(frozen=True)
class KpiReport:
    """The five figures and their background. `simulated`: some judgments were made by simulated raters."""

    figures: tuple[KpiFigure, ...]
    rounds: tuple[RoundFigures, ...]
    queue: dict[str, int]
    simulated: bool

    def __getitem__(self, key: str) -> KpiFigure:
        return next(f for f in self.figures if f.key == key)

    def as_dict(self) -> dict:
        return {
            "figures": {f.key: asdict(f) for f in self.figures},
            "rounds": [asdict(r) for r in self.rounds],
            "queue": self.queue,
            "simulated": self.simulated,
        }


def compute_kpi_report(store: Store, settings: Settings) -> KpiReport:
    """Compute the report on everything that was routed so far.

    The model is measured on the control arm: comparisons drawn at random and judged by raters whatever the model said.
    The ones it was unsure of are the hard ones, and those it accepted have no judgment: neither represents them all.
    """
    routings = read_routings(store)
    labels = read_labels(store)
    judged = {label.comparison_id for label in labels}
    by_pair = {(label.comparison_id, frozenset((label.first, label.second))): label for label in labels}
    control = _measure_control_arm(store, routings, by_pair)
    accepted = [r for r in routings if r.route is Route.AUTO and r.comparison_id not in judged]
    reviewed = [r for r in routings if r.comparison_id in judged]
    processed = len(accepted) + len(reviewed)
    times, simulated = [], False
    for judgment in read_judgments(store):  # one after another: each may hold a long text
        if not judgment.source:
            simulated = simulated or judgment.simulated
            times += [] if judgment.answer.active_seconds is None else [judgment.answer.active_seconds]
    # Before there is a model, nothing is routed and everything is judged. That is a cost, but no intervention.
    judged_own = {j.comparison_id for j in read_judgments(store, repeats=False) if not j.source}
    paid_for = judged_own | {r.comparison_id for r in accepted}
    return KpiReport(
        figures=(
            _compute_accuracy(control),
            _compute_intervention_rate(len(reviewed), processed),
            _compute_error_reduction(control),
            _compute_review_time(times),
            _compute_cost(store, settings, times, len(paid_for)),
        ),
        rounds=_compute_rounds(store, control),
        queue=queue.count_places(store),
        simulated=simulated,
    )


@dataclass(frozen=True)
class _ControlOutcome:
    """A control comparison that raters have decided: the model's error (0 or 1), and the route it would have had."""

    round: int
    error: float
    proposed: Route


def _measure_control_arm(
    store: Store, routings: Sequence[Routing], by_pair: dict[tuple[str, frozenset[str]], Label]
) -> list[_ControlOutcome]:
    """Return the outcomes of control comparisons on whose two best completions raters have a preference.

    Ties are left out: they do not show whether the model was right.
    """
    scores: dict[str, dict[str, Score]] = {}
    outcomes = []
    for r in routings:
        if r.route is not Route.CONTROL or r.reward_model_id is None:
            continue
        if r.reward_model_id not in scores:
            scores[r.reward_model_id] = {s.comparison_id: s for s in read_scores(store, r.reward_model_id)}
        score = scores[r.reward_model_id][r.comparison_id]
        label = by_pair.get((r.comparison_id, frozenset((score.chosen, score.rejected))))
        if label is not None and label.preferred is not None:
            outcomes.append(_ControlOutcome(r.round, float(label.preferred != score.chosen), r.proposed))
    return outcomes


def _compute_accuracy(control: list[_ControlOutcome]) -> KpiFigure:
    return _make_share(
        "accuracy_before_review",
        "Model accuracy before human review",
        sum(1 for c in control if c.error == 0),
        len(control),
        note="agreement with raters on the random control arm, ties left out",
        missing="no control comparison has been judged yet",
    )


def _compute_intervention_rate(reviewed: int, processed: int) -> KpiFigure:
    return _make_share(
        "intervention_rate",
        "Human intervention rate",
        reviewed,
        processed,
        note=f"{reviewed} of {processed} processed comparisons were judged by raters",
        missing="nothing has been routed and processed yet",
    )


def _make_share(key: str, title: str, count: int, n: int, *, note: str, missing: str) -> KpiFigure:
    """Return the share `count` / `n` with its Wilson interval; where `n` is 0, a figure that says what is missing."""
    if not n:
        return KpiFigure(key, title, "share", None, 0, missing)
    low, high = wilson_interval(count, n)
    return KpiFigure(key, title, "share", count / n, n, note, low, high)


def _compute_error_reduction(control: list[_ControlOutcome]) -> KpiFigure:
    """Return 1 - (errors left with review) / (errors of the model alone), both estimated on the control arm.

    With review, only what would have been accepted can be wrong: the raters' judgments count as right.
    """
    before = sum(c.error for c in control)
    after = sum(c.error for c in control if c.proposed is Route.AUTO)
    note = f"the model alone errs on {before:g} of {len(control)} control comparisons, with review on {after:g}"
    if before and not any(c.proposed is Route.AUTO for c in control):
        note += "; nothing would have been accepted, so raters judge everything"
    if before == 0:
        note = "no control comparison has been judged yet" if not control else "the model made no error to reduce"
    return KpiFigure(
        "error_reduction",
        "Error reduction by review",
        "share",
        1 - after / before if before else None,
        len(control),
        note,
    )


def _compute_review_time(times: list[float]) -> KpiFigure:
    mean = sum(times) / len(times) if times else None
    note = f"mean active time of {len(times)} judgments" if times else "no judgment with a measured time yet"
    return KpiFigure("review_seconds", "Average review time", "s", mean, len(times), note)


def _compute_cost(store: Store, settings: Settings, times: list[float], processed: int) -> KpiFigure:
    rater_cost = sum(times) / 3600 * settings.rater_price_per_hour
    machine_cost = (
        sum(s["seconds"] for s in read_finished_steps(store).values()) / 3600 * settings.machine_price_per_hour
    )
    return KpiFigure(
        "cost_per_comparison",
        "Cost per processed comparison",
        settings.currency,
        (rater_cost + machine_cost) / processed if processed else None,
        processed,
        f"raters {rater_cost:.2f} + machine {machine_cost:.2f} {settings.currency} over {processed} comparisons"
        if processed
        else "nothing has been judged or accepted yet",
    )


def _compute_rounds(store: Store, control: list[_ControlOutcome]) -> tuple[RoundFigures, ...]:
    """Return the figures of each round as it was decided then, whatever later rounds or a lead changed."""
    decisions = [r for r in read_routings(store, newest=False) if r.decided_by is None]
    rounds = []
    for n in sorted({r.round for r in decisions}):
        routes = {r.comparison_id: r.route for r in decisions if r.round == n}
        measured = [c for c in control if c.round == n]
        rounds.append(
            RoundFigures(
                n,
                1 - sum(c.error for c in measured) / len(measured) if measured else None,
                sum(route is not Route.AUTO for route in routes.values()) / len(routes),
            )
        )
    return tuple(rounds)
