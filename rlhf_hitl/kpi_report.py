"""The report of the five key figures, as dataclasses. Their field names are the keys of the JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any

from rlhf_hitl.kpi_forecast import Forecast
from rlhf_hitl.kpi_groups import GroupFigures
from rlhf_hitl.kpi_savings import Savings
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.routing.audit import AuditWatch
from rlhf_hitl.routing.gain_record import RoutingGains
from rlhf_hitl.types import utc_now
from rlhf_hitl.wording import say_count

POPULATION = "processed comparisons of training prompts"


def say_population(n: int) -> str:
    """Return the number of the processed comparisons with what they are."""
    return say_count(n, "processed comparison of training prompts", POPULATION)


@dataclass(frozen=True)
class KpiFigure:
    """One key figure.

    Attributes:
        value: None where no data supports it yet.
        n: how many observations it is computed from.
        note: over what it is, or what is missing.
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

    @property
    def text(self) -> str:
        if self.value is None:
            return "not known yet"
        return self._write(self.value)

    def _write(self, value: float) -> str:
        if self.unit == "share":
            return f"{value:.1%}"
        digits = ",.0f" if abs(value) >= 100 else ".3g"
        return f"{value:{digits}} {self.unit}".rstrip()

    @property
    def bounds(self) -> str:
        """The interval as text; empty where there is none."""
        return "" if self.low is None or self.high is None else f"{self._write(self.low)} to {self._write(self.high)}"

    def __str__(self) -> str:
        return f"{self.text}  (95 %: {self.bounds})" if self.bounds else self.text


@dataclass(frozen=True)
class PoweredFigure:
    """A share estimated with the model's word on all examples and people's on a random few, beside the plain one.

    Attributes:
        value, low, high: the estimate and its 95 % interval.
        plain, plain_low, plain_high: of the same labels alone.
        labels: how many labels both spent.
        examples: how many comparisons the model has judged.
        labels_worth: how many labels the plain one would take for an interval as narrow.
        note: over what it is.
    """

    key: str
    title: str
    value: float
    low: float
    high: float
    plain: float
    plain_low: float
    plain_high: float
    labels: int
    examples: int
    labels_worth: int
    note: str

    @property
    def share(self) -> str:
        return f"{self.value:.1%}"

    @property
    def bounds(self) -> str:
        return f"{self.low:.1%} to {self.high:.1%}"

    @property
    def text(self) -> str:
        return f"{self.share}, {self.bounds}"

    @property
    def plain_text(self) -> str:
        return f"{self.plain:.1%}, {self.plain_low:.1%} to {self.plain_high:.1%}"


@dataclass(frozen=True)
class RoundFigures:
    """What was done in one round of the loop and since the one before it, for the plots.

    Attributes:
        round: 0 where no round of the loop was ever run.
        accuracy: the model's, on the control share that was routed; None before that is judged.
        intervention: share of the processed comparisons that raters judged; None where none was processed.
        processed: how many comparisons were judged or accepted.
        rater_cost, machine_cost, judge_cost: in the currency of the settings.
    """

    round: int
    accuracy: Estimate | None
    intervention: Estimate | None
    processed: int
    rater_cost: float
    machine_cost: float
    judge_cost: float = 0.0

    @property
    def cost(self) -> float:
        """What raters, AI judges and the machine cost."""
        return self.rater_cost + self.judge_cost + self.machine_cost


@dataclass(frozen=True)
class KpiReport:
    """The five figures and their background.

    Attributes:
        judged, accepted: the two parts of the population.
        unrouted: those of `judged` that no model had routed.
        waiting: comparisons of training prompts that are routed to raters and not judged yet.
        judgments, simulated_judgments: how many were made here, and how many of these by simulated raters.
        models, simulated_models: how many reward models routed the population, and how many of these learnt from labels
            of simulated raters.
        projects: the projects of the store, which the figures take together.
        powered: figures that take the model's word on all and people's on a random few.
        gains: what routed and random labels gained, as the newest routing measured it; None before there was one.
        others: further figures: agreement, throughput, latency, queue age, backlog, money saved, return.
        groups: round, day, tag, rater and project → the figures of each group.
        savings, forecast: what automation saved so far, and what more labels would buy.
        audits: what they say of each project.
    """

    figures: tuple[KpiFigure, ...]
    rounds: tuple[RoundFigures, ...]
    queue: dict[str, int]
    judged: int
    accepted: int
    unrouted: int
    waiting: int
    judgments: int
    simulated_judgments: int
    models: int
    simulated_models: int
    currency: str
    projects: tuple[str, ...] = ()
    powered: tuple[PoweredFigure, ...] = ()
    gains: RoutingGains | None = None
    others: tuple[KpiFigure, ...] = ()
    groups: Mapping[str, Sequence[GroupFigures]] = field(default_factory=dict)
    savings: Savings | None = None
    forecast: Forecast = field(default_factory=Forecast)
    audits: tuple[AuditWatch, ...] = ()
    created_at: datetime = field(default_factory=utc_now)

    def __getitem__(self, key: str) -> KpiFigure:
        return next(f for f in self.figures if f.key == key)

    @property
    def simulated(self) -> bool:
        """Whether some judgments were made by simulated raters."""
        return self.simulated_judgments > 0

    @property
    def simulation_notes(self) -> list[str]:
        """A sentence on the judgments and one on the models, as far as simulated raters had a part in them."""
        notes = []
        if self.simulated_judgments:
            judgments = say_count(self.judgments, "judgment")
            notes.append(f"Simulated raters made {self.simulated_judgments:,} of the {judgments}.")
        if self.simulated_models:
            which = f"Of the {self.models:,} reward models that routed, {self.simulated_models:,}"
            if self.models == 1:
                which = "The reward model that routed"
            notes.append(f"{which} learnt, at least in part, from labels of simulated raters.")
        return notes

    @property
    def population(self) -> str:
        """A sentence on what the figures are over."""
        waiting = say_count(self.waiting, "that is routed and waits", "that are routed and wait")
        return (
            f"All figures are over {say_population(self.judged + self.accepted)}: {self.judged:,} judged by raters, "
            f"{self.accepted:,} accepted by the model. Not among them: {waiting} for raters, calibration and held-out "
            "prompts, hidden repeats, and imported votes."
        )

    def as_dict(self) -> dict:
        return asdict(self) | {
            "figures": {f.key: asdict(f) for f in self.figures},
            "powered": {f.key: asdict(f) for f in self.powered},
            "rounds": [asdict(r) for r in self.rounds],
            "gains": None if self.gains is None else self.gains.as_dict(),
            "others": {f.key: asdict(f) for f in self.others},
            "groups": {by: [g.as_dict() for g in groups] for by, groups in self.groups.items()},
            "savings": _to_plain(self.savings),
            "forecast": asdict(self.forecast),
            "audits": [_to_plain(a) | {"alarm": _plain(a.alarm), "reason": a.reason} for a in self.audits],
            "simulated": self.simulated,
            "created_at": self.created_at.isoformat(timespec="seconds"),
        }


def _to_plain(found: Any) -> Any:
    """Return a dataclass as JSON has it: days as text, and null for what is not known."""
    if found is None:
        return None
    return {name: _plain(value) for name, value in asdict(found).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value
