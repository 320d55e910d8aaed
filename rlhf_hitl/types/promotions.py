"""What a comparison of two policies by raters comes to."""

from __future__ import annotations

from enum import StrEnum


class Decision(StrEnum):
    """What a test of a new policy has shown; `undecided` as long as it has shown nothing."""

    PROMOTE = "promote"
    REJECT = "reject"
    UNDECIDED = "undecided"
