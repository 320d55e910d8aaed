"""Who did what, when and from where. Written in the transaction of what was done; never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import audit
from rlhf_hitl.types import utc_now


@dataclass(frozen=True)
class Actor:
    """Who asks: `id` of a rater, or "cli"; `address` where they came from, as far as it is known."""

    id: str
    address: str = ""


#: Somebody with a shell on the machine.
CLI = Actor("cli")


@dataclass(frozen=True)
class Entry:
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    details: dict[str, Any]


def record(conn: Connection, by: Actor, action: str, subject: str, **details: Any) -> None:
    """Write down that somebody did something to something. Never passwords, secrets or texts of completions."""
    row = {"at": utc_now(), "actor": by.id[:80], "action": action, "subject": subject[:200], "details": details}
    conn.execute(audit.insert().values(row | {"address": by.address[:80]}))


def entries(
    store: Store, *, after: int = 0, limit: int = 100, actions: Sequence[str] | None = None, newest_first: bool = False
) -> list[Entry]:
    """Up to `limit` entries whose number is above `after`, in the order they were written (or the other way round)."""
    query = sa.select(audit).where(audit.c.seq > after).limit(limit)
    query = query.order_by(audit.c.seq.desc() if newest_first else audit.c.seq)
    if actions is not None:
        query = query.where(audit.c.action.in_(actions))
    with store.read() as conn:
        return [Entry(**row) for row in conn.execute(query).mappings()]


def times(conn: Connection, action: str, since: datetime, *, subject: str | None = None, address: str | None = None):
    """When something was done since a time, oldest first."""
    query = sa.select(audit.c.at).where(audit.c.action == action, audit.c.at > since).order_by(audit.c.at)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if address is not None:
        query = query.where(audit.c.address == address)
    return list(conn.execute(query).scalars())
