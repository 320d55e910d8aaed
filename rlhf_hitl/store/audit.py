"""The audit log: who did what, when and from where.

An entry is written in the transaction of the change it records, and is never changed or deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import audit
from rlhf_hitl.types import utc_now


@dataclass(frozen=True)
class Actor:
    """Who does something: `id` is a rater's or "cli"; `address` is their network address, "" where it is unknown."""

    id: str
    address: str = ""


#: Somebody with a shell on the machine.
CLI = Actor("cli")


@dataclass(frozen=True)
class AuditEntry:
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    details: dict[str, Any]


def record(conn: Connection, by: Actor, action: str, subject: str, **details: Any) -> None:
    """Record that somebody did something to something. Never pass passwords, secrets or texts of completions."""
    row = {"at": utc_now(), "actor": by.id[:80], "action": action, "subject": subject[:200], "details": details}
    conn.execute(audit.insert().values(row | {"address": by.address[:80]}))


def list_entries(
    store: Store, *, after: int = 0, limit: int = 100, actions: Sequence[str] | None = None, newest_first: bool = False
) -> list[AuditEntry]:
    """Return up to `limit` entries in the order they were written, or newest first.

    Args:
        after: only entries whose `seq` is higher.
        actions: only entries of these actions; None for all.
    """
    query = sa.select(audit).where(audit.c.seq > after).limit(limit)
    query = query.order_by(audit.c.seq.desc() if newest_first else audit.c.seq)
    if actions is not None:
        query = query.where(audit.c.action.in_(actions))
    with store.read() as conn:
        return [AuditEntry(**row) for row in conn.execute(query).mappings()]


def list_times(
    conn: Connection, action: str, since: datetime, *, subject: str | None = None, address: str | None = None
) -> list[datetime]:
    """Return when an action was done after `since`, oldest first: to one subject and from one address, where given."""
    query = sa.select(audit.c.at).where(audit.c.action == action, audit.c.at > since).order_by(audit.c.at)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if address is not None:
        query = query.where(audit.c.address == address)
    return list(conn.execute(query).scalars())
