"""Labels (what raters say together) and scores (what a reward model says)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from rlhf_hitl.stats.vote_outcomes import VOTE_OUTCOMES

#: How votes become a label (`labels/label_models.py`).
LabelModelName = Literal["raters", "shares", "majority", "dawid-skene", "bradley-terry"]
LABEL_MODELS: tuple[LabelModelName, ...] = get_args(LabelModelName)
#: The label model that is used where none is named.
DEFAULT_LABEL_MODEL: LabelModelName = "shares"


@dataclass(frozen=True)
class Label:
    """The aggregate of a comparison's judgments, for the pair (first, second) in canonical order.

    Attributes:
        probabilities: (first better, tie, second better), by a label model; they sum to 1.
        entropy: theirs, in nats.
        votes: the judgments behind it. counts: of these, (first better, tie, second better), as they were given.
        counted: the same without a lead's decision, each times how much its rater's votes count, and a judge's shared
            out as it said: what a rater says, of whatever reliability.
        simulated: whether any of them was simulated.
        strengths: the votes that gave a strength, as they were given: (first much, clearly, slightly better, second
            slightly, clearly, much better).
        weight: what the judgments are worth, in votes of a reference rater (`votes`, where raters are not told apart).
        judges: the votes of models among them.
        adjudicated: whether a lead has decided.
        weighted_votes: what reward models learn from: the votes of a reference rater that the judgments are worth, for
            each of VOTE_OUTCOMES. They sum to `weight`.
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
    counts: tuple[int, int, int] = (0, 0, 0)
    counted: tuple[float, float, float] = (0.0, 0.0, 0.0)
    weighted_votes: tuple[float, ...] = (0.0,) * len(VOTE_OUTCOMES)

    @property
    def said(self) -> tuple[float, float, float]:
        """What is measured against: the counted votes, or a lead's decision alone, as one vote."""
        return self.probabilities if self.adjudicated else self.counted

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
