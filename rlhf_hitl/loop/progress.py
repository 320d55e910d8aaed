"""How far raters are with what a round of the loop wants of them."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_hitl.store.promotions import Promotion
from rlhf_hitl.wording import say_count


@dataclass(frozen=True)
class ReviewProgress:
    """How many of the judgments that a round wants from raters are made."""

    round: int
    done: int
    wanted: int

    def __str__(self) -> str:
        wanted = say_count(self.wanted, "judgment")
        return f"round {self.round}: {self.done:,} of {wanted}; raters make them at `rlhf-hitl serve`"


@dataclass(frozen=True)
class PromotionProgress:
    """How far raters are with comparing the policies of a round."""

    round: int
    promotion: Promotion

    def __str__(self) -> str:
        from rlhf_hitl.policy.promotion_votes import say_progress

        return f"round {self.round}: promotion: {say_progress(self.promotion)}"
