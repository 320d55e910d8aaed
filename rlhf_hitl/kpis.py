"""What a lead watches: five figures, how sure they are, and what they are made of."""

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
class Figure:
    """One figure. `value` is None where nothing supports it yet; `note` says what it is made of or what is missing."""

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
    """One round, for the plots: model accuracy on its control arm (None before it is judged), and the share of what
    it routed that went to raters."""

    round: int
    accuracy: float | None
    sent_to_raters: float


@dataclass(frozen=True)
class Report:
    """The five figures and what they stand on. `simulated`: some judgments were made by simulated raters."""

    figures: tuple[Figure, ...]
    rounds: tuple[RoundFigures, ...]
    queue: dict[str, int]
    simulated: bool

    def __getitem__(self, key: str) -> Figure:
        return next(f for f in self.figures if f.key == key)

    def as_dict(self) -> dict:
        return {
            "figures": {f.key: asdict(f) for f in self.figures},
            "rounds": [asdict(r) for r in self.rounds],
            "queue": self.queue,
            "simulated": self.simulated,
        }


def report(store: Store, settings: Settings) -> Report:
    """The report on everything routed so far.

    The model is measured on the control arm: comparisons drawn at random and judged by raters whatever the model said.
    Those it was unsure of are the hard ones, and those it accepted have no judgment, so neither can stand for all.
    """
    routings = read_routings(store)
    every = read_labels(store)
    judged = {label.comparison_id for label in every}
    said = {(label.comparison_id, frozenset((label.first, label.second))): label for label in every}
    control = _control(store, routings, said)
    accepted = [r for r in routings if r.route is Route.AUTO and r.comparison_id not in judged]
    reviewed = [r for r in routings if r.comparison_id in judged]
    processed = len(accepted) + len(reviewed)
    made_here = [j for j in read_judgments(store) if not j.source]
    times = [j.answer.active_seconds for j in made_here if j.answer.active_seconds is not None]
    # Before there is a model nothing is routed and everything is judged: that costs, though it is no intervention.
    judged_here = {j.comparison_id for j in read_judgments(store, repeats=False) if not j.source}
    paid_for = judged_here | {r.comparison_id for r in accepted}
    return Report(
        figures=(
            _accuracy(control),
            _intervention(len(reviewed), processed),
            _error_reduction(control),
            _review_time(times),
            _cost(store, settings, times, len(paid_for)),
        ),
        rounds=_rounds(store, control),
        queue=queue.state(store),
        simulated=any(j.simulated for j in made_here),
    )


@dataclass(frozen=True)
class _Measured:
    """A control comparison that raters have decided: was the model right, and would it have been accepted?"""

    round: int
    error: float
    proposed: Route


def _control(
    store: Store, routings: Sequence[Routing], said: dict[tuple[str, frozenset[str]], Label]
) -> list[_Measured]:
    """Control comparisons on whose two best completions raters have a preference; ties cannot tell right from wrong."""
    scores: dict[str, dict[str, Score]] = {}
    out = []
    for r in routings:
        if r.route is not Route.CONTROL or r.reward_model_id is None:
            continue
        if r.reward_model_id not in scores:
            scores[r.reward_model_id] = {s.comparison_id: s for s in read_scores(store, r.reward_model_id)}
        score = scores[r.reward_model_id][r.comparison_id]
        label = said.get((r.comparison_id, frozenset((score.chosen, score.rejected))))
        if label is not None and label.preferred is not None:
            out.append(_Measured(r.round, float(label.preferred != score.chosen), r.proposed))
    return out


def _accuracy(control: list[_Measured]) -> Figure:
    n, right = len(control), sum(1 for c in control if c.error == 0)
    low, high = wilson_interval(right, n)
    return Figure(
        "accuracy_before_review",
        "Model accuracy before human review",
        "share",
        right / n if n else None,
        n,
        "agreement with raters on the random control arm, ties left out"
        if n
        else "no control comparison has been judged yet",
        low if n else None,
        high if n else None,
    )


def _intervention(reviewed: int, processed: int) -> Figure:
    low, high = wilson_interval(reviewed, processed)
    return Figure(
        "intervention_rate",
        "Human intervention rate",
        "share",
        reviewed / processed if processed else None,
        processed,
        f"{reviewed} of {processed} processed comparisons were judged by raters"
        if processed
        else "nothing has been routed and processed yet",
        low if processed else None,
        high if processed else None,
    )


def _error_reduction(control: list[_Measured]) -> Figure:
    """1 - (errors left with review) / (errors of the model alone), both estimated on the control arm.

    With review only what would have been accepted can be wrong; the raters' own word is taken as right.
    """
    before = sum(c.error for c in control)
    after = sum(c.error for c in control if c.proposed is Route.AUTO)
    note = f"the model alone errs on {before:g} of {len(control)} control comparisons, with review on {after:g}"
    if before and not any(c.proposed is Route.AUTO for c in control):
        note += "; nothing would have been accepted, so raters judge everything"
    if before == 0:
        note = "no control comparison has been judged yet" if not control else "the model made no error to reduce"
    return Figure(
        "error_reduction",
        "Error reduction by review",
        "share",
        1 - after / before if before else None,
        len(control),
        note,
    )


def _review_time(times: list[float]) -> Figure:
    mean = sum(times) / len(times) if times else None
    note = f"mean active time of {len(times)} judgments" if times else "no judgment with a measured time yet"
    return Figure("review_seconds", "Average review time", "s", mean, len(times), note)


def _cost(store: Store, settings: Settings, times: list[float], processed: int) -> Figure:
    people = sum(times) / 3600 * settings.rater_price_per_hour
    machine = sum(s["seconds"] for s in read_finished_steps(store).values()) / 3600 * settings.machine_price_per_hour
    return Figure(
        "cost_per_comparison",
        "Cost per processed comparison",
        settings.currency,
        (people + machine) / processed if processed else None,
        processed,
        f"raters {people:.2f} + machine {machine:.2f} {settings.currency} over {processed} comparisons"
        if processed
        else "nothing has been judged or accepted yet",
    )


def _rounds(store: Store, control: list[_Measured]) -> tuple[RoundFigures, ...]:
    """Each round as it was decided then, whatever later rounds or a lead made of it."""
    decisions = [r for r in read_routings(store, newest=False) if r.decided_by is None]
    out = []
    for n in sorted({r.round for r in decisions}):
        routes = {r.comparison_id: r.route for r in decisions if r.round == n}
        measured = [c for c in control if c.round == n]
        out.append(
            RoundFigures(
                n,
                1 - sum(c.error for c in measured) / len(measured) if measured else None,
                sum(route is not Route.AUTO for route in routes.values()) / len(routes),
            )
        )
    return tuple(out)
