"""Events: what webhooks can be sent."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """Something that happened and that a webhook can report to other programs."""

    JUDGMENT_CREATED = "judgment.created"
    COMPARISON_RESOLVED = "comparison.resolved"
    ROUND_FINISHED = "round.finished"
    ALERT_RAISED = "alert.raised"
