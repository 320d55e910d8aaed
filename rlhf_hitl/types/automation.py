"""Automation under control: whether models may accept, under what bound, and what audits of it find."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AutomationState(StrEnum):
    """Whether models may accept comparisons of a project. A lead pauses it; the audits stop it."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class AuditOutcome(StrEnum):
    """What raters say of a model's choice that was accepted. A tie does not show whether it was right."""

    RIGHT = "right"
    WRONG = "wrong"
    TIE = "tie"


@dataclass(frozen=True)
class ErrorBound:
    """The promise under which comparisons are accepted: their error is below `max_error`, but with probability
    `delta`."""

    max_error: float
    delta: float


@dataclass(frozen=True)
class AutomationChange:
    """A change of a project's automation.

    Attributes:
        by: a rater's id, "cli", or "audits".
        after_decision: number of the newest decision on any comparison when it was made.
    """

    seq: int
    project: str
    state: AutomationState
    reason: str
    by: str
    after_decision: int
    at: datetime
