"""The settings of the router."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_hitl.errors import BadInput
from rlhf_hitl.routing.acquisition_names import check_acquisition


@dataclass(frozen=True)
class RoutingConfig:
    """How to route.

    Attributes:
        max_error: bound on how often raters who see a difference would prefer the other, among accepted comparisons.
        delta: chance that the bound fails.
        control_share: share of all comparisons that go to raters whatever the model says. Their judgments are an
            unbiased measure of the model and of the router.
        acquisition: the rule by which raters are asked, one of `acquisition.ACQUISITIONS`.
        batch: how many comparisons are chosen as one batch; the others follow one by one.
    """

    max_error: float = 0.1
    delta: float = 0.05
    control_share: float = 0.1
    acquisition: str = "auto"
    batch: int = 1000

    def __post_init__(self) -> None:
        for name in ("max_error", "delta"):
            value = getattr(self, name)
            if not 0 < value < 1:
                flag = "--" + name.replace("_", "-")
                raise BadInput(f"{flag} {value}", expected="a share above 0 and below 1", fix=f"e.g. {flag} 0.1")
        if not 0 <= self.control_share <= 1:
            raise BadInput(f"--control-share {self.control_share}", expected="0 to 1", fix="e.g. --control-share 0.1")
        check_acquisition(self.acquisition)
        if self.batch < 1:
            raise BadInput(f"batch {self.batch}", expected="a whole number above 0", fix="e.g. 1000")
