"""The settings of the router."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.routing.acquisition_names import check_acquisition
from rlhf_hitl.routing.rules import RoutingRules


@dataclass(frozen=True)
class RoutingConfig:
    """How to route.

    Attributes:
        max_error: bound on how often raters who see a difference would prefer the other, among accepted comparisons.
        delta: chance that the bound fails.
        control_share: share of all comparisons that go to raters whatever the model says. Their judgments are an
            unbiased measure of the model and of the router.
        rules: what goes to people, whatever the bound allows. Its own shares are not read: see `from_rules`.
        audit_share: share of the accepted comparisons that raters judge all the same. Their judgments show whether the
            bound goes on to hold.
        acquisition: the rule by which raters are asked, one of `acquisition.ACQUISITIONS`.
        judges: AI judges whose votes are heard where the model is not sure enough, the cheapest first.
        batch: how many comparisons are chosen as one batch; the others follow one by one.
    """

    max_error: float = 0.1
    delta: float = 0.05
    control_share: float = 0.1
    audit_share: float = 0.05
    rules: RoutingRules = field(default_factory=RoutingRules)
    acquisition: str = "auto"
    judges: tuple[str, ...] = ()
    batch: int = 1000

    @classmethod
    def from_rules(cls, rules: RoutingRules, **given: Any) -> RoutingConfig:
        """Return the settings that are given; those that are None or left out are the rules', or else the defaults."""
        of_rules = {name: getattr(rules, name) for name in ("max_error", "delta", "control_share")}
        values = of_rules | {name: value for name, value in given.items() if value is not None}
        return cls(**{name: value for name, value in values.items() if value is not None}, rules=rules)

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
        check_acquisition(self.acquisition)
        if self.batch < 1:
            raise BadInput(f"batch {self.batch}", expected="a whole number above 0", fix="e.g. 1000")
