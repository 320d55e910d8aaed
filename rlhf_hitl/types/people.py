"""People: raters with their roles, and the scopes a token may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    RATER = "rater"
    LEAD = "lead"
    EVALUATOR = "evaluator"
    ADMIN = "admin"
    JUDGE = "judge"  # a model that votes beside people


class Scope(StrEnum):
    """A part of the API that a token gives access to."""

    INPUT = "input"
    PREDICTION = "prediction"
    TASK = "task"
    FEEDBACK = "feedback"
    MANAGE = "manage"
    METRICS = "metrics"


@dataclass(frozen=True)
class Rater:
    """A person or program that signs in.

    `languages` are those they read, None for any; `quota` is the most judgments they may give in one UTC day;
    `attributes` are the groups that they agreed to be counted in, such as region → north.
    """

    id: str
    name: str
    role: Role
    simulated: bool = False
    disabled: bool = False
    source: str = ""
    languages: tuple[str, ...] | None = None
    quota: int | None = None
    paused: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def state(self) -> str:
        """Their state in one word; where several are true, the one that matters most."""
        states = {"disabled": self.disabled, "paused": self.paused, "simulated": self.simulated}
        return next((word for word, is_true in states.items() if is_true), "imported" if self.source else "active")
