"""The time that the code and the formulas of one text may take to be drawn."""

from __future__ import annotations

from time import process_time

#: Formulas of one text that are drawn.
FORMULAS_LIMIT = 300


class DrawingBudget:
    """What remains of the processor time of one text, and of the number of its formulas.

    It is asked between two steps and cannot end one: whoever draws a text for a page does so in a process that is
    killed when a single step takes too long (see `render_worker.py`).

    Attributes:
        is_exceeded: whether something was left as it was written.
    """

    def __init__(self, seconds: float):
        self._ends_at = process_time() + seconds
        self._formulas_left = FORMULAS_LIMIT
        self.is_exceeded = False

    def allows(self, size: int = 0, limit: int = 0) -> bool:
        """Return whether there is time left, for something of this size, which may have `limit`."""
        if process_time() > self._ends_at or size > limit:
            self.is_exceeded = True
        return size <= limit and process_time() <= self._ends_at

    def allows_formula(self) -> bool:
        """Return whether one more formula may be drawn."""
        self._formulas_left -= 1
        if self._formulas_left < 0:
            self.is_exceeded = True
            return False
        return self.allows()
