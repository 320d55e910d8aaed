"""Events: what webhooks can be sent."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What happened, as other programs are told it by a webhook."""

    JUDGMENT_CREATED = "judgment.created"
    COMPARISON_RESOLVED = "comparison.resolved"
    ROUND_FINISHED = "round.finished"
    ALERT_RAISED = "alert.raised"
