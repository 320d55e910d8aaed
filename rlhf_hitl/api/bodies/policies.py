"""Bodies about policies: their ranking and their lineage."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from rlhf_hitl.api.bodies.fields import LINE, Body, Id, Name, StrictBool, Tags
from rlhf_hitl.labels.policy_report import PromotionOutcome
from rlhf_hitl.store.policies import PolicyMethod

PolicyName = Annotated[str, StringConstraints(pattern=LINE, max_length=500)]


class RankingBody(Body):
    """Which votes to rank policies by."""

    votes: Literal["people", "judges", "simulated"] | None = Field(
        None, description="Whose; null: people's, or simulated ones where nobody has voted."
    )
    project: Id | None = None
    language: Name | None = None
    tags: Tags = Field(default_factory=dict, description="Only votes about prompts that have all these tags.")
    style_control: StrictBool = Field(
        False, description="Control for style: take out what length, headings, lists and bold text win."
    )
    base: PolicyName | None = Field(None, description="The policy that win rates are against.")


class RankedPolicyOut(BaseModel):
    """A policy: its rating on Elo's scale with the 95 % interval (null: no bound), and its rank within its group."""

    policy: str
    group: int
    rank: int
    rating: float
    low: float | None
    high: float | None
    win_rate: float | None
    win_low: float | None
    win_high: float | None
    votes: float
    prompts: int
    held: bool = Field(description="It won, or lost, everything: only a weak prior says by how much.")
    swept: Literal["won", "lost"] | None = Field(description="Whether it won, or lost, all its comparisons.")
    plain_rating: float | None = Field(description="Without style control, where the ranking is with it.")
    plain_rank: int | None


class StyleWorthOut(BaseModel):
    """What one standard deviation more of a feature is worth, in logits."""

    feature: str
    value: float
    low: float
    high: float


class RankingOut(BaseModel):
    population: Literal["people", "judges", "simulated"]
    counts: dict[str, int]
    votes: int
    pairs: int
    prompts: int
    language: str | None
    tags: dict[str, str]
    base: str | None
    policies: list[RankedPolicyOut]
    groups: int = Field(description="Groups that no comparison connects; ranks are within a group.")
    wins: list[list[float]] = Field(description="Votes for the row's policy over the column's, as `policies` are.")
    ties: list[list[float]]
    tie_rate: float
    style: list[StyleWorthOut]
    left_out: dict[str, int]
    notes: list[str]


class LineageOut(BaseModel):
    """A policy below the one it was made of; one that is only known as a parent has no method."""

    policy: str
    parent: str | None
    depth: int
    method: PolicyMethod | None
    round: int | None
    reward_model_id: str | None
    reward_model: str | None
    place: Literal["here", "gone", "elsewhere"] | None = Field(
        description="Whether its folder is on the server, or was deleted or moved."
    )
    settings_digest: str | None
    created_at: datetime | None
    replaced: int = Field(description="Earlier policies of the same name.")
    outcome: PromotionOutcome | None
    gate: str | None
