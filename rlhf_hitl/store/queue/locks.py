"""The locks of the queue, and the order in which they are taken.

Every transaction locks in this order: rater, comparison, place, judgments. On SQLite the single write lock covers them
all and FOR UPDATE is left out. On PostgreSQL the NO KEY form (`key_share=True`) lets other transactions insert rows
that refer to a locked one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, raters
from rlhf_hitl.types import utc_now


def lock_rater(store: Store, conn: Connection, rater_id: str) -> tuple[Any, datetime]:
    """Lock a rater, so that they lease or submit one at a time, and read the time of the database's clock.

    Returns:
        The rater's row (None where there is no such rater, or they are disabled), and the time.
    """
    row = conn.execute(_select_rater_and_clock(store.is_sqlite), {"rater": rater_id}).first()
    if row is None:
        return None, store.now(conn)
    now = utc_now() if row.clock is None else row.clock.astimezone(UTC)
    return (row if row.disabled_at is None else None), now


@cache
def _select_rater_and_clock(is_sqlite: bool) -> sa.Select:
    clock = sa.null() if is_sqlite else sa.func.clock_timestamp()
    names = ("id", "languages", "quota", "paused_at", "disabled_at", "role", "simulated")
    columns = (raters.c[name] for name in names)
    query = sa.select(*columns, clock.label("clock")).where(raters.c.id == sa.bindparam("rater"))
    return query.with_for_update(key_share=True)


def lock_comparison(conn: Connection, comparison_id: str) -> None:
    query = sa.select(comparisons.c.id).where(comparisons.c.id == comparison_id)
    conn.execute(query.with_for_update(key_share=True))
