"""What goes over the wire of the API. Unknown keys are refused; every list and text has an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from string import ascii_uppercase
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import events, queue
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    Comparison,
    Completion,
    Event,
    Judgment,
    LaneState,
    Lease,
    Message,
    Messages,
    Prompt,
    Reason,
    Role,
    Route,
    Score,
    Split,
    Verdict,
)

MOST = 1000  # things in one request
SIDES = len(ascii_uppercase)  # completions of one comparison: each is a letter to whoever rates it

ID = r"^[A-Za-z0-9_.-]+$"
PROJECT = r"^[a-z0-9][a-z0-9._-]*$"
LINE = r"^[^\x00-\x1f]*$"
# PostgreSQL has no text with a NUL in it. Said here, so that the answer is the same on both databases.
TEXT = r"^[^\x00]*$"

Text = Annotated[str, StringConstraints(pattern=TEXT, max_length=1_000_000)]
Short = Annotated[str, StringConstraints(pattern=TEXT, max_length=80)]
Id = Annotated[str, StringConstraints(pattern=ID, max_length=80)]
Name = Annotated[str, StringConstraints(pattern=LINE, max_length=200)]


def _not_a_text(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number")
    return value


# 2.0 is a whole number in JSON; "2" and true are none. It stands after limits, or they would not be in the schema.
WHOLE = BeforeValidator(_not_a_text)
# Finite, for JSON has no other numbers.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Plain = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Number | Text | Flag | None


# Pydantic refuses a key that is no Name, and does not say so in the schema.
_NO_OTHER_KEYS: dict[str, Any] = {"additionalProperties": False}
Tags = Annotated[dict[Name, Name], Field(max_length=50, json_schema_extra=_NO_OTHER_KEYS)]
Plains = Annotated[dict[Name, Plain], Field(max_length=50, json_schema_extra=_NO_OTHER_KEYS)]
Seconds = Annotated[
    Number, Field(gt=0, le=86_400, description="How long to hold; the server's own default if left out.")
]
Overlap = Annotated[int, Field(ge=1, le=1000, description="How many judgments are wanted."), WHOLE]
Cursor = Annotated[int, Query(ge=0, lt=2**31, description="`next` of the page before.")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MessageBody(Body):
    role: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]+$", max_length=40)] = Field(examples=["user"])
    content: Text = Field(examples=["Why is the sky blue?"])


Chat = Annotated[list[MessageBody], Field(min_length=1, max_length=MOST)]


# Input


class PromptBody(Body):
    messages: Chat
    tags: Tags = Field(default_factory=dict, examples=[{"language": "en"}])
    split: Split | None = Field(None, description="Left out: decided by a hash of the opening turn.")


class PromptsBody(Body):
    prompts: list[PromptBody] = Field(min_length=1, max_length=MOST)


class CompletionBody(Body):
    prompt_id: Id
    messages: Chat
    policy: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]+$", max_length=500)] = Field(examples=["sft-3"])
    sampling: Plains = Field(default_factory=dict, examples=[{"temperature": 0.7}])


class CompletionsBody(Body):
    completions: list[CompletionBody] = Field(min_length=1, max_length=MOST)


class ComparisonBody(Body):
    prompt_id: Id
    completion_ids: list[Id] = Field(min_length=2, max_length=SIDES)
    overlap: Overlap = 1
    route: Route = Route.HUMAN

    def comparison(
        self, prompts: Mapping[str, Prompt], completions: Mapping[str, Completion], project: str, batch: str
    ) -> Comparison:
        """The comparison it asks for.

        Raises:
            BadInput: a completion is of another prompt, or two are the same.
        """
        prompt, sides = prompts[self.prompt_id], [completions[i] for i in self.completion_ids]
        for side in sides:
            if side.prompt_id != prompt.id:
                raise BadInput(f"completion {side.id}", expected=f"one of prompt {prompt.id}", fix="mend the ids")
        return Comparison.create(prompt, sides, self.overlap, self.route, project, batch)


class ComparisonsBody(Body):
    comparisons: list[ComparisonBody] = Field(min_length=1, max_length=MOST)
    project: Id = DEFAULT_PROJECT
    batch: Name = ""


class Added(BaseModel):
    """Ids in the order sent, and how many of them the store did not have."""

    ids: list[str]
    new: int


class Imported(BaseModel):
    """What an import did; counts of what is new."""

    prompts: int
    completions: int
    comparisons: int
    judgments: int
    raters: int
    rows: int
    repeated_rows: int
    identical_sides: int


class CompletionOut(BaseModel):
    id: str
    policy: str
    messages: list[MessageBody]
    sampling: dict[str, Any]


class ComparisonOut(BaseModel):
    id: str
    project: str
    batch: str
    prompt_id: str
    split: Split
    tags: dict[str, str]
    prompt: list[MessageBody]
    completions: list[CompletionOut]
    overlap: int
    route: Route


class ComparisonPage(BaseModel):
    items: list[ComparisonOut]
    next: str | None = Field(description="What to send as `after` for the next page; null at the end.")


# Prediction


class TextsBody(Body):
    prompt: Chat
    completions: list[Chat] = Field(min_length=2, max_length=SIDES)

    def comparison(self) -> tuple[Comparison, dict[str, str]]:
        """A comparison that is not kept, and completion id → its position as sent.

        Raises:
            BadInput: an empty prompt, or two completions that are the same.
        """
        prompt = Prompt.create(chat(self.prompt))
        sides = [Completion.create(prompt.id, chat(c), "") for c in self.completions]
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


# Task


class LeaseBody(Body):
    count: Annotated[int, Field(ge=1, le=20), WHOLE] = Field(1, description="How many to hold, those held already too.")
    project: Id | None = None
    batch: Name | None = None
    language: Name | None = None
    tags: Annotated[Tags, Field(max_length=5)] = Field(default_factory=dict, examples=[{"category": "coding"}])
    seconds: Seconds | None = None

    def wish(self) -> queue.TaskFilter:
        return queue.TaskFilter(self.project, self.batch, self.language, self.tags)


class RenewBody(Body):
    seconds: Seconds | None = None


class ShownOut(BaseModel):
    """A completion as a rater sees it: a letter and a text. Who wrote it is not said."""

    key: str = Field(examples=["A"])
    messages: list[MessageBody]


class LeaseOut(BaseModel):
    id: str
    expires_at: datetime
    project: str
    guideline_version: str = Field(description="Of the project when the lease was given: what it is judged by.")
    prompt: list[MessageBody]
    completions: list[ShownOut]


class Leases(BaseModel):
    leases: list[LeaseOut]


class Renewed(BaseModel):
    id: str
    expires_at: datetime


class LaneOut(BaseModel):
    project: str
    language: str
    batch: str
    paused: bool
    filled: int
    leased: int
    free: int


class QueueOut(BaseModel):
    """Places `filled`, `leased` and `free`: one for each judgment wanted."""

    filled: int
    leased: int
    free: int
    lanes: list[LaneOut]


# Feedback


Letter = Annotated[str, StringConstraints(pattern=r"^[A-Z]$")]
Scores = Annotated[
    dict[Letter, Annotated[int, Field(ge=1, le=5), WHOLE]], Field(max_length=SIDES, json_schema_extra=_NO_OTHER_KEYS)
]


class AnswerBody(Body):
    verdict: Verdict
    ranking: list[list[Letter]] = Field(
        default_factory=list,
        max_length=SIDES,
        description="Groups of the completions' keys, best first; two in a group are a tie.",
        examples=[[["A"], ["B"]]],
    )
    strength: Annotated[int, Field(ge=1, le=3), WHOLE] | None = Field(
        None, description="1 slightly, 2 clearly, 3 much better."
    )
    scores: Annotated[dict[Name, Scores], Field(max_length=50, json_schema_extra=_NO_OTHER_KEYS)] = Field(
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
    guideline_version: Short = Field("", description="Left out: the lease's.")
    interface_version: Short = ""
    idempotency_key: Annotated[str, StringConstraints(pattern=TEXT, min_length=1, max_length=200)] | None = Field(
        None, description="Sent again with the same key, an answer counts once. Left out: the lease's id."
    )

    def answer(self, shown: Sequence[str]) -> Answer:
        """The answer in completions' ids.

        Raises:
            BadInput: it contradicts itself, or names a key that was not shown.
        """
        # Checked in letters, so that an error speaks of what the rater saw.
        answer = Answer(
            self.verdict,
            tuple(tuple(group) for group in self.ranking),
            self.strength,
            self.scores,
            self.rationale,
            self.rewrite,
            self.active_seconds,
            self.reason,
        )
        answer.check(ascii_uppercase[: len(shown)])
        ids = dict(zip(ascii_uppercase, shown))
        ranking = tuple(tuple(ids[key] for key in group) for group in self.ranking)
        scores = {axis: {ids[key]: score for key, score in given.items()} for axis, given in self.scores.items()}
        return replace(answer, ranking=ranking, scores=scores)


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


# Manage

Repeats = Annotated[
    int,
    Field(
        ge=0,
        le=10_000,
        description="Of so many comparisons one is a hidden repeat; 0: none.",
        json_schema_extra={"not": {"const": 1}},
    ),
    WHOLE,
]


class ProjectBody(Body):
    id: Annotated[str, StringConstraints(pattern=PROJECT, max_length=80)] = Field(examples=["coding"])
    open: Flag = Field(True, description="To every rater; else to members only.")
    repeat_every: Repeats = 0


class ProjectChange(Body):
    open: Flag | None = None
    repeat_every: Repeats | None = None
    paused: Flag | None = None


class ProjectOut(BaseModel):
    id: str
    open: bool
    repeat_every: int
    paused: bool


class RaterChange(Body):
    disabled: Flag | None = None
    paused: Flag | None = None
    languages: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z-]+$", max_length=40)]] | None = Field(
        None, max_length=100
    )
    quota: Annotated[int, Field(ge=0, lt=2**31), WHOLE] | None = Field(
        None, description="Judgments a UTC day; 0: no limit."
    )


class RaterOut(BaseModel):
    id: str
    name: str
    role: Role
    simulated: bool
    disabled: bool
    paused: bool
    languages: list[str] | None
    quota: int | None


class InviteBody(Body):
    role: Role = Role.RATER
    project: Id | None = None
    days: Number = Field(7, gt=0, le=365)


class InviteOut(BaseModel):
    path: str = Field(description="Of the link, after this server's address. Told only now.")


class WebhookBody(Body):
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\x00-\x20]+$", max_length=2000)] = Field(
        examples=["https://example.org/hook"]
    )
    events: list[Event] = Field(min_length=1, max_length=len(Event))


class WebhookOut(BaseModel):
    id: str
    url: str
    events: list[Event]
    ended: bool
    secret: str | None = Field(None, description="What its deliveries are signed with; told only when it is made.")


class AuditOut(BaseModel):
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    details: dict[str, Any]


class AuditPage(BaseModel):
    items: list[AuditOut]
    next: int | None


# From the store's nouns


def chat(body: list[MessageBody]) -> Messages:
    return tuple(Message(m.role, m.content) for m in body)


def chat_out(messages: Messages) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def shown_out(comparison: Comparison, order: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {"key": key, "messages": chat_out(comparison.find_completion(i).messages)}
        for key, i in zip(ascii_uppercase, order)
    ]


def lease_out(lease: Lease) -> dict[str, Any]:
    return {
        "id": lease.id,
        "expires_at": lease.expires_at.isoformat(),
        "project": lease.comparison.project,
        "guideline_version": lease.guideline_version,
        "prompt": chat_out(lease.comparison.prompt.messages),
        "completions": shown_out(lease.comparison, lease.order_shown),
    }


def comparison_out(c: Comparison) -> dict[str, Any]:
    return {
        "id": c.id,
        "project": c.project,
        "batch": c.batch,
        "prompt_id": c.prompt.id,
        "split": c.prompt.split,
        "tags": dict(c.prompt.tags),
        "prompt": chat_out(c.prompt.messages),
        "completions": [
            {"id": a.id, "policy": a.policy, "messages": chat_out(a.messages), "sampling": dict(a.sampling)}
            for a in c.completions
        ],
        "overlap": c.overlap,
        "route": c.route,
    }


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


def last_out(judgment: Judgment, comparison: Comparison) -> dict[str, Any]:
    return {
        "judgment": judgment_out(judgment, False),
        "prompt": chat_out(comparison.prompt.messages),
        "completions": shown_out(comparison, judgment.order_shown),
    }


def queue_out(lanes: Sequence[LaneState]) -> dict[str, Any]:
    totals = {k: sum(getattr(lane, k) for lane in lanes) for k in ("filled", "leased", "free")}
    return totals | {"lanes": lanes}


def webhook_out(w: events.Webhook) -> dict[str, Any]:
    return {"id": w.id, "url": w.url, "events": w.events, "ended": w.ended_at is not None}
