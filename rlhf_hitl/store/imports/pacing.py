"""How long a transaction of an import may be, and how long the import then steps aside.

SQLite has one writer at a time, and writers of other processes poll for the lock: an importer that takes it again at
once starves them. On PostgreSQL a rater's submit waits for the import where both add judgments, in the order they came.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection

#: Seconds a transaction should hold its locks while others write, on each database, and while nobody does. On
#: PostgreSQL others wait for a part of it only, and a dozen statements take ten milliseconds whatever they insert.
GENTLE_HOLD = {"sqlite": 0.006, "postgres": 0.02}
QUICK_HOLD = {"sqlite": 0.1, "postgres": 0.05}
#: The import then steps aside for so many times the seconds that it held the locks, and for some milliseconds at least.
GENTLE_PAUSE = {"sqlite": 3.0, "postgres": 1.0}
SHORTEST_PAUSE = 0.002
#: How long others count as busy after they were last seen to write: a rater thinks between two answers.
BUSY_SECONDS = 30.0
FEWEST, MOST = 1, 5000  # records in one transaction: one may hold 64 MB


@dataclass
class Pace:
    """Adapts the number of records in a transaction to the time that the transactions take."""

    sqlite: bool
    records: int = 8  # for the next transaction
    _seen_at: float = field(default=-BUSY_SECONDS)
    _version: int | None = None

    def look(self, conn: Connection) -> None:
        """Notice, within a transaction, whether others write."""
        if self.sqlite:
            version = conn.exec_driver_sql("PRAGMA data_version").scalar_one()
            is_busy, self._version = self._version not in (None, version), version
        else:
            is_busy = conn.exec_driver_sql(_SOMEBODY_WAITS).scalar_one()
        if is_busy:
            self._seen_at = time.monotonic()

    @property
    def is_gentle(self) -> bool:
        return time.monotonic() - self._seen_at < BUSY_SECONDS

    def choose_size(self, left: int) -> int:
        """Return how many of the records that are left in a batch the next transaction takes: equal parts."""
        return math.ceil(left / math.ceil(left / self.records))

    def step_aside(self, held: float, records: int) -> None:
        """Wait after a transaction that held its locks for `held` seconds and applied so many records."""
        database = "sqlite" if self.sqlite else "postgres"
        aim = GENTLE_HOLD[database] if self.is_gentle else QUICK_HOLD[database]
        fitting = int(records * aim / max(held, 1e-4))
        self.records = max(FEWEST, min(fitting, 2 * records, MOST))
        time.sleep(max(SHORTEST_PAUSE, held * GENTLE_PAUSE[database] if self.is_gentle else 0))


# A transaction that adds judgments, or prompts, waits for the advisory lock of the one before it.
_SOMEBODY_WAITS = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database()))"
)
