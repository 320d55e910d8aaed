"""Delete old sessions, tokens and webhook deliveries, so that they do not take up space for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import deliveries, tokens

#: How long ended tokens and finished deliveries are kept for inspection. Judgments and the audit log stay for ever.
RETENTION = timedelta(days=30)
DELETE_LIMIT = 500  # of each kind: deleting so many takes milliseconds, which a submit may have to wait


def delete_expired(store: Store, now: datetime | None = None) -> int:
    """Delete a batch of what is past its retention and return how many rows; call again until it returns 0.

    These are deliveries that were sent or given up, and sessions, tokens and invitations that ended or expired.
    """
    with store.read() as conn:  # the rows are found before the write lock is taken, which others wait for
        before = (now or store.now(conn)) - RETENTION
        # The oldest events are the first rows; those that still wait are given up before `RETENTION` is over.
        oldest = sa.select(deliveries.c.seq, deliveries.c.created_at, deliveries.c.next_try_at).order_by(
            deliveries.c.seq
        )
        delivery_ids = [
            row.seq
            for row in conn.execute(oldest.limit(DELETE_LIMIT))
            if row.next_try_at is None and row.created_at < before
        ]
        has_ended = sa.or_(tokens.c.ended_at < before, tokens.c.expires_at < before)
        token_ids = list(conn.execute(sa.select(tokens.c.id).where(has_ended).limit(DELETE_LIMIT)).scalars())
    if not delivery_ids and not token_ids:
        return 0
    with store.write() as conn:
        conn.execute(deliveries.delete().where(deliveries.c.seq.in_(delivery_ids)))
        conn.execute(tokens.delete().where(tokens.c.id.in_(token_ids)))
    return len(delivery_ids) + len(token_ids)
