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

    def to_comparison(self) -> tuple[Comparison, dict[str, str]]:
        """Return a comparison that is not kept, and the position in the request ("0", "1", …) of each completion id.

        Raises:
            BadInput: the prompt is empty, or two completions are the same.
        """
        prompt = Prompt.create(parse_chat(self.prompt))
        completions = [Completion.create(prompt.id, parse_chat(c), "") for c in self.completions]
        return Comparison.create(prompt, completions), {c.id: str(i) for i, c in enumerate(completions)}


class PredictionsBody(Body):
    comparison_ids: list[Id] = Field(default_factory=list, max_length=256)
    texts: list[TextsBody] = Field(default_factory=list, max_length=256, description="They are scored, but not kept.")
    reward_model_id: Id | None = Field(None, description="If left out, the newest.")


class ScoreOut(BaseModel):
    """A score. `rewards` has completion ids as keys or, where texts were sent, their positions."""

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


def score_to_json(score: Score, comparison_id: str | None, names: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the fields of `ScoreOut`; `names` replaces the ids of completions."""
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
