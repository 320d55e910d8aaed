"""Bodies of the scope `manage`: projects, raters, invitations, webhooks, the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import PROJECT, WHOLE, Body, Flag, Id, Number
from rlhf_hitl.store import webhooks
from rlhf_hitl.types import Event, Role

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


def webhook_out(w: webhooks.Webhook) -> dict[str, Any]:
    return {"id": w.id, "url": w.url, "events": w.events, "ended": w.ended_at is not None}
