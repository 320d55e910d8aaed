"""Judgments: a lease on a comparison, the judgment it leads to, and the receipt for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from rlhf_hitl.types.answers import Answer
from rlhf_hitl.types.comparisons import Comparison, Route
from rlhf_hitl.types.golds import GoldFeedback, Qualification
from rlhf_hitl.types.people import Role


@dataclass(frozen=True)
class Judgment:
    """One rater's answer to one comparison, with everything needed to read it years later.

    `role` is the capacity in which it was given: RATER, JUDGE (by a model) or LEAD (it decides an escalated
    comparison). `probabilities` are a judge's, of (first shown better, tie, second shown better).
    """

    id: str
    comparison_id: str
    rater_id: str
    answer: Answer
    order_shown: tuple[str, ...]
    route: Route
    created_at: datetime
    idempotency_key: str
    reward_model_id: str | None = None
    supersedes: str | None = None
    surplus: bool = False
    simulated: bool = False
    guideline_version: str = ""
    interface_version: str = ""
    source: str = ""
    role: Role = Role.RATER
    probabilities: tuple[float, float, float] | None = None
    seq: int = 0  # its sequence number in the store: a reader continues after the last one it has

    @classmethod
    def from_plain(cls, values: Mapping[Any, Any]) -> Judgment:
        """Return the judgment from its fields and those of its answer, as a row of the store holds them."""
        arguments = {name: values[name] for name in _JUDGMENT_FIELDS}
        arguments["order_shown"] = tuple(arguments["order_shown"])
        arguments["route"] = Route(arguments["route"])
        arguments["role"] = Role(arguments["role"] or Role.RATER)
        if arguments["probabilities"] is not None:
            arguments["probabilities"] = tuple(arguments["probabilities"])
        return cls(answer=Answer.from_plain(values), **arguments)


_JUDGMENT_FIELDS = tuple(f.name for f in fields(Judgment) if f.name != "answer")


@dataclass(frozen=True)
class VisibleJudgment:
    """A judgment as one reader may see it.

    A lead or an evaluator sees everything, and rankings name completions by id. A rater sees their own judgments, with
    the letters they were shown; the fields that they may not see are None. A reader continues after `cursor`.
    """

    id: str
    cursor: int
    answer: Answer
    created_at: datetime
    supersedes: str | None
    surplus: bool
    comparison_id: str | None = None
    rater_id: str | None = None
    order_shown: tuple[str, ...] | None = None
    route: Route | None = None
    reward_model_id: str | None = None
    guideline_version: str | None = None
    interface_version: str | None = None
    source: str | None = None
    simulated: bool | None = None


@dataclass(frozen=True)
class Lease:
    """A rater's hold on a comparison until a time, with the order in which the completions are shown."""

    id: str
    comparison: Comparison
    rater_id: str
    order_shown: tuple[str, ...]
    expires_at: datetime
    guideline_version: str = ""  # the project's version when the lease was given


@dataclass(frozen=True)
class LaneState:
    """How many places of one lane are filled, leased and free."""

    project: str
    language: str
    batch: str
    paused: bool
    filled: int
    leased: int
    free: int


@dataclass(frozen=True)
class Receipt:
    """The store's answer to a submitted judgment.

    `outcome` is `counted`, `surplus` (kept, but every place was filled) or `repeated` (the idempotency key is known).
    `gold` is what the rater is told of a gold, where the project tells them; `qualification` is how they stand after a
    gold of an attempt to qualify.
    """

    judgment_id: str
    outcome: str
    gold: GoldFeedback | None = None
    qualification: Qualification | None = None
