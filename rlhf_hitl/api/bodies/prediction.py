"""Bodies of the scope `prediction`: what a reward model scores and how."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from rlhf_hitl.api.bodies.fields import MAX_COMPLETIONS, Body, Id
from rlhf_hitl.api.bodies.messages import Chat, parse_chat
from rlhf_hitl.types import Comparison, Completion, Prompt, Score


class TextsBody(Body):
    prompt: Chat
    completions: list[Chat] = Field(min_length=2, max_length=MAX_COMPLETIONS)

    def comparison(self) -> tuple[Comparison, dict[str, str]]:
        """A comparison that is not kept, and completion id → its position as sent.

        Raises:
            BadInput: an empty prompt, or two completions that are the same.
        """
        prompt = Prompt.create(parse_chat(self.prompt))
        sides = [Completion.create(prompt.id, parse_chat(c), "") for c in self.completions]
        return Comparison.create(prompt, sides), {side.id: str(i) for i, side in enumerate(sides)}


class PredictionsBody(Body):
    comparison_ids: list[Id] = Field(default_factory=list, max_length=256)
    texts: list[TextsBody] = Field(default_factory=list, max_length=256, description="Scored and not kept.")
    reward_model_id: Id | None = Field(None, description="Left out: the newest.")


class ScoreOut(BaseModel):
    """`rewards` by completion id, or by position where texts were sent."""

    comparison_id: str | None
    chosen: str
    rejected: str
    margin: float
    uncertainty: float
    probability: float
    rewards: dict[str, float]


class Predictions(BaseModel):
    reward_model_id: str
    scores: list[ScoreOut]


def score_out(score: Score, comparison_id: str | None, names: dict[str, str] | None = None) -> dict[str, Any]:
    names = names or {}
    return {
        "comparison_id": comparison_id,
        "chosen": names.get(score.chosen, score.chosen),
        "rejected": names.get(score.rejected, score.rejected),
        "margin": score.margin,
        "uncertainty": score.uncertainty,
        "probability": score.probability,
        "rewards": {names.get(i, i): r for i, r in score.rewards.items()},
    }
