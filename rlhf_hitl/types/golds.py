"""Gold: comparisons with a known right answer, what raters must pass on them, and what they are told afterwards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types.answers import Answer
from rlhf_hitl.types.comparisons import Comparison


class GoldPurpose(StrEnum):
    """When a gold is shown: hidden among the others, or before any other, until the rater has qualified."""

    HIDDEN = "hidden"
    QUALIFICATION = "qualification"


@dataclass(frozen=True)
class Gold:
    """A comparison with the right answer, which names completions by id, and why it is right."""

    comparison: Comparison
    answer: Answer
    explanation: str
    purpose: GoldPurpose = GoldPurpose.HIDDEN
    ended: bool = False


@dataclass(frozen=True)
class GoldResult:
    """A rater's answer to a gold: whether it agrees with the right one. `skipped` ones tell neither.

    `repeated` is true of what a rater was asked again, in a later attempt to qualify.
    """

    gold_id: str
    rater_id: str
    purpose: GoldPurpose
    agreed: bool
    skipped: bool
    repeated: bool
    simulated: bool
    created_at: datetime
    judgment_id: str
    seq: int


@dataclass(frozen=True)
class GoldFeedback:
    """What a rater is told after they have answered a gold, in a project that tells them."""

    agreed: bool
    answer: Answer
    explanation: str


@dataclass(frozen=True)
class QualificationRule:
    """What a rater must pass before they work in a project.

    They answer `golds` golds and pass where at least the share `pass_mark` of them is right. Who fails may try again
    `retries` times. A pass holds for `expires_days`; None: for good.
    """

    golds: int
    pass_mark: float = 0.75
    retries: int = 1
    expires_days: float | None = None

    def __post_init__(self) -> None:
        for name, value, holds, expected in (
            ("golds", self.golds, 1 <= self.golds <= 1000, "1 to 1000 golds"),
            ("pass-mark", self.pass_mark, 0 < self.pass_mark <= 1, "a share above 0 and up to 1"),
            ("retries", self.retries, 0 <= self.retries <= 1000, "0 to 1000 further attempts"),
            (
                "expires",
                self.expires_days,
                self.expires_days is None or 0 < self.expires_days <= 36_500,
                "days, up to 36500",
            ),
        ):
            if not holds:  # also where a number is not a number
                raise BadInput(f"qualification {name}={value}", expected=expected, fix=f"write e.g. {EXAMPLE}")

    @property
    def right_wanted(self) -> int:
        """How many of the answers must be right."""
        return math.ceil(self.pass_mark * self.golds - 1e-9)

    def expire(self, decided_at: datetime) -> datetime | None:
        """Return when a pass of that time ends; None: never."""
        return None if self.expires_days is None else decided_at + timedelta(days=self.expires_days)

    @classmethod
    def parse(cls, text: str) -> QualificationRule:
        """Return the rule in a text such as `golds=8,pass-mark=0.75,retries=1,expires=180d`. Only `golds` is required.

        Raises:
            BadInput: a part is unknown, given twice or no number, or a number is out of its range.
        """
        values: dict[str, float] = {}
        for part in text.split(","):
            match = _PART.fullmatch(part)
            if match is None or match["name"] in values or (match["name"] == "expires") != bool(match["days"]):
                raise BadInput(
                    f"qualification {part.strip()[:60]!r}", expected="golds, pass-mark, retries or expires, each once",
                    fix=f"write e.g. {EXAMPLE}",
                )  # fmt: skip
            values[match["name"]] = float(match["number"])
        whole = {name: values.get(name, default) for name, default in (("golds", 0.0), ("retries", 1.0))}
        for name, value in whole.items():
            if not value.is_integer():
                raise BadInput(
                    f"qualification {name}={value:g}", expected="a whole number", fix=f"write e.g. {EXAMPLE}"
                )
        return cls(int(whole["golds"]), values.get("pass-mark", 0.75), int(whole["retries"]), values.get("expires"))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | None) -> QualificationRule | None:
        """Return the rule as the store and JSON hold it; None where there is none."""
        return None if values is None else cls(**values)


EXAMPLE = "golds=8,pass-mark=0.75,retries=1,expires=180d"
_PART = re.compile(
    r"\s*(?P<name>golds|pass-mark|retries|expires)\s*=\s*(?P<number>\d{1,9}(\.\d{1,9})?)(?P<days>d?)\s*", re.ASCII
)


class QualificationState(StrEnum):
    """`asked`: they get golds until it is decided; `qualified`: they work; `failed`: no attempt is left."""

    ASKED = "asked"
    QUALIFIED = "qualified"
    FAILED = "failed"


@dataclass(frozen=True)
class Qualification:
    """How a rater stands with a project's qualification: of the attempt that goes on, or the last one.

    `attempts_left` counts those that they may still begin, besides one that goes on.
    """

    project: str
    state: QualificationState
    answered: int
    golds: int
    attempts_left: int
    expires_at: datetime | None = None
