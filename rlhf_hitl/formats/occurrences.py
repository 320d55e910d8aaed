"""How often a file says the same of a comparison without naming a rater: each time is a vote of its own."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Self


class OccurrenceCounter:
    """Counts how often each of many keys was met, in a private temporary database: memory stays flat."""

    def __init__(self) -> None:
        self._conn = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._conn.execute("PRAGMA journal_mode = OFF")
        self._conn.execute("PRAGMA synchronous = OFF")
        self._conn.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID")
        self._conn.execute("BEGIN")

    def count(self, key: bytes) -> int:
        """Return the how manieth time it is that this key is met, from 1 on."""
        query = "INSERT INTO seen VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET n = n + 1 RETURNING n"
        return self._conn.execute(query, (key,)).fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: object, _trace: TracebackType | None) -> None:
        self._conn.close()
