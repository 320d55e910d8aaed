"""Bodies of the scope `feedback`: answers, judgments and receipts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import (
    MAX_COMPLETIONS,
    NO_OTHER_KEYS,
    TEXT,
    WHOLE_NUMBER,
    Body,
    Id,
    Name,
    Number,
    ShortText,
    Text,
)
from rlhf_hitl.api.bodies.messages import MessageBody, ShownOut, shown_to_json
from rlhf_hitl.types import Answer, Comparison, Judgment, Reason, Route, ShownAnswer, Verdict, messages_to_dicts

Letter = Annotated[str, StringConstraints(pattern=r"^[A-Z]$")]
Scores = Annotated[
    dict[Letter, Annotated[int, Field(ge=1, le=5), WHOLE_NUMBER]],
    Field(max_length=MAX_COMPLETIONS, json_schema_extra=NO_OTHER_KEYS),
]


class AnswerBody(Body):
    verdict: Verdict
    ranking: list[list[Letter]] = Field(
        default_factory=list,
        max_length=MAX_COMPLETIONS,
        description="Groups of the completions' keys, best first; two in a group are a tie.",
        examples=[[["A"], ["B"]]],
    )
    strength: Annotated[int, Field(ge=1, le=3), WHOLE_NUMBER] | None = Field(
        None, description="1 slightly, 2 clearly, 3 much better."
    )
    scores: Annotated[dict[Name, Scores], Field(max_length=50, json_schema_extra=NO_OTHER_KEYS)] = Field(
        default_factory=dict,
        description="Axis, then the completions' keys: 1 to 5. The axes are those of the project's guideline.",
        examples=[{"helpful": {"A": 4, "B": 2}}],
    )
    rationale: Annotated[str, StringConstraints(pattern=TEXT, max_length=20_000)] = ""
    rewrite: Text = Field("", description="A better answer than those shown; kept as a demonstration.")
    reason: Reason | None = Field(
        None, description="Of a flag: unsafe, broken, wrong_language, private; of a skip: the others."
    )
    active_seconds: Number | None = Field(None, ge=0, lt=86_400)
    guideline_version: ShortText = Field("", description="Left out: the lease's.")
    interface_version: ShortText = ""
    idempotency_key: Annotated[str, StringConstraints(pattern=TEXT, min_length=1, max_length=200)] | None = Field(
        None, description="Sent again with the same key, an answer counts once. Left out: the lease's id."
    )

    def shown_answer(self) -> ShownAnswer:
        """Return the answer, in the letters the completions were shown under.

        Raises:
            BadInput: it contradicts itself.
        """
        return ShownAnswer(Answer.from_plain(dict(self)))


class JudgmentBody(AnswerBody):
    lease_id: Id


class ReceiptOut(BaseModel):
    """`outcome`: counted; surplus (kept, but others had filled every place); repeated (the key was known)."""

    id: str
    outcome: str


class JudgmentOut(BaseModel):
    """A judgment. What only leads and evaluators may see is null for a rater, who sees their own with letters."""

    id: str
    cursor: int
    verdict: Verdict
    ranking: list[list[str]] = Field(description="Completions' ids; for a rater the letters they were shown.")
    strength: int | None
    scores: dict[str, Any] = Field(description="Axis, then completions, named as in the ranking: 1 to 5.")
    rationale: str
    rewrite: str
    reason: Reason | None
    active_seconds: float | None
    created_at: datetime
    supersedes: str | None
    surplus: bool
    comparison_id: str | None = None
    rater_id: str | None = None
    order_shown: list[str] | None = None
    route: Route | None = None
    reward_model_id: str | None = None
    guideline_version: str | None = None
    interface_version: str | None = None
    source: str | None = None
    simulated: bool | None = None


class JudgmentPage(BaseModel):
    items: list[JudgmentOut]
    next: int | None = Field(description="What to send as `after` for the next page; null at the end.")


class LastOut(BaseModel):
    """A rater's newest judgment with what it was of, to be corrected."""

    judgment: JudgmentOut
    prompt: list[MessageBody]
    completions: list[ShownOut]


def judgment_out(j: Judgment, sees_all: bool) -> dict[str, Any]:
    """A judgment as its reader may see it: a rater gets letters, and nothing of why they were asked."""
    letters = dict(zip(j.order_shown, ascii_uppercase))

    def named(completion_id: str) -> str:
        return completion_id if sees_all else letters.get(completion_id, "?")

    out = {
        "id": j.id,
        "cursor": j.seq,
        "verdict": j.answer.verdict,
        "ranking": [[named(i) for i in group] for group in j.answer.ranking],
        "strength": j.answer.strength,
        "scores": {axis: _scores_out(given, named) for axis, given in j.answer.scores.items()},
        "rationale": j.answer.rationale,
        "rewrite": j.answer.rewrite,
        "reason": j.answer.reason,
        "active_seconds": j.answer.active_seconds,
        "created_at": j.created_at,
        "supersedes": j.supersedes,
        "surplus": j.surplus,
    }
    if sees_all:
        for name in (
            "comparison_id", "rater_id", "route", "reward_model_id", "guideline_version", "interface_version", "source",
            "simulated",
        ):  # fmt: skip
            out[name] = getattr(j, name)
        out["order_shown"] = list(j.order_shown)
    return out


def _scores_out(given: Any, named: Callable[[str], str]) -> Any:
    # Of judgments from before completions were scored by themselves, an axis may hold one plain value.
    return {named(i): score for i, score in given.items()} if isinstance(given, Mapping) else given


def last_out(judgment: Judgment, comparison: Comparison) -> dict[str, Any]:
    return {
        "judgment": judgment_out(judgment, False),
        "prompt": messages_to_dicts(comparison.prompt.messages),
        "completions": shown_to_json(comparison, judgment.order_shown),
    }
