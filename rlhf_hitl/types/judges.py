"""Judges: raters that are models, how each is asked, and every call of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

#: Of (first shown better, tie, second shown better); they sum to 1.
Probabilities = tuple[float, float, float]


class CallOutcome(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"  # the model would not compare them, or takes no images
    UNREADABLE = "unreadable"  # it said something that names no answer
    FAILED = "failed"  # an error of the endpoint, or of the way to it
    TIMED_OUT = "timed_out"


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge is asked. The key of an endpoint is not among it, only where the key is found.

    `price_in` and `price_out` are for a million tokens; `draws` is how often an endpoint that gives no
    log-probabilities is asked, at `temperature` where more than once; `timeout_seconds` is for one request in all.
    `own_policies` is a glob of the policies that are the judge's own family, to measure whether it prefers them.
    """

    api_key_env: str = ""
    api_key_file: str = ""
    template_version: str = ""
    price_in: float = 0.0
    price_out: float = 0.0
    draws: int = 1
    temperature: float = 1.0
    timeout_seconds: float = 60.0
    takes_images: bool = False
    own_policies: str = ""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> JudgeSettings:
        """Return settings from the store's JSON; what a later version wrote is left out."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


@dataclass(frozen=True)
class Judge:
    """A rater that is a model. `address` is that of its endpoint, empty for a model on this machine.

    `budget` is the most that all of its calls may cost; None: no limit.
    """

    rater_id: str
    name: str
    model: str
    address: str = ""
    template: str = "pairwise"
    settings: JudgeSettings = field(default_factory=JudgeSettings)
    budget: float | None = None

    @property
    def kind(self) -> str:
        return "endpoint" if self.address else "local"


@dataclass(frozen=True)
class JudgeCall:
    """One request to a judge about two completions, in the order in which they were shown.

    A request that was tried again is a call of its own. `cost` is in the currency of the prices; where an endpoint does
    not say how many tokens a call took, it is the most that the call can have cost.
    """

    order_shown: tuple[str, str]
    outcome: CallOutcome
    probabilities: Probabilities | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class JudgeTotals:
    """What the calls of a judge come to: calls by outcome, tokens, cost, seconds, and the judgments they led to."""

    calls: Mapping[str, int]
    judgments: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float
