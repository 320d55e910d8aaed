"""Decisions of leads: who may give one, what is one, and that a comparison sent to them waits until there is one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.beliefs import DECISIONS
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.queue.places import LEAD, is_free, open_place_for_lead
from rlhf_hitl.store.tables import judgments, places
from rlhf_hitl.types import Role


def may_decide(rater: Any) -> bool:
    """Return whether somebody, given as their row of `raters` (None: disabled), is a lead or an admin now."""
    return rater is not None and rater.role in (Role.LEAD.value, Role.ADMIN.value)


def is_decision(decision: sa.FromClause = judgments) -> sa.ColumnElement[bool]:
    """Return the condition that a judgment decides its comparison: a lead's newest word on it, which ranks."""
    newer = judgments.alias()
    return sa.and_(
        decision.c.role == LEAD,
        decision.c.surplus.is_(sa.false()),
        decision.c.verdict.in_([verdict.value for verdict in DECISIONS]),
        ~sa.exists().where(newer.c.supersedes == decision.c.id),
    )


def has_decision(conn: Connection, comparison_id: str, *, besides: str | None = None) -> bool:
    """Return whether a comparison is decided, by another judgment than that with the id `besides`."""
    query = sa.select(judgments.c.id).where(judgments.c.comparison_id == comparison_id, is_decision())
    return conn.execute(query.where(judgments.c.id != (besides or "")).limit(1)).first() is not None


def ask_until_decided(store: Store, conn: Connection, new: Mapping[str, Any], now: datetime) -> None:
    """Have another lead asked where none has decided; take the question back, unless held, where one has by now.

    The comparison is locked. A skip or a flag says that this lead does not decide.

    Args:
        new: the row of a lead's judgment that is not in the store yet, but whose place is filled.
    """
    comparison_id = new["comparison_id"]
    waiting = (places.c.comparison_id == comparison_id, places.c.role == LEAD, places.c.judgment_id.is_(None))
    if new["verdict"] in DECISIONS or has_decision(conn, comparison_id, besides=new.get("supersedes")):
        conn.execute(places.delete().where(*waiting, is_free()), {"now": now})
    elif conn.execute(sa.select(places.c.n).where(*waiting)).first() is None:
        open_place_for_lead(store, conn, comparison_id)
