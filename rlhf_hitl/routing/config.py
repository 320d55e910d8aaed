"""The settings of the router."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_hitl.errors import BadInput


@dataclass(frozen=True)
class RoutingConfig:
    """How to route.

    Attributes:
        max_error: bound on how often raters who see a difference would prefer the other, among accepted comparisons.
        delta: chance that the bound fails.
        control_share: share of all comparisons that go to raters whatever the model says. Their judgments are an
            unbiased measure of the model and of the router.
        audit_share: share of the accepted comparisons that raters judge all the same. Their judgments show whether the
            bound goes on to hold.
    """

    max_error: float = 0.1
    delta: float = 0.05
    control_share: float = 0.1
    audit_share: float = 0.05

    def __post_init__(self) -> None:
        for name in ("max_error", "delta"):
            value = getattr(self, name)
            if not 0 < value < 1:
                flag = "--" + name.replace("_", "-")
                raise BadInput(f"{flag} {value}", expected="a share above 0 and below 1", fix=f"e.g. {flag} 0.1")
        for name in ("control_share", "audit_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                flag = "--" + name.replace("_", "-")
                raise BadInput(f"{flag} {value}", expected="0 to 1", fix=f"e.g. {flag} 0.1")
