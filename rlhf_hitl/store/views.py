"""What the pages read: a rater's own desk, and the rows a lead looks over. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import catalog, history, offer, queue
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.history import IS_FIRST
from rlhf_hitl.store.tables import comparisons, judgments, leases, places, routings, scores
from rlhf_hitl.types import Comparison, Judgment, Lease, Route, Score, utc_now


@dataclass(frozen=True)
class Tally:
    """A rater's progress: comparisons `done` since a time, and `left` for them, counted up to `cap`."""

    done: int
    left: int
    cap: int


@dataclass(frozen=True)
class Accepted:
    """A comparison that was accepted without a rater, the score it was accepted on, and when."""

    comparison: Comparison
    score: Score | None
    reason: str
    accepted_at: datetime


def lease_of(store: Store, lease_id: str, rater_id: str) -> Lease:
    """A lease this rater was given, whether or not it still runs.

    Raises:
        NotFound: no such lease.
        Conflict: it is another rater's.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(leases).where(leases.c.id == lease_id)).mappings().first()
        if row is None:
            raise NotFound(f"lease {lease_id!r}", expected="a lease this store gave", fix="ask for the next comparison")
        if row["rater_id"] != rater_id:
            raise Conflict(f"lease {lease_id}: it is another rater's. Fix: sign in as the one it was given to")
        comparison = catalog.load(conn, [row["comparison_id"]])[row["comparison_id"]]
    return queue.lease_from(row, comparison)


def judgment(store: Store, judgment_id: str, rater_id: str) -> Judgment:
    """A judgment of this rater's own.

    Raises:
        NotFound: they have none of that id.
    """
    query = sa.select(judgments.c.seq).where(judgments.c.id == judgment_id, judgments.c.rater_id == rater_id)
    with store.read() as conn:
        seq = conn.execute(query).scalar()
    if seq is None:
        raise NotFound(f"judgment {judgment_id!r}", expected="one of your own", fix="pick it from your history")
    return next(history.read(store, rater_id=rater_id, current=False, after=seq - 1))


def newest_judgment(store: Store, rater_id: str) -> tuple[Judgment, Comparison] | None:
    """A rater's last judgment and what it was of; None before their first."""
    return next(iter(past(store, rater_id, 1)), None)


def standing_judgment(store: Store, rater_id: str, judgment_id: str) -> tuple[Judgment, Comparison]:
    """What a rater's judgment has become after corrections, and what it is of.

    Raises:
        NotFound: they have none of that id.
    """
    named = judgments.alias()
    newest = sa.select(sa.func.max(judgments.c.seq)).where(
        judgments.c.rater_id == rater_id,
        judgments.c.comparison_id == named.c.comparison_id,
        named.c.id == judgment_id,
        named.c.rater_id == rater_id,
    )
    with store.read() as conn:
        seq = conn.execute(newest).scalar()
    if seq is None:
        raise NotFound(f"judgment {judgment_id!r}", expected="one of your own", fix="pick it from your history")
    return past(store, rater_id, 1, upto=seq)[0]


def past(store: Store, rater_id: str, limit: int, *, upto: int | None = None) -> list[tuple[Judgment, Comparison]]:
    """A rater's standing judgments and what they were of, newest first; with `upto`, none with a `seq` above it."""
    newer = judgments.alias()
    query = sa.select(judgments).where(
        judgments.c.rater_id == rater_id, ~sa.exists().where(newer.c.supersedes == judgments.c.id)
    )
    if upto is not None:
        query = query.where(judgments.c.seq <= upto)
    with store.read() as conn:
        found = [
            history.from_row(row)
            for row in conn.execute(query.order_by(judgments.c.seq.desc()).limit(limit)).mappings()
        ]
        whole = catalog.load(conn, [j.comparison_id for j in found])
    return [(j, whole[j.comparison_id]) for j in found]


def tally(store: Store, rater_id: str, since: datetime, *, cap: int = 1000, now: datetime | None = None) -> Tally:
    """How much a rater has done since a time and how much is left for them. `left` stops counting at `cap`, so that
    the time this takes does not grow with the queue."""
    now = now or utc_now()
    done = sa.select(sa.func.count()).where(judgments.c.rater_id == rater_id, judgments.c.created_at >= since, IS_FIRST)
    held = sa.select(sa.func.count()).where(
        places.c.rater_id == rater_id, places.c.judgment_id.is_(None), places.c.leased_until > now
    )
    with store.read() as conn:
        left = conn.execute(held).scalar_one() + offer.count_left(conn, rater_id, now, cap)
        return Tally(conn.execute(done).scalar_one(), min(left, cap), cap)


def judgments_by_rater(store: Store) -> dict[str, tuple[int, datetime]]:
    """Rater id → how many comparisons they judged (a correction is no second one) and when they last said something."""
    query = sa.select(
        judgments.c.rater_id,
        sa.func.count(sa.case((IS_FIRST, 1))),
        sa.type_coerce(sa.func.max(judgments.c.created_at), judgments.c.created_at.type),
    ).group_by(judgments.c.rater_id)
    with store.read() as conn:
        return {rater: (n, last) for rater, n, last in conn.execute(query)}


def accepted(store: Store, limit: int = 50) -> list[Accepted]:
    """The newest comparisons accepted on a model's score, newest first."""
    newest = (
        sa.select(routings.c.comparison_id, sa.func.max(routings.c.seq).label("seq"))
        .group_by(routings.c.comparison_id)
        .subquery()
    )
    query = (
        sa.select(routings.c.comparison_id, routings.c.reward_model_id, routings.c.reason, routings.c.created_at)
        .join(newest, newest.c.seq == routings.c.seq)
        .join(comparisons, comparisons.c.id == routings.c.comparison_id)
        .where(comparisons.c.route == Route.AUTO.value)
        .order_by(routings.c.seq.desc())
        .limit(limit)
    )
    columns = [c for c in scores.c if c.name != "created_at"]
    with store.read() as conn:
        rows = conn.execute(query).mappings().all()
        ids = [r["comparison_id"] for r in rows]
        loaded = catalog.load(conn, ids)
        said = {
            (s["comparison_id"], s["reward_model_id"]): Score(**s)
            for s in conn.execute(sa.select(*columns).where(scores.c.comparison_id.in_(ids))).mappings()
        }
    return [
        Accepted(
            loaded[r["comparison_id"]],
            said.get((r["comparison_id"], r["reward_model_id"])),
            r["reason"],
            r["created_at"],
        )
        for r in rows
    ]
