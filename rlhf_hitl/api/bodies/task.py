"""Bodies of the scope `task`: leases and the state of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from rlhf_hitl.api.bodies.fields import WHOLE_NUMBER, Body, Id, Name, Seconds, Tags
from rlhf_hitl.api.bodies.messages import MessageOut, ShownOut, shown_to_json
from rlhf_hitl.store import queue
from rlhf_hitl.types import LaneState, Lease, QualificationState, messages_to_dicts
from rlhf_hitl.types.names import check_label


class LeaseBody(Body):
    count: Annotated[int, Field(ge=1, le=queue.MOST_HELD), WHOLE_NUMBER] = Field(
        1, description="How many to lease in all, those leased already included."
    )
    project: Id | None = None
    batch: Name | None = Field(None, description="Raters may send it where a project opens `batch` to them.")
    language: Name | None = None
    tags: Annotated[Tags, Field(max_length=5)] = Field(
        default_factory=dict,
        examples=[{"category": "coding"}],
        description="Raters may send a tag where a project opens `tags.KEY` to them.",
    )
    seconds: Seconds | None = None

    def to_task_filter(self, by_rater: bool) -> queue.TaskFilter:
        tags = {check_label("tag", tag): check_label("tag", value) for tag, value in self.tags.items()}
        return queue.TaskFilter(self.project, self.batch, self.language, tags, by_rater)


class RenewBody(Body):
    seconds: Seconds | None = None


class QualificationOut(BaseModel):
    """How a rater stands with a project's qualification: `asked` (they get golds), `qualified` or `failed`."""

    project: str
    state: QualificationState
    answered: int
    golds: int
    attempts_left: int
    expires_at: datetime | None


class LeaseOut(BaseModel):
    id: str
    expires_at: datetime
    project: str
    guideline_version: str = Field(description="The version to judge by: the project's when the lease was given.")
    prompt: list[MessageOut]
    tools: list[dict[str, Any]] = Field(description="What an answer may call.")
    completions: list[ShownOut]


class Leases(BaseModel):
    """`qualifications` are those that you have not passed: until you have, you get golds of their projects only."""

    leases: list[LeaseOut]
    qualifications: list[QualificationOut]


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
    """How many places (one for each wanted judgment) are filled, leased and free, in all and in each lane."""

    filled: int
    leased: int
    free: int
    lanes: list[LaneOut]


def lease_to_json(lease: Lease) -> dict[str, Any]:
    """Return the fields of `LeaseOut`."""
    return {
        "id": lease.id,
        "expires_at": lease.expires_at.isoformat(),
        "project": lease.comparison.project,
        "guideline_version": lease.guideline_version,
        "prompt": messages_to_dicts(lease.comparison.prompt.messages),
        "tools": [tool.to_plain() for tool in lease.comparison.prompt.tools],
        "completions": shown_to_json(lease.comparison, lease.order_shown),
    }


def queue_to_json(lanes: Sequence[LaneState]) -> dict[str, Any]:
    """Return the fields of `QueueOut`."""
    return queue.sum_places(lanes) | {"lanes": lanes}
