"""What other programs are told: webhooks, and an outbox that is written together with what it tells of.

A delivery is claimed by pushing its next try into the future, so that two senders never send it at once and one that
dies with it leaves it to the next.
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import Utc, deliveries, webhooks
from rlhf_hitl.types import Event, utc_now

#: Waits between tries in seconds, as https://www.standardwebhooks.com advises; after the last one it is given up.
BACK_OFF = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
CLAIM = timedelta(seconds=60)  # a sender has this long before another may try
PATIENT = 3  # tries during which a failing delivery holds up those behind it


@dataclass(frozen=True)
class Webhook:
    """Where to send which events. `secret` signs what is sent."""

    id: str
    url: str
    secret: str
    events: tuple[Event, ...]
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class Delivery:
    """One event for one webhook, claimed for sending; `attempts` counts this one."""

    id: str
    url: str
    secret: str
    body: str
    attempts: int


def add_webhook(store: Store, url: str, events: Iterable[Event], *, by: audit.Actor = audit.CLI) -> Webhook:
    """Subscribe an address to events from now on. The secret they will be signed with is made here.

    Raises:
        BadInput: no http(s) address, or no event.
    """
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and not parts.password
        )
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"url {url!r}", expected="an http(s) address without a password", fix="mend the address")
    wanted = sorted({Event(e) for e in events})
    if not wanted:
        raise BadInput("events []", expected="at least one of " + ", ".join(Event), fix="say what to send")
    row = {
        "id": f"w_{uuid.uuid4().hex[:24]}",
        "url": url,
        "secret": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "events": [e.value for e in wanted],
        "created_at": utc_now(),
        "ended_at": None,
    }
    with store.write() as conn:
        conn.execute(webhooks.insert().values(row))
        audit.record(conn, by, "webhook.added", row["id"], host=urlsplit(url).hostname, events=row["events"])
    return _webhook(row)


def all_webhooks(store: Store) -> list[Webhook]:
    with store.read() as conn:
        return [_webhook(r) for r in conn.execute(sa.select(webhooks).order_by(webhooks.c.created_at)).mappings()]


def end_webhook(store: Store, webhook_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """Send nothing more to it; what still waits is dropped.

    Raises:
        NotFound: no such webhook, or it was ended before.
    """
    with store.write() as conn:
        ended = webhooks.update().where(webhooks.c.id == webhook_id, webhooks.c.ended_at.is_(None))
        if not conn.execute(ended.values(ended_at=utc_now())).rowcount:
            raise NotFound(f"webhook {webhook_id!r}", expected="one that is on", fix="see `rlhf-hitl webhooks list`")
        waiting = sa.and_(deliveries.c.webhook_id == webhook_id, deliveries.c.next_try_at.is_not(None))
        conn.execute(deliveries.update().where(waiting).values(next_try_at=None, last_error="the webhook was ended"))
        audit.record(conn, by, "webhook.ended", webhook_id)


Subscriptions = Sequence[tuple[str, Sequence[str]]]


def subscriptions(conn: Connection) -> Subscriptions:
    """(webhook, its events) of those that are on."""
    return [(hook, events) for hook, events in conn.execute(_SUBSCRIBED)]


_SUBSCRIBED = sa.select(webhooks.c.id, webhooks.c.events).where(webhooks.c.ended_at.is_(None))


def anybody_listens() -> sa.Exists:
    """Whether there are subscriptions, as a column for a statement that is sent anyway."""
    return sa.exists().where(webhooks.c.ended_at.is_(None))


def emit(conn: Connection, event: Event, data: Mapping[str, Any], hooks: Subscriptions | None = None) -> None:
    """Tell of something in the transaction in which it happens.

    Args:
        data: ids and outcomes, never texts.
        hooks: the webhooks that are on, where the caller has asked for them already.
    """
    hooks = subscriptions(conn) if hooks is None else hooks
    subscribed = [hook for hook, events in hooks if event.value in events]
    now = utc_now()
    rows = []
    for hook in subscribed:
        body = {"type": event.value, "timestamp": now.isoformat(), "data": dict(data)}
        rows.append(
            {
                "id": f"msg_{uuid.uuid4().hex}",
                "webhook_id": hook,
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


def claim(store: Store, now: datetime | None = None) -> Delivery | None:
    """The next delivery that is due, to be sent by the caller and by nobody else for a minute.

    A webhook gets one at a time, in order, and while its last one failed it is left alone until that is tried again
    (but not for hours: it may be one event that its receiver cannot take).
    """
    with store.read() as conn:  # most of the time there is nothing, and that must not cost the write lock
        first = conn.execute(_NEXT, {"now": now or store.now(conn)}).first()
    if first is None:
        return None
    with store.write() as conn:
        now = now or store.now(conn)
        store.lock(conn, "deliveries")
        row = conn.execute(_NEXT, {"now": now}).first()
        if row is None:
            return None
        claimed = deliveries.update().where(deliveries.c.id == row.id)
        conn.execute(claimed.values(attempts=row.attempts + 1, next_try_at=now + CLAIM))
    return Delivery(row.id, row.url, row.secret, row.body, row.attempts + 1)


_NOW = sa.bindparam("now", type_=Utc)
_ahead = deliveries.alias()
_NEXT = (
    sa.select(deliveries.c.id, deliveries.c.body, deliveries.c.attempts, webhooks.c.url, webhooks.c.secret)
    .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    .where(
        deliveries.c.next_try_at <= _NOW,
        webhooks.c.ended_at.is_(None),
        ~sa.exists().where(
            _ahead.c.webhook_id == deliveries.c.webhook_id,
            _ahead.c.attempts.between(1, PATIENT),
            _ahead.c.next_try_at > _NOW,
        ),
    )
    .order_by(deliveries.c.next_try_at, deliveries.c.seq)
    .limit(1)
)


def delivered(store: Store, delivery: Delivery) -> None:
    with store.write() as conn:
        _settle(conn, delivery, delivered_at=store.now(conn), next_try_at=None, last_error="")


def failed(store: Store, delivery: Delivery, error: str, now: datetime | None = None) -> bool:
    """Plan the next try. False where that was the last one."""
    goes_on = delivery.attempts <= len(BACK_OFF)
    with store.write() as conn:
        wait = timedelta(seconds=BACK_OFF[delivery.attempts - 1]) if goes_on else None
        next_try = None if wait is None else (now or store.now(conn)) + wait
        _settle(conn, delivery, next_try_at=next_try, last_error=error[:500])
    return goes_on


def _settle(conn: Connection, delivery: Delivery, **values: Any) -> None:
    # Ended meanwhile, it stays ended; claimed by another since, it is theirs.
    mine = (deliveries.c.id == delivery.id, deliveries.c.next_try_at.is_not(None))
    still = deliveries.c.attempts == delivery.attempts
    conn.execute(deliveries.update().where(*mine, still).values(values))


def waiting(store: Store) -> int:
    """How many deliveries are still to be made."""
    with store.read() as conn:
        query = sa.select(sa.func.count()).select_from(deliveries).where(deliveries.c.next_try_at.is_not(None))
        return conn.execute(query).scalar_one()


def _webhook(row) -> Webhook:
    events = tuple(Event(e) for e in row["events"])
    return Webhook(row["id"], row["url"], row["secret"], events, row["created_at"], row["ended_at"])
