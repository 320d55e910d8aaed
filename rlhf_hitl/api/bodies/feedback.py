"""Bodies of the scope `feedback`: answers, judgments and receipts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from string import ascii_uppercase
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, Field, StringConstraints, create_model

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
)
from rlhf_hitl.api.bodies.messages import MessageOut, ShownOut, shown_to_json
from rlhf_hitl.api.bodies.quality import FeedbackOut
from rlhf_hitl.api.bodies.task import QualificationOut
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Judgment,
    Reason,
    ShownAnswer,
    Verdict,
    VisibleJudgment,
    messages_to_dicts,
)

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
        description="Groups of the completions' keys, best first; keys in one group are tied.",
        examples=[[["A"], ["B"]]],
    )
    strength: Annotated[int, Field(ge=1, le=3), WHOLE_NUMBER] | None = Field(
        None, description="1 slightly, 2 clearly, 3 much better."
    )
    scores: Annotated[dict[Name, Scores], Field(max_length=50, json_schema_extra=NO_OTHER_KEYS)] = Field(
        default_factory=dict,
        description="For each axis of the project's guideline, a score from 1 to 5 for the completions' keys.",
        examples=[{"helpful": {"A": 4, "B": 2}}],
    )
    rationale: Annotated[str, StringConstraints(pattern=TEXT, max_length=20_000)] = ""
    rewrite: Annotated[str, StringConstraints(pattern=TEXT, max_length=100_000)] = Field(
        "", description="A better answer than those shown, which is kept as a demonstration."
    )
    reason: Reason | None = Field(
        None, description="Why it is flagged (unsafe, broken, wrong_language, private) or skipped (the others)."
    )
    active_seconds: Number | None = Field(
        None,
        ge=0,
        lt=86_400,
        description="No more is kept than passed since the lease, less what your other judgments claim of that.",
    )
    guideline_version: ShortText = Field(
        "", description="The lease's, or a later one of its project. If left out, the lease's."
    )
    interface_version: ShortText = ""
    idempotency_key: Annotated[str, StringConstraints(pattern=TEXT, min_length=1, max_length=200)] | None = Field(
        None, description="Sent again with the same key, an answer counts once. If left out, the lease's id."
    )

    def to_shown_answer(self) -> ShownAnswer:
        """Return the answer, in the letters the completions were shown under.

        Raises:
            BadInput: it contradicts itself.
        """
        return ShownAnswer(Answer.from_plain(dict(self)))


class JudgmentBody(AnswerBody):
    lease_id: Id


class ReceiptOut(BaseModel):
    """`outcome` is counted, surplus (kept, but not counted) or repeated (the key was known).

    An answer is surplus where it came after the lease, and others had filled every place or the rater would not be
    given the comparison by then: paused, beyond the quota, or outside of the project. `gold` is the right answer, where
    the comparison had one and the project tells raters; `qualification` is how they stand after a gold that is part of
    one.
    """

    id: str
    outcome: str
    gold: FeedbackOut | None
    qualification: QualificationOut | None


def _derive_model_fields() -> dict[str, Any]:
    """Return the fields of `JudgmentOut` for pydantic, derived from those of a visible judgment and of its answer."""
    types = get_type_hints(Answer) | get_type_hints(VisibleJudgment)
    described_fields = {
        "ranking": (
            list[list[str]],
            Field(description="Groups of completion ids; for a rater, of the letters they were shown."),
        ),
        "scores": (
            dict[str, Any],
            Field(description="For each axis, a score from 1 to 5 for the completions, named as in the ranking."),
        ),
    }
    answer_fields = {f.name: (types[f.name], ...) for f in fields(Answer)}
    other_fields = {
        f.name: (types[f.name], ... if f.default is MISSING else f.default)
        for f in fields(VisibleJudgment)
        if f.name != "answer"
    }
    return other_fields | answer_fields | described_fields


class JudgmentOut(create_model("JudgmentFields", **_derive_model_fields())):
    """A judgment. Raters see only their own, with letters, and null in the fields that are hidden from them."""


class JudgmentPage(BaseModel):
    items: list[JudgmentOut]
    next: int | None = Field(description="Send this as `after` to get the next page; null at the end.")


class LastOut(BaseModel):
    """A rater's newest judgment with what they were shown, so that they can correct it."""

    judgment: JudgmentOut
    prompt: list[MessageOut]
    completions: list[ShownOut]


def judgment_to_json(j: Judgment, sees_all: bool) -> dict[str, Any]:
    """Return the fields of `JudgmentOut` that a reader may see: a rater sees letters, and not why they were asked."""
    letters = dict(zip(j.order_shown, ascii_uppercase))

    def get_name(completion_id: str) -> str:
        return completion_id if sees_all else letters.get(completion_id, "?")

    # What has a default in VisibleJudgment is hidden from raters.
    visible = [f.name for f in fields(VisibleJudgment) if sees_all or f.default is MISSING]
    other_fields = {name: getattr(j, name) for name in visible if name not in ("answer", "cursor")}
    answer_fields = j.answer.to_plain() | {
        "ranking": [[get_name(i) for i in group] for group in j.answer.ranking],
        "scores": {axis: _scores_to_json(scores, get_name) for axis, scores in j.answer.scores.items()},
    }
    return other_fields | answer_fields | {"cursor": j.seq}


def _scores_to_json(scores: Any, get_name: Callable[[str], str]) -> Any:
    # In judgments from before each completion was scored by itself, an axis may hold one plain value.
    return {get_name(i): score for i, score in scores.items()} if isinstance(scores, Mapping) else scores


def last_to_json(judgment: Judgment, comparison: Comparison) -> dict[str, Any]:
    """Return the fields of `LastOut`."""
    return {
        "judgment": judgment_to_json(judgment, False),
        "prompt": messages_to_dicts(comparison.prompt.messages),
        "completions": shown_to_json(comparison, judgment.order_shown),
    }
