"""Bodies about golds, qualification, adjudication and assignments: how raters are measured and who decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import MAX_COMPLETIONS, MAX_ITEMS, TEXT, WHOLE_NUMBER, Body, Id, Name, Number
from rlhf_hitl.api.bodies.messages import Chat, MessageOut, parse_chat
from rlhf_hitl.api.bodies.task import LeaseOut
from rlhf_hitl.store.adjudication import Vote
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    Gold,
    GoldFeedback,
    GoldPurpose,
    QualificationRule,
    Role,
    TutorialExample,
    Verdict,
    messages_to_dicts,
)

Position = Annotated[int, Field(ge=0, lt=MAX_COMPLETIONS), WHOLE_NUMBER]
#: Ids in one call: a small body has no more than a thousand values in all.
MAX_IDS = 900
Reason = Annotated[str, StringConstraints(pattern=TEXT, min_length=1, max_length=1000)]


class QualificationBody(Body):
    golds: Annotated[int, Field(ge=1, le=1000), WHOLE_NUMBER] = Field(description="How many golds a rater answers.")
    pass_mark: Number = Field(0.75, gt=0, le=1, description="The share of them that must be right.")
    retries: Annotated[int, Field(ge=0, le=1000), WHOLE_NUMBER] = 1
    expires_days: Number | None = Field(None, gt=0, le=36_500, description="How long a pass holds; null: for good.")

    def to_rule(self) -> QualificationRule:
        return QualificationRule(**self.model_dump())


class QualificationRuleOut(BaseModel):
    golds: int
    pass_mark: float
    retries: int
    expires_days: float | None


class GoldBody(Body):
    messages: Chat
    completions: Annotated[list[Chat], Field(min_length=2, max_length=MAX_COMPLETIONS)]
    verdict: Verdict = Verdict.RANKED
    ranking: Annotated[list[list[Position]], Field(max_length=MAX_COMPLETIONS)] = Field(
        default_factory=list,
        description="The right answer: groups of positions in `completions`, best first.",
        examples=[[[1], [0]]],
    )
    strength: Annotated[int, Field(ge=1, le=3), WHOLE_NUMBER] | None = None
    explanation: Annotated[str, StringConstraints(pattern=TEXT, min_length=1, max_length=20_000)]

    def to_example(self, project: str) -> TutorialExample:
        """Return the gold as a tutorial example, which has the same parts.

        Raises:
            BadInput: its parts do not fit each other.
        """
        ranking = tuple(tuple(map(str, group)) for group in self.ranking)
        answer = Answer(self.verdict, ranking, self.strength)
        chats = [parse_chat(chat) for chat in self.completions]
        return TutorialExample.create(project, parse_chat(self.messages), chats, answer, self.explanation)


class GoldsBody(Body):
    project: Id = DEFAULT_PROJECT
    purpose: GoldPurpose = GoldPurpose.HIDDEN
    language: Name = Field("", description="Of the prompts; empty: raters of any language get them.")
    golds: list[GoldBody] = Field(min_length=1, max_length=MAX_ITEMS)


class GoldsAdded(BaseModel):
    golds: int
    new: int


class GoldIds(Body):
    project: Id = DEFAULT_PROJECT
    ids: list[Id] = Field(min_length=1, max_length=MAX_IDS)


class GoldsEnded(BaseModel):
    ended: int


class GoldOut(BaseModel):
    id: str
    project: str
    purpose: GoldPurpose
    language: str
    prompt: list[MessageOut]
    completions: list[list[MessageOut]]
    verdict: Verdict
    ranking: list[list[int]]
    strength: int | None
    explanation: str
    ended: bool


class FeedbackOut(BaseModel):
    """The right answer of a gold, in the letters that were shown, and why it is right."""

    agreed: bool
    verdict: Verdict
    ranking: list[list[str]]
    strength: int | None
    explanation: str


class AdjudicationBody(Body):
    ids: list[Id] = Field(min_length=1, max_length=MAX_IDS, description="Ids of comparisons.")
    reason: Reason = "sent to adjudication by a lead"


class SentOut(BaseModel):
    """How many comparisons were sent; others wait already, are decided, or cannot be (golds, repeats, unknown ids)."""

    sent: int
    waiting: int
    decided: int
    refused: int


class DecisionLeaseBody(Body):
    count: Annotated[int, Field(ge=1, le=20), WHOLE_NUMBER] = 1
    project: Id | None = None
    seconds: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=1, le=86_400)] | None = None


class VoteOut(BaseModel):
    """A vote beside a comparison to decide, in the letters that are shown to whoever decides."""

    rater_id: str
    role: Role
    simulated: bool
    verdict: Verdict
    ranking: list[list[str]]
    strength: int | None
    rationale: str
    order_shown: list[str] = Field(description="The order of the one who voted: their A is the first of these letters.")


class DecisionLease(LeaseOut):
    votes: list[VoteOut]


class DecisionLeases(BaseModel):
    leases: list[DecisionLease]


class AdjudicationCountsOut(BaseModel):
    """Comparisons that wait for a decision, those of them that you may decide, and those that are decided."""

    waiting: int
    for_you: int
    decided: int


class AssignmentBody(Body):
    rater_id: Id
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)] | None = Field(
        None, description="Ids of comparisons. If left out, those of the slice."
    )
    slice: Name = Field("", description="The slice they are of.")


class AssignedOut(BaseModel):
    """How many comparisons were assigned, and for each reason how many were not."""

    rater: str
    assigned: int
    refused: dict[str, int]


class EndAssignmentsBody(Body):
    rater_id: Id
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)] | None = Field(
        None, description="Ids of comparisons; if left out, all that are assigned to the rater."
    )
    slice: Name | None = None


class AssignmentsEnded(BaseModel):
    ended: int


class AssignmentOut(BaseModel):
    id: str
    comparison_id: str
    rater_id: str
    slice: str
    assigned_by: str
    created_at: datetime
    state: str = Field(description="waiting, judged or ended.")


def gold_to_json(gold: Gold) -> dict[str, Any]:
    """Return the fields of `GoldOut`: its ranking is of positions in its completions."""
    comparison = gold.comparison
    position_of = {c.id: i for i, c in enumerate(comparison.completions)}
    return {
        "id": comparison.id,
        "project": comparison.project,
        "purpose": gold.purpose,
        "language": comparison.prompt.language,
        "prompt": messages_to_dicts(comparison.prompt.messages),
        "completions": [messages_to_dicts(c.messages) for c in comparison.completions],
        "verdict": gold.answer.verdict,
        "ranking": [[position_of[id] for id in group] for group in gold.answer.ranking],
        "strength": gold.answer.strength,
        "explanation": gold.explanation,
        "ended": gold.ended,
    }


def feedback_to_json(feedback: GoldFeedback, order_shown: Sequence[str]) -> dict[str, Any]:
    """Return the fields of `FeedbackOut`."""
    answer = feedback.answer.rename_completions(_name_shown(order_shown))
    plain = {"verdict": answer.verdict.value, "ranking": [sorted(group) for group in answer.ranking]}
    return {"agreed": feedback.agreed, "explanation": feedback.explanation, "strength": answer.strength} | plain


def vote_to_json(vote: Vote, order_shown: Sequence[str]) -> dict[str, Any]:
    """Return the fields of `VoteOut`."""
    judgment, answer = vote.judgment, vote.judgment.answer
    letters = _name_shown(order_shown)
    return {
        "rater_id": judgment.rater_id,
        "role": judgment.role.value,
        "simulated": judgment.simulated,
        "verdict": answer.verdict.value,
        "ranking": [sorted(letters[id] for id in group) for group in answer.ranking],
        "strength": answer.strength,
        "rationale": answer.rationale,
        "order_shown": [letters[id] for id in judgment.order_shown],
    }


def _name_shown(order_shown: Sequence[str]) -> Mapping[str, str]:
    return dict(zip(order_shown, ascii_uppercase))
