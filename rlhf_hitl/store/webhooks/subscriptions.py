"""The webhooks: which address wants which events, and the secret its deliveries are signed with."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import deliveries, webhooks
from rlhf_hitl.types import Event, utc_now

#: Webhook ids, each with the events it wants.
Subscriptions = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Webhook:
    """An address and the events that are sent to it. What is sent is signed with `secret`."""

    id: str
    url: str
    secret: str
    events: tuple[Event, ...]
    created_at: datetime
    ended_at: datetime | None


def add_webhook(store: Store, url: str, events: Iterable[Event], *, by: audit.Actor = audit.CLI) -> Webhook:
    """Subscribe an address to events from now on. The secret that signs them is made here.

    Raises:
        BadInput: the URL is no http(s) address or holds a password, or there is no event.
    """
    if not _is_usable(url):
        raise BadInput(f"url {url!r}", expected="an http(s) address without a password", fix="correct the address")
    event_names = sorted({Event(e).value for e in events})
    if not event_names:
        raise BadInput("events []", expected="at least one of " + ", ".join(Event), fix="say what to send")
    row = {
        "id": f"w_{uuid.uuid4().hex[:24]}",
        "url": url,
        "secret": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "events": event_names,
        "created_at": utc_now(),
        "ended_at": None,
    }
    with store.write() as conn:
        conn.execute(webhooks.insert().values(row))
        audit.record(conn, by, "webhook.added", row["id"], host=urlsplit(url).hostname, events=event_names)
    return _webhook_from_row(row)


def list_webhooks(store: Store) -> list[Webhook]:
    """Return all webhooks, ended ones too, oldest first."""
    query = sa.select(webhooks).order_by(webhooks.c.created_at)
    with store.read() as conn:
        return [_webhook_from_row(row) for row in conn.execute(query).mappings()]


def end_webhook(store: Store, webhook_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """End a webhook: it receives nothing more, not even the deliveries that still wait.

    Raises:
        NotFound: no such webhook, or it has ended before.
    """
    with store.write() as conn:
        active = webhooks.update().where(webhooks.c.id == webhook_id, webhooks.c.ended_at.is_(None))
        if not conn.execute(active.values(ended_at=utc_now())).rowcount:
            raise NotFound(f"webhook {webhook_id!r}", expected="one that is on", fix="see `rlhf-hitl webhooks list`")
        waiting = sa.and_(deliveries.c.webhook_id == webhook_id, deliveries.c.next_try_at.is_not(None))
        conn.execute(deliveries.update().where(waiting).values(next_try_at=None, last_error="the webhook was ended"))
        audit.record(conn, by, "webhook.ended", webhook_id)


def list_subscriptions(conn: Connection) -> Subscriptions:
    """Return the id and the events of every active webhook."""
    return [(webhook_id, events) for webhook_id, events in conn.execute(_ACTIVE)]


_ACTIVE = sa.select(webhooks.c.id, webhooks.c.events).where(webhooks.c.ended_at.is_(None))


def subscriptions_exist() -> sa.Exists:
    """Return the condition that there is an active webhook, as a column for a query that runs anyway."""
    return sa.exists().where(webhooks.c.ended_at.is_(None))


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and not parts.password
    except ValueError:
        return False


def _webhook_from_row(row) -> Webhook:
    events = tuple(Event(e) for e in row["events"])
    return Webhook(row["id"], row["url"], row["secret"], events, row["created_at"], row["ended_at"])
