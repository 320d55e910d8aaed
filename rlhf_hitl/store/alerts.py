"""Alerts: rules that became true. One stands until its rule is true no more, and is raised once meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, webhooks
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import alerts
from rlhf_hitl.store.tables import Utc
from rlhf_hitl.types import Event

MOST_DAYS = 365


@dataclass(frozen=True)
class NewAlert:
    """What a rule found: `subject` is what it is about, such as a project or a rater's name; empty: everything."""

    rule: str
    subject: str
    message: str
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Alert:
    """An alert that was raised.

    Attributes:
        cleared_at: when its rule was true no more; None while it stands.
        silenced_until: until then nobody is told where its rule becomes true of its subject again.
    """

    seq: int
    rule: str
    subject: str
    message: str
    figures: Mapping[str, Any]
    raised_at: datetime
    cleared_at: datetime | None
    seen_by: str | None
    seen_at: datetime | None
    silenced_by: str | None
    silenced_until: datetime | None


def update_alerts(store: Store, found: Sequence[NewAlert], looked_at: Collection[str]) -> list[Alert]:
    """Raise what is found and does not stand yet, clear what stands and is not found, and return what is new to tell.

    Any number of processes may do it: each alert is raised and told once. The message of one that stands stays that of
    the moment when it was raised.

    Args:
        looked_at: the rules that were looked at; alerts of others stand as they are.
    """
    keys = {(a.rule, a.subject): a for a in found}
    told = []
    with store.write() as conn:
        store.lock(conn, "alerts")
        now = store.now(conn)
        standing = {(row.rule, row.subject): row for row in conn.execute(_STANDING)}
        ended = [row.seq for key, row in standing.items() if key not in keys and row.rule in looked_at]
        if ended:
            conn.execute(alerts.update().where(alerts.c.seq.in_(ended)).values(cleared_at=now))
        for key, new in keys.items():
            if key in standing:
                continue
            silence = conn.execute(_SILENCE, {"rule": new.rule, "subject": new.subject}).first()
            row: dict[str, Any] = {"rule": new.rule, "subject": new.subject, "message": new.message}
            row |= {"figures": dict(new.figures), "raised_at": now}
            if silence is not None and silence.silenced_until > now:
                row |= {"silenced_by": silence.silenced_by, "silenced_until": silence.silenced_until}
            inserted = conn.execute(alerts.insert().values(row).returning(alerts)).mappings().one()
            if "silenced_until" not in row:
                data = {"alert": new.rule, "subject": new.subject, "seq": inserted["seq"]}
                webhooks.enqueue_event(conn, Event.ALERT_RAISED, data)
                told.append(_to_alert(inserted))
    return told


_STANDING = sa.select(alerts.c.seq, alerts.c.rule, alerts.c.subject).where(alerts.c.cleared_at.is_(None))
_SILENCE = (
    sa.select(alerts.c.silenced_by, alerts.c.silenced_until)
    .where(alerts.c.rule == sa.bindparam("rule"), alerts.c.subject == sa.bindparam("subject"))
    .where(alerts.c.silenced_until.is_not(None))
    .order_by(alerts.c.seq.desc())
    .limit(1)
)


def list_alerts(store: Store, *, standing: bool = True, limit: int = 100) -> list[Alert]:
    """Return alerts, newest first: those that stand, or with `standing` False also those of the past."""
    query = sa.select(alerts).order_by(alerts.c.seq.desc()).limit(limit)
    if standing:
        query = query.where(alerts.c.cleared_at.is_(None))
    with store.read() as conn:
        return [_to_alert(row) for row in conn.execute(query).mappings()]


def see_alert(store: Store, seq: int, *, by: audit.Actor = audit.CLI) -> Alert:
    """Note that a lead has seen an alert; who was first stays.

    Raises:
        NotFound: there is no such alert.
    """
    with store.write() as conn:
        alert = _require(conn, seq)
        if alert.seen_at is None:
            values = {"seen_by": by.id[:80], "seen_at": store.now(conn)}
            conn.execute(alerts.update().where(alerts.c.seq == seq).values(values))
            audit.record(conn, by, "alert.seen", str(seq), rule=alert.rule, of=alert.subject)
        return _require(conn, seq)


def silence_alert(store: Store, seq: int, days: float, *, by: audit.Actor = audit.CLI) -> Alert:
    """Tell nobody of this rule and subject for some days, though it become true again. What stands is still listed.

    Raises:
        NotFound: there is no such alert.
        BadInput: `days` is not above 0 and up to MOST_DAYS.
    """
    if not 0 < days <= MOST_DAYS:
        raise BadInput(f"days {days:g}", expected=f"above 0, up to {MOST_DAYS}", fix="e.g. 7")
    with store.write() as conn:
        alert = _require(conn, seq)
        now = store.now(conn)
        values = {"silenced_by": by.id[:80], "silenced_until": now + timedelta(days=days)}
        if alert.seen_at is None:
            values |= {"seen_by": by.id[:80], "seen_at": now}
        conn.execute(alerts.update().where(alerts.c.seq == seq).values(values))
        audit.record(conn, by, "alert.silenced", str(seq), rule=alert.rule, of=alert.subject, days=days)
        return _require(conn, seq)


def list_unsent(store: Store) -> list[Alert]:
    """Return the alerts that stand, are not silenced, and were not mailed."""
    with store.read() as conn:
        rows = conn.execute(_UNSENT, {"now": store.now(conn)}).mappings()
        return [_to_alert(row) for row in rows]


_UNSENT = (
    sa.select(alerts)
    .where(
        alerts.c.cleared_at.is_(None),
        alerts.c.emailed_at.is_(None),
        sa.or_(alerts.c.silenced_until.is_(None), alerts.c.silenced_until <= sa.bindparam("now", type_=Utc)),
    )
    .order_by(alerts.c.seq)
)


def claim_email(store: Store, seq: int) -> bool:
    """Return whether the caller is the one to mail an alert: of several processes one does."""
    with store.write() as conn:
        unsent = alerts.update().where(alerts.c.seq == seq, alerts.c.emailed_at.is_(None))
        return conn.execute(unsent.values(emailed_at=store.now(conn))).rowcount == 1


def release_email(store: Store, seq: int) -> None:
    """Take a claim back: the mail could not be sent."""
    with store.write() as conn:
        conn.execute(alerts.update().where(alerts.c.seq == seq).values(emailed_at=None))


def _require(conn: Connection, seq: int) -> Alert:
    row = conn.execute(sa.select(alerts).where(alerts.c.seq == seq)).mappings().first()
    if row is None:
        raise NotFound(f"alert {seq}", expected="the number of an alert", fix="see `rlhf-hitl alerts list`")
    return _to_alert(row)


def _to_alert(row) -> Alert:
    return Alert(**{name: row[name] for name in Alert.__dataclass_fields__})
