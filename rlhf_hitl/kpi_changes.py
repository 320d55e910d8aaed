"""What changed: the newest day (UTC) on which something was done against the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_hitl.kpi_groups import GroupFigures, Spread
from rlhf_hitl.reward.evaluation_record import Estimate


@dataclass(frozen=True)
class Change:
    """A figure on two days.

    Attributes:
        unit: share, s, h, "" for counts, or the currency.
        before, now: None where nothing supports it.
        is_clear: whether the 95 % intervals of the two have nothing in common; None for what has no interval.
    """

    title: str
    unit: str
    before: float | None
    now: float | None
    is_clear: bool | None = None


def find_changes(days: Sequence[GroupFigures], currency: str) -> tuple[str, str, list[Change]] | None:
    """Return the two newest days and what each figure was on them; None before there are two."""
    if len(days) < 2:
        return None
    before, now = days[-2:]
    return (
        before.group,
        now.group,
        [
            _compare("Model accuracy before review", "share", before.accuracy, now.accuracy),
            _compare("Human intervention rate", "share", before.intervention, now.intervention),
            _compare("Error reduction by review", "share", before.error_reduction, now.error_reduction),
            _compare("Review time, mean", "s", before.review, now.review),
            _compare("Raters say the same", "share", before.agreement, now.agreement),
            Change("Judgments", "", before.judgments, now.judgments),
            Change("Accepted by the model", "", before.accepted, now.accepted),
            Change("Spent", currency, before.cost, now.cost),
        ],
    )


def _compare(title: str, unit: str, before: Estimate | Spread | None, now: Estimate | Spread | None) -> Change:
    values = [None if of is None else of.mean if isinstance(of, Spread) else of.value for of in (before, now)]
    is_clear = None if before is None or now is None else before.high < now.low or now.high < before.low
    return Change(title, unit, values[0], values[1], is_clear)
