"""Bodies of the scope `manage`: projects, raters, invitations, webhooks, the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import PROJECT, WHOLE_NUMBER, Body, Id, Name, Number, ShortText, StrictBool
from rlhf_hitl.api.bodies.quality import QualificationBody, QualificationRuleOut
from rlhf_hitl.store import webhooks
from rlhf_hitl.types import Escalation, Event, OverlapRule, Role

Repeats = Annotated[
    int,
    Field(
        ge=0,
        le=10_000,
        description="One in so many comparisons is a hidden repeat; 0 for none.",
        json_schema_extra={"not": {"const": 1}},
    ),
    WHOLE_NUMBER,
]

Golds = Annotated[
    int,
    Field(
        ge=0,
        le=10_000,
        description="One in so many comparisons is a gold that the rater has not answered; 0 for none.",
        json_schema_extra={"not": {"const": 1}},
    ),
    WHOLE_NUMBER,
]
RaterFilters = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^(batch|tags\.[^\x00-\x1f]{1,200})$")]],
    Field(
        max_length=50,
        examples=[["batch", "tags.category"]],
        description="What raters may choose their tasks by: `batch`, or `tags.KEY`. They learn it of what they get.",
    ),
]


class OverlapRuleBody(Body):
    """One more judgment of a comparison is asked as long as it is worth its price."""

    least: Annotated[int, Field(ge=1, le=1000), WHOLE_NUMBER] = 1
    most: Annotated[int, Field(ge=1, le=1000), WHOLE_NUMBER] = Field(5, description="Not below the least.")
    vote_price: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.01, description="0.01: one more rater in a hundred is expected to agree with the label."
    )
    escalate: Escalation = Field(Escalation.NONE, description="What becomes of comparisons that split raters.")

    def to_rule(self) -> OverlapRule:
        return OverlapRule.from_plain(self.model_dump())


class ProjectBody(Body):
    id: Annotated[str, StringConstraints(pattern=PROJECT, max_length=80)] = Field(examples=["coding"])
    open: StrictBool = Field(True, description="Whether every rater may work in it, or members only.")
    repeat_every: Repeats = 0
    rater_filters: RaterFilters = Field(default_factory=list)
    overlap_rule: OverlapRuleBody | None = Field(None, description="Null: as many judgments as a comparison asks for.")
    gold_every: Golds = 0
    gold_feedback: StrictBool = Field(False, description="Whether raters are told the right answer of a gold.")


class ProjectChange(Body):
    open: StrictBool | None = None
    repeat_every: Repeats | None = None
    paused: StrictBool | None = None
    rater_filters: RaterFilters | None = None
    overlap_rule: OverlapRuleBody | Literal["fixed"] | None = Field(
        None, description="`fixed`: as many judgments as a comparison asks for."
    )
    gold_every: Golds | None = None
    gold_feedback: StrictBool | None = None
    qualification: QualificationBody | Literal["off"] | None = Field(
        None, description="What raters must pass before they work in it; `off` for nothing."
    )


class ProjectOut(BaseModel):
    id: str
    open: bool
    repeat_every: int
    paused: bool
    rater_filters: list[str]
    overlap_rule: OverlapRuleBody | None
    gold_every: int
    gold_feedback: bool
    qualification: QualificationRuleOut | None


class RaterChange(Body):
    disabled: StrictBool | None = None
    paused: StrictBool | None = None
    languages: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z-]+$", max_length=40)]] | None = Field(
        None, max_length=100
    )
    quota: Annotated[int, Field(ge=0, lt=2**31), WHOLE_NUMBER] | None = Field(
        None, description="Judgments a UTC day; 0 for no limit."
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
    path: str = Field(description="The link's path on this server. It cannot be read again.")


Values = Annotated[list[Name], Field(max_length=50)]
Nats = Annotated[Number, Field(ge=0, le=100, description="Of the label's entropy.")]
Votes = Annotated[int, Field(ge=0, lt=2**31, description="Of raters.", strict=True)]


class CatalogSearch(Body):
    """Conditions that all have to be met; of the values of one property, any."""

    words: ShortText = Field("", description="Each must stand in the texts; one that ends in `*` begins a word.")
    ids: Annotated[list[Id], Field(max_length=1000)] = Field(
        default_factory=list, description="Of comparisons, prompts, completions or judgments."
    )
    project: Values = Field(default_factory=list)
    batch: Values = Field(default_factory=list)
    split: Values = Field(default_factory=list)
    language: Values = Field(default_factory=list)
    tag: Values = Field(default_factory=list, examples=[["category=math"]])
    policy: Values = Field(default_factory=list)
    route: Values = Field(default_factory=list)
    round: Values = Field(default_factory=list)
    state: Values = Field(default_factory=list, examples=[["split"]])
    agreement: Values = Field(default_factory=list)
    outcome: Values = Field(default_factory=list)
    verdict: Values = Field(default_factory=list)
    rater: Values = Field(default_factory=list)
    judge: Values = Field(default_factory=list)
    kind: Values = Field(default_factory=list)
    least_votes: Votes | None = None
    most_votes: Votes | None = None
    least_entropy: Nats | None = None
    most_entropy: Nats | None = None
    after: int | None = Field(None, ge=0, lt=2**53, strict=True, description="`next` of the previous page.")
    limit: int = Field(25, ge=1, le=100, strict=True, description="The most comparisons to return.")


class CatalogHitOut(BaseModel):
    comparison_id: str
    prompt_id: str
    completion_ids: list[str]
    policies: list[str]
    project: str
    votes: int
    entropy: float | None = Field(description="Of the label, in nats; of several pairs the largest.")
    terms: dict[str, list[str]] = Field(description="What it is found by: each property above with its values.")


class CatalogPage(BaseModel):
    items: list[CatalogHitOut]
    total: int
    total_is_exact: bool = Field(description="Whether `total` was counted; else it is an estimate.")
    next: int | None


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
    secret: str | None = Field(
        None, description="The key that signs its deliveries; sent only when the webhook is made."
    )


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


def webhook_to_json(webhook: webhooks.Webhook) -> dict[str, Any]:
    """Return the fields of `WebhookOut`, without the secret."""
    ended = webhook.ended_at is not None
    return {"id": webhook.id, "url": webhook.url, "events": webhook.events, "ended": ended}
