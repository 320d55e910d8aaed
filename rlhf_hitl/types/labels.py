"""Labels (what raters say together) and scores (what a reward model says)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Label:
    """The aggregate of a comparison's judgments, for the pair (first, second) in canonical order.

    `probabilities` are (first better, tie, second better) and sum to 1; `entropy` is theirs in nats; `votes` counts
    the judgments behind it; `simulated` is true where any of them was simulated. `weight` is what they are worth, in
    votes of a reference rater (`votes`, where raters are not told apart); `judges` counts those of models;
    `adjudicated` is true where a lead has decided. `strengths` counts the votes that gave a strength: (first
    much, clearly, slightly better, second slightly, clearly, much better).
    """

    comparison_id: str
    first: str
    second: str
    probabilities: tuple[float, float, float]
    entropy: float
    votes: int
    simulated: bool = False
    strengths: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    weight: float = 0.0
    judges: int = 0
    adjudicated: bool = False

    @property
    def preferred(self) -> str | None:
        """The completion the raters prefer; None where a tie is the likeliest or both sides are equally likely."""
        first, tie, second = self.probabilities
        if first == second or tie > max(first, second):
            return None
        return self.first if first > second else self.second


@dataclass(frozen=True)
class Score:
    """What a reward model says of a comparison: its two best completions, their margin and its uncertainty.

    `margin` = reward(chosen) - reward(rejected) >= 0 in logits; `uncertainty` is the epistemic standard deviation of
    that margin; `probability` is the calibrated probability that a rater who sees a difference prefers `chosen`.
    """

    comparison_id: str
    reward_model_id: str
    chosen: str
    rejected: str
    margin: float
    uncertainty: float
    probability: float
    rewards: Mapping[str, float] = field(default_factory=dict)
