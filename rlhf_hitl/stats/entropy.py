"""The entropy of a distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable


def entropy_in_nats(shares: Iterable[float]) -> float:
    """Return the Shannon entropy of shares that sum to 1, in nats."""
    return -sum(share * math.log(share) for share in shares if share > 0)
