"""The webhooks: which address wants which events, and the secret its deliveries are signed with."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import deliveries, webhooks
from rlhf_hitl.types import Event, utc_now
from rlhf_hitl.visible import find_invisible

#: Webhook ids, each with the events it wants.
Subscriptions = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Webhook:
    """An address and the events that are sent to it, signed.

    `secret` is what signs them; None but in what made it, for the store keeps it sealed. `can_be_signed` is false where
    the key that sealed it is not here.
    """

    id: str
    url: str
    events: tuple[Event, ...]
    created_at: datetime
    ended_at: datetime | None
    can_be_signed: bool = True
    secret: str | None = field(default=None, repr=False)


def add_webhook(store: Store, url: str, events: Iterable[Event], *, by: audit.Actor = audit.CLI) -> Webhook:
    """Subscribe an address to events from now on. The secret that signs them is made here.

    Raises:
        BadInput: the URL is no http(s) address or holds a password or what cannot be seen, there is no event, or the
            key that seals the secrets of the other webhooks is not here.
    """
    if not _is_usable(url):
        raise BadInput(f"url {url!r}", expected="an http(s) address without a password", fix="correct the address")
    event_names = sorted({Event(e).value for e in events})
    if not event_names:
        raise BadInput("events []", expected="at least one of " + ", ".join(Event), fix="say what to send")
    for other in list_webhooks(store):
        if other.ended_at is None and not other.can_be_signed:
            raise BadInput(
                f"webhook {other.id}, whose secret another key sealed",
                expected=f"one key for all webhooks; {store.sealer.describe_key()}",
                fix="copy the key file from the other server, or run `rlhf-hitl webhooks renew` or `end` with that id",
            )
    secret = _make_secret()
    row = {
        "id": f"w_{uuid.uuid4().hex[:24]}",
        "url": url,
        "secret": store.sealer.seal(secret),
        "events": event_names,
        "created_at": utc_now(),
        "ended_at": None,
    }
    with store.write() as conn:
        conn.execute(webhooks.insert().values(row))
        audit.record(conn, by, "webhook.added", row["id"], host=urlsplit(url).hostname, events=event_names)
    return _webhook_from_row(store, row, secret)


def renew_webhook_secret(store: Store, webhook_id: str, *, by: audit.Actor = audit.CLI) -> Webhook:
    """Give a webhook a new secret, which signs every delivery from now on, also those that wait.

    Raises:
        NotFound: no such webhook, or it has ended.
    """
    secret = _make_secret()
    sealed = store.sealer.seal(secret)
    with store.write() as conn:
        active = sa.and_(webhooks.c.id == webhook_id, webhooks.c.ended_at.is_(None))
        if not conn.execute(webhooks.update().where(active).values(secret=sealed)).rowcount:
            raise _make_not_on_error(webhook_id)
        audit.record(conn, by, "webhook.renewed", webhook_id)
        row = conn.execute(sa.select(webhooks).where(active)).mappings().one()
    return _webhook_from_row(store, row, secret)


def list_webhooks(store: Store) -> list[Webhook]:
    """Return all webhooks, ended ones too, oldest first."""
    query = sa.select(webhooks).order_by(webhooks.c.created_at)
    with store.read() as conn:
        return [_webhook_from_row(store, row) for row in conn.execute(query).mappings()]


def end_webhook(store: Store, webhook_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """End a webhook: it receives nothing more, not even the deliveries that still wait.

    Raises:
        NotFound: no such webhook, or it has ended before.
    """
    with store.write() as conn:
        active = webhooks.update().where(webhooks.c.id == webhook_id, webhooks.c.ended_at.is_(None))
        if not conn.execute(active.values(ended_at=utc_now())).rowcount:
            raise _make_not_on_error(webhook_id)
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


def _make_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _make_not_on_error(webhook_id: str) -> NotFound:
    return NotFound(f"webhook {webhook_id!r}", expected="one that is on", fix="see `rlhf-hitl webhooks list`")


def _is_usable(url: str) -> bool:
    if find_invisible(url) is not None:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and not parts.password
    except ValueError:
        return False


def _webhook_from_row(store: Store, row: Any, secret: str | None = None) -> Webhook:
    events = tuple(Event(e) for e in row["events"])
    can_be_signed = store.sealer.can_unseal(row["secret"])
    return Webhook(row["id"], row["url"], events, row["created_at"], row["ended_at"], can_be_signed, secret)
