"""Figures of a page, computed once for all who look at them: a large store takes many seconds for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from threading import Lock
from typing import Generic, TypeVar

from rlhf_hitl.types import utc_now

Report = TypeVar("Report")

#: A report that took longer than this many seconds is kept for so many times as long as it took.
SLOW_SECONDS, KEPT_TIMES = 1.0, 20


Report = TypeVar("Report")


class SharedFigures(Generic[Report]):
    """A report that threads share. While one thread computes it, the others wait for it.

    Args:
        compute: computes the report of now.
    """

    def __init__(self, compute: Callable[[], Report]):
        self._compute = compute
        self._lock = Lock()
        self._kept: tuple[Report, datetime] | None = None
        self._kept_until = 0.0  # by the monotonic clock

    def get(self) -> tuple[Report, datetime]:
        """Return the report and the time it is of."""
        with self._lock:
            if self._kept is None or time.monotonic() >= self._kept_until:
                begun, at = time.monotonic(), utc_now()
                self._kept = self._compute(), at
                taken = time.monotonic() - begun
                self._kept_until = time.monotonic() + (KEPT_TIMES * taken if taken > SLOW_SECONDS else 0)
            return self._kept
