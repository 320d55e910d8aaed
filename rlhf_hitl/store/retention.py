"""What is over is forgotten after a while, so that no sign-in and no event takes up room for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import deliveries, tokens

#: How long it is kept, to be looked into. Judgments and the audit log stay for good.
RETENTION = timedelta(days=30)
BATCH = 500  # of each: deleting them takes milliseconds, which is what a submit may have to wait


def delete_expired(store: Store, now: datetime | None = None) -> int:
    """Delete some of the deliveries that were made or given up and of the sessions, tokens and invitations that are
    over; returns how many. There may be more until it returns 0."""
    with store.read() as conn:  # looked for before the lock is taken that others wait for
        before = (now or store.now(conn)) - RETENTION
        # The oldest events are the first rows; those that still wait among them are given up before `KEEP` is over.
        oldest = sa.select(deliveries.c.seq, deliveries.c.created_at, deliveries.c.next_try_at).order_by(
            deliveries.c.seq
        )
        told = [
            row.seq for row in conn.execute(oldest.limit(BATCH)) if row.next_try_at is None and row.created_at < before
        ]
        over = sa.or_(tokens.c.ended_at < before, tokens.c.expires_at < before)
        ended = list(conn.execute(sa.select(tokens.c.id).where(over).limit(BATCH)).scalars())
    if not told and not ended:
        return 0
    with store.write() as conn:
        conn.execute(deliveries.delete().where(deliveries.c.seq.in_(told)))
        conn.execute(tokens.delete().where(tokens.c.id.in_(ended)))
    return len(told) + len(ended)
