"""The outbox: events that wait to be sent, written in the transaction of the change they report.

A delivery is claimed by moving its next attempt into the future. So two senders never send it at once, and one that
dies while sending leaves it to the next.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import deliveries, webhooks
from rlhf_hitl.store.tables import Utc
from rlhf_hitl.store.webhooks.subscriptions import Subscriptions, list_subscriptions
from rlhf_hitl.types import Event, utc_now

#: Seconds between attempts, as https://www.standardwebhooks.com advises; after the last one the delivery is given up.
RETRY_DELAYS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
CLAIM_DURATION = timedelta(seconds=60)  # how long a sender has before another may try
BLOCKING_ATTEMPTS = 3  # attempts during which a failing delivery holds up those behind it


@dataclass(frozen=True)
class Delivery:
    """One event for one webhook, claimed for sending; and `attempts` counts this one."""

    id: str
    url: str
    sealed_secret: str = field(repr=False)
    body: str
    attempts: int


def enqueue_event(
    conn: Connection, event: Event, data: Mapping[str, Any], subscriptions: Subscriptions | None = None
) -> None:
    """Put an event into the outbox of every webhook that wants it, in the transaction in which it happens.

    Args:
        data: ids and outcomes, never texts.
        subscriptions: the active webhooks, where the caller has loaded them already.
    """
    subscriptions = list_subscriptions(conn) if subscriptions is None else subscriptions
    now = utc_now()
    rows = []
    for webhook_id in (webhook_id for webhook_id, events in subscriptions if event.value in events):
        body = {"type": event.value, "timestamp": now.isoformat(), "data": dict(data)}
        rows.append(
            {
                "id": f"msg_{uuid.uuid4().hex}",
                "webhook_id": webhook_id,
                "event": event.value,
                "body": json.dumps(body, ensure_ascii=False),
                "created_at": now,
                "attempts": 0,
                "next_try_at": now,
                "delivered_at": None,
                "last_error": "",
            }
        )
    if rows:
        conn.execute(deliveries.insert(), rows)


def claim_delivery(store: Store, now: datetime | None = None) -> Delivery | None:
    """Return the next delivery that is due, for the caller to send and nobody else for a minute; None if none is due.

    A webhook gets its deliveries one at a time, in order. While one has failed, those behind it wait until it is tried
    again, but only for its first three attempts: it may be an event that the receiver can never take.
    """
    with store.read() as conn:  # usually nothing is due, and finding that out must not take the write lock
        first = conn.execute(_NEXT_DUE, {"now": now or store.now(conn)}).first()
    if first is None:
        return None
    with store.write() as conn:
        now = now or store.now(conn)
        store.lock(conn, "deliveries")
        row = conn.execute(_NEXT_DUE, {"now": now}).first()
        if row is None:
            return None
        claimed = deliveries.update().where(deliveries.c.id == row.id)
        conn.execute(claimed.values(attempts=row.attempts + 1, next_try_at=now + CLAIM_DURATION))
    return Delivery(row.id, row.url, row.secret, row.body, row.attempts + 1)


_NOW = sa.bindparam("now", type_=Utc)
_earlier = deliveries.alias()
_NEXT_DUE = (
    sa.select(deliveries.c.id, deliveries.c.body, deliveries.c.attempts, webhooks.c.url, webhooks.c.secret)
    .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    .where(
        deliveries.c.next_try_at <= _NOW,
        webhooks.c.ended_at.is_(None),
        ~sa.exists().where(
            _earlier.c.webhook_id == deliveries.c.webhook_id,
            _earlier.c.attempts.between(1, BLOCKING_ATTEMPTS),
            _earlier.c.next_try_at > _NOW,
        ),
    )
    .order_by(deliveries.c.next_try_at, deliveries.c.seq)
    .limit(1)
)


def mark_delivered(store: Store, delivery: Delivery) -> None:
    with store.write() as conn:
        _update_claimed(conn, delivery, delivered_at=store.now(conn), next_try_at=None, last_error="")


def record_failure(store: Store, delivery: Delivery, error: str, now: datetime | None = None) -> bool:
    """Record a failed attempt and plan the next. Returns False where that was the last one."""
    is_retried = delivery.attempts <= len(RETRY_DELAYS)
    with store.write() as conn:
        delay = timedelta(seconds=RETRY_DELAYS[delivery.attempts - 1]) if is_retried else None
        next_attempt = None if delay is None else (now or store.now(conn)) + delay
        _update_claimed(conn, delivery, next_try_at=next_attempt, last_error=error[:500])
    return is_retried


def _update_claimed(conn: Connection, delivery: Delivery, **values: Any) -> None:
    # If its webhook was ended meanwhile, the delivery stays dropped; if another sender has claimed it, it is theirs.
    still_waits = (deliveries.c.id == delivery.id, deliveries.c.next_try_at.is_not(None))
    still_claimed = deliveries.c.attempts == delivery.attempts
    conn.execute(deliveries.update().where(*still_waits, still_claimed).values(values))


def count_waiting_deliveries(store: Store) -> int:
    with store.read() as conn:
        query = sa.select(sa.func.count()).select_from(deliveries).where(deliveries.c.next_try_at.is_not(None))
        return conn.execute(query).scalar_one()
