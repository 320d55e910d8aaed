"""Overlap rules: how many judgments a project wants of each comparison, where that depends on what the votes say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from rlhf_hitl.errors import BadInput

#: What the command line calls an overlap that does not depend on the votes.
FIXED_OVERLAP: Final = "fixed"
_READERS: dict[str, Callable[[str], Any]] = {"least": int, "most": int, "price": float, "escalate": str}
FIX = "write e.g. least=1,most=5,price=0.01, or `fixed`"


class Escalation(StrEnum):
    """What becomes of a comparison that its raters leave open."""

    ADJUDICATION = "adjudication"  # a lead decides it
    RATERS = "raters"  # it goes on to more of them, up to the most, whatever a vote is worth
    NONE = "none"  # its label stays soft


@dataclass(frozen=True)
class OverlapRule:
    """Adaptive overlap: a comparison gets `least` judgments, and then one more as long as that is worth its price.

    `vote_price` is in shares of raters: 0.01 asks for a vote while it is expected that one more rater in a hundred
    agrees with the label for it (`stats/value_of_vote.py`). A comparison gets `most` judgments at most.
    """

    least: int = 1
    most: int = 5
    vote_price: float = 0.01
    escalate: Escalation = Escalation.NONE

    def __post_init__(self) -> None:
        for name, low, high in (("least", 1, 1000), ("most", self.least, 1000)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise BadInput(f"overlap rule with {name} {value!r}", expected=f"{low} to {high}", fix=FIX)
        price = self.vote_price
        if type(price) not in (int, float) or not math.isfinite(price) or not 0 <= price <= 1:
            raise BadInput(f"overlap rule with price {price!r}", expected="0 to 1, in shares of raters", fix=FIX)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> OverlapRule:
        """Return the rule that `to_plain` made these values of. Those left out take their defaults."""
        escalate = values.get("escalate", Escalation.NONE)
        if unknown := sorted(values.keys() - {"least", "most", "vote_price", "escalate"}):
            raise BadInput(f"overlap rule with {unknown[0]!r}", expected="least, most, price, escalate", fix=FIX)
        if escalate not in tuple(Escalation):
            raise BadInput(f"overlap rule with escalate {escalate!r}", expected=", ".join(Escalation), fix=FIX)
        given: dict[str, Any] = {**values, "escalate": Escalation(escalate)}
        return cls(**given)

    @classmethod
    def parse(cls, text: str) -> OverlapRule | None:
        """Return the rule that a text such as `least=1,most=5,price=0.01,escalate=adjudication` describes; None for
        `fixed`.

        Raises:
            BadInput: it is neither.
        """
        if text == FIXED_OVERLAP:
            return None
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            if not equals or name not in _READERS:
                raise BadInput(f"overlap rule {text!r}", expected=f"{', '.join(_READERS)}, with values", fix=FIX)
            try:
                values[name] = _READERS[name](value)
            except ValueError as e:
                raise BadInput(f"overlap rule with {name} {value!r}", expected="a number", fix=FIX) from e
        if "price" in values:
            values["vote_price"] = values.pop("price")
        if "least" in values and "most" not in values:
            values["most"] = max(values["least"], cls.most)
        return cls.from_plain(values)

    def to_plain(self) -> dict[str, Any]:
        return asdict(self) | {"escalate": self.escalate.value}

    def __str__(self) -> str:
        escalate = "" if self.escalate is Escalation.NONE else f",escalate={self.escalate.value}"
        return f"least={self.least},most={self.most},price={self.vote_price:g}{escalate}"
