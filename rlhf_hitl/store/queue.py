"""The queue: a rater leases a place, looks, and submits. One comparison never gets more judgments than it wants."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import assignment, audit, guidelines, webhooks
from rlhf_hitl.store.assignment import ANY_TASK, Place, TaskFilter, is_free
from rlhf_hitl.store.comparisons import compute_shuffle_key, load_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import (
    IS_FIRST,
    append_judgment,
    find_repeat,
    find_repeated_correction,
    has_judged_before,
    judgment_row,
    new_judgment_id,
)
from rlhf_hitl.store.tables import (
    Utc,
    comparisons,
    judgments,
    lanes,
    leases,
    places,
    projects,
    raters,
    routings,
)
from rlhf_hitl.types import Answer, Comparison, Event, LaneState, Lease, Receipt, Route, utc_now


def lease(
    store: Store,
    rater_id: str,
    *,
    seconds: float = 1800,
    wish: TaskFilter = ANY_TASK,
    now: datetime | None = None,
) -> Lease | None:
    """The next comparison for a rater, or the one they already hold; None when nothing is left for them."""
    return next(iter(lease_many(store, rater_id, 1, seconds=seconds, wish=wish, now=now)), None)


def lease_many(
    store: Store,
    rater_id: str,
    count: int,
    *,
    seconds: float = 1800,
    wish: TaskFilter = ANY_TASK,
    now: datetime | None = None,
    chance: Callable[[], float] = random.random,
) -> list[Lease]:
    """Up to `count` comparisons for a rater: those they hold, oldest first, then the next ones in line.

    The order of the completions turns by one from place to place of a comparison and starts at random, so that across
    raters each completion stands equally often in each position. A hidden repeat is shown the other way round.

    Args:
        seconds: how long new ones are held.
        chance: a number in [0, 1), which decides whether a hidden repeat comes next.

    Raises:
        NotFound: no such rater, or one who is disabled.
    """
    candidates = assignment.tagged(store, rater_id, wish, now) if wish.tags else None
    with store.write() as conn:
        rater, clock = _lock_rater(store, conn, rater_id)
        if rater is None:
            raise NotFound(f"rater {rater_id!r}", expected="one who may rate", fix="see `rlhf-hitl raters list`")
        now = now or clock
        out = _held(conn, rater_id, now)[:count]
        until = now + timedelta(seconds=seconds)
        while len(out) < count and assignment.may_have_more(conn, rater, len(out), now):
            place = assignment.next_place(store, conn, rater, wish, candidates, now, chance)
            if place is None:
                break
            out.append(_hold(conn, rater_id, place, now, until))
        return out


def _hold(conn: Connection, rater_id: str, place: Place, now: datetime, until: datetime) -> Lease:
    comparison = load_comparisons(conn, [place.comparison_id])[place.comparison_id]
    row = {
        "id": f"l_{uuid.uuid4().hex}",
        "comparison_id": comparison.id,
        "rater_id": rater_id,
        "place": place.n,
        "order_shown": _order(conn, comparison, place.n, rater_id),
        "route": comparison.route.value,
        "leased_at": now,
        "expires_at": until,
    }
    version = conn.execute(_NEW_LEASE, row | {"of": comparison.id, "project": comparison.project}).scalar_one()
    held = {"of": place.comparison_id, "at": place.n, "rater_id": rater_id, "lease_id": row["id"]}
    conn.execute(_HOLD_PLACE, held | {"leased_until": until})
    return Lease(row["id"], comparison, rater_id, tuple(row["order_shown"]), until, version)


# Statements of the busy path are built once: SQLAlchemy takes longer to build one than the database to run it.
_THIS_PLACE = (places.c.comparison_id == sa.bindparam("of"), places.c.n == sa.bindparam("at"))
_HOLD_PLACE = places.update().where(*_THIS_PLACE)
_NEW_LEASE = (
    leases.insert()
    .values(
        reward_model_id=sa.select(routings.c.reward_model_id)
        .where(routings.c.comparison_id == sa.bindparam("of"))
        .order_by(routings.c.seq.desc())
        .limit(1)
        .scalar_subquery(),
        guideline_version=guidelines.current_version_column(sa.bindparam("project")),
    )
    .returning(leases.c.guideline_version)
)


def _order(conn: Connection, comparison: Comparison, n: int, rater_id: str) -> list[str]:
    if comparison.repeat_of is not None:
        first = sa.select(judgments.c.order_shown).where(
            judgments.c.comparison_id == comparison.repeat_of,
            judgments.c.rater_id == rater_id,
            IS_FIRST,
        )
        return conn.execute(first).scalar_one()[::-1]
    ids = [c.id for c in comparison.completions]
    turn = (compute_shuffle_key(comparison.id) + n) % len(ids)
    return ids[turn:] + ids[:turn]


def submit(
    store: Store,
    lease_id: str,
    rater_id: str,
    answer: Answer | Callable[[tuple[str, ...]], Answer],
    *,
    idempotency_key: str | None = None,
    guideline_version: str = "",
    interface_version: str = "",
    simulated: bool = False,
    now: datetime | None = None,
) -> Receipt:
    """Keep a rater's answer. When this returns, it is on disk.

    A submit with a known key changes nothing and says `repeated`. After the lease ran out, the answer takes a place
    that is still free, or is kept as `surplus`.

    Args:
        answer: it, or what makes it of the ids in the order they were shown.
        guideline_version: where it is another than was in force when the lease was given.

    Raises:
        NotFound: no such lease.
        Conflict: the lease is another rater's, this rater has judged the comparison under another key, or has used
            the key for another comparison.
        BadInput: it names a completion that was not shown, a score is none, or what the guideline requires is missing.
    """
    key = idempotency_key or lease_id
    with store.write() as conn:
        _, clock = _lock_rater(store, conn, rater_id)
        shown = {"lease": lease_id, "rater": rater_id, "key": key}
        held = conn.execute(_LEASED_AND_LOCKED, shown).mappings().first()
        if held is None:
            raise NotFound(f"lease {lease_id!r}", expected="a lease this store gave", fix="ask for the next comparison")
        if held["rater_id"] != rater_id:
            raise Conflict(f"lease {lease_id}: it is another rater's. Fix: sign in as the one it was given to")
        if callable(answer):
            answer = answer(tuple(held["order_shown"]))
        answer.check(held["order_shown"])
        if held["requires"] and not simulated:  # who is simulated has no reasons
            guidelines.check_answer(conn, held["comparison_id"], held["guideline_version"], answer, held["order_shown"])
        if held["before"]:
            known = find_repeat(conn, rater_id, key, held["comparison_id"], answer)
            if known is not None:
                return Receipt(known, "repeated")
        now = now or clock
        id = new_judgment_id()
        filled = _fill_place(conn, held, lease_id, id, now)
        row = judgment_row(
            answer,
            id=id,
            comparison_id=held["comparison_id"],
            rater_id=rater_id,
            lease_id=lease_id,
            order_shown=held["order_shown"],
            route=held["route"],
            reward_model_id=held["reward_model_id"],
            guideline_version=guideline_version or held["guideline_version"],
            interface_version=interface_version,
            simulated=simulated,
            surplus=not filled,
            idempotency_key=key,
            created_at=now,
        )
        append_judgment(conn, row)
        if held["told"]:
            _tell(conn, row)
        return Receipt(id, "counted" if filled else "surplus")


# What a rater said before is seen as it is: their row is locked already, so they say nothing else meanwhile.
_LEASED_AND_LOCKED = (
    sa.select(
        *(leases.c[name] for name in ("comparison_id", "rater_id", "order_shown", "route", "reward_model_id")),
        leases.c.guideline_version,
        guidelines.requires_something(leases.c.guideline_version).label("requires"),
        has_judged_before(leases.c.comparison_id).label("before"),
        webhooks.subscriptions_exist().label("told"),
    )
    .join(comparisons, comparisons.c.id == leases.c.comparison_id)
    .where(leases.c.id == sa.bindparam("lease"))
    .with_for_update(key_share=True, of=comparisons)
)


def correct(store: Store, judgment_id: str, rater_id: str, answer: Answer, *, idempotency_key: str) -> Receipt:
    """Supersede a judgment of one's own. The first stays in the store; only the newest counts.

    Raises:
        NotFound: no such judgment of this rater.
        Conflict: it has been superseded already, or the key was used for another comparison.
        BadInput: as for `submit`.
    """
    with store.write() as conn:
        old = (
            conn.execute(sa.select(judgments).where(judgments.c.id == judgment_id, judgments.c.rater_id == rater_id))
            .mappings()
            .first()
        )
        if old is None:
            raise NotFound(f"judgment {judgment_id!r}", expected="one of your own", fix="pick it from your history")
        _lock_rater(store, conn, rater_id)
        _lock_comparison(conn, old["comparison_id"])
        answer.check(old["order_shown"])
        if not old["simulated"]:
            guidelines.check_answer(conn, old["comparison_id"], old["guideline_version"], answer, old["order_shown"])
        known = find_repeated_correction(conn, rater_id, idempotency_key, old["comparison_id"], answer, judgment_id)
        if known is not None:
            return Receipt(known, "repeated")
        if conn.execute(sa.select(judgments.c.id).where(judgments.c.supersedes == judgment_id)).first():
            raise Conflict(f"judgment {judgment_id}: it was corrected before. Fix: correct the newest one")
        same = ("comparison_id", "rater_id", "lease_id", "order_shown", "route", "reward_model_id", "simulated")
        versions = ("guideline_version", "interface_version", "surplus")
        row = judgment_row(
            answer,
            **{k: old[k] for k in same + versions},
            supersedes=judgment_id,
            idempotency_key=idempotency_key,
            created_at=utc_now(),
        )
        append_judgment(conn, row)
        _tell(conn, row)
        return Receipt(row["id"], "counted" if not old["surplus"] else "surplus")


def renew(
    store: Store, lease_id: str, rater_id: str, *, seconds: float = 1800, now: datetime | None = None
) -> datetime:
    """Hold a comparison for `seconds` from now; returns until when. One that ran out is had again if it is still free.

    Raises:
        NotFound: no such lease of this rater.
        Conflict: it was answered or given back, or it ran out and went to somebody else.
    """
    with store.write() as conn:
        held = sa.select(leases.c.comparison_id, leases.c.place).where(
            leases.c.id == lease_id, leases.c.rater_id == rater_id
        )
        row = conn.execute(held).first()
        if row is None:
            raise NotFound(f"lease {lease_id!r}", expected="one of your own", fix="ask for the next comparison")
        until = (now or store.now(conn)) + timedelta(seconds=seconds)
        place = (places.c.comparison_id == row.comparison_id, places.c.n == row.place)
        still = (places.c.lease_id == lease_id, places.c.judgment_id.is_(None))
        if not conn.execute(places.update().where(*place, *still).values(leased_until=until)).rowcount:
            raise Conflict(f"lease {lease_id}: it is over. Fix: ask for the next comparison")
        conn.execute(leases.update().where(leases.c.id == lease_id).values(expires_at=until))
        return until


def renew_held(store: Store, rater_id: str, *, seconds: float = 1800, now: datetime | None = None) -> list[str]:
    """Hold all that a rater holds for `seconds` from now; returns the leases' ids.

    What ran out is not had again: see `renew`.
    """
    with store.write() as conn:
        _, clock = _lock_rater(store, conn, rater_id)
        now = now or clock
        # The comparisons in order of id, as the router takes them: neither then waits for the other.
        held = (places.c.rater_id == rater_id, places.c.judgment_id.is_(None), places.c.leased_until > now)
        line = sa.select(comparisons.c.id).join(places).where(*held).order_by(comparisons.c.id)
        conn.execute(line.with_for_update(key_share=True, of=comparisons))
        until = now + timedelta(seconds=seconds)
        renewed = places.update().where(*held).values(leased_until=until).returning(places.c.lease_id)
        ids = list(conn.execute(renewed).scalars())
        conn.execute(leases.update().where(leases.c.id.in_(ids)).values(expires_at=until))
        return ids


def release(store: Store, lease_id: str, rater_id: str) -> None:
    """Give a comparison back unjudged. Releasing what is no longer held does nothing.

    Raises:
        NotFound: no such lease of this rater.
    """
    with store.write() as conn:
        _release(conn, lease_id, rater_id)


def expire(store: Store, lease_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """A lead takes a comparison back from whoever holds it. An answer that still comes is kept like any late one.

    Raises:
        NotFound: no such lease.
    """
    with store.write() as conn:
        _release(conn, lease_id, None)
        audit.record(conn, by, "lease.expired", lease_id)


def _release(conn: Connection, lease_id: str, rater_id: str | None) -> None:
    held = sa.select(leases.c.comparison_id, leases.c.place, leases.c.rater_id).where(leases.c.id == lease_id)
    row = conn.execute(held).first()
    if row is None or rater_id not in (None, row.rater_id):
        raise NotFound(f"lease {lease_id!r}", expected="a lease this store gave", fix="ask for the next comparison")
    place = (places.c.comparison_id == row.comparison_id, places.c.n == row.place)
    still = (places.c.lease_id == lease_id, places.c.judgment_id.is_(None))
    conn.execute(places.update().where(*place, *still).values(rater_id=None, lease_id=None, leased_until=None))


def state(store: Store, now: datetime | None = None) -> dict[str, int]:
    """How the queue stands: places `filled`, `leased` and `free` (a rater may have it now)."""
    out = {"filled": 0, "leased": 0, "free": 0}
    for lane in by_lane(store, now):
        out = {k: n + getattr(lane, k) for k, n in out.items()}
    return out


def by_lane(store: Store, now: datetime | None = None) -> list[LaneState]:
    """How the queue stands, lane by lane. Reads every place: some tenths of a second for a million."""
    with store.read() as conn:
        now = now or store.now(conn)
        filled = places.c.judgment_id.is_not(None)
        leased = sa.and_(~filled, places.c.leased_until > now)
        free = sa.and_(~filled, is_free(), comparisons.c.route != Route.AUTO.value, places.c.reserved_for.is_(None))
        columns = {"filled": filled, "leased": leased, "free": free}
        query = (
            sa.select(
                lanes.c.project_id.label("project"),
                lanes.c.language,
                lanes.c.batch,
                projects.c.paused_at.is_not(None).label("paused"),
                *(sa.func.count(sa.case((is_so, 1))).label(name) for name, is_so in columns.items()),
            )
            .select_from(
                places.join(comparisons, comparisons.c.id == places.c.comparison_id)
                .join(lanes, lanes.c.id == places.c.lane_id)
                .join(projects, projects.c.id == lanes.c.project_id)
            )
            .group_by(lanes.c.id, projects.c.id)
            .order_by(lanes.c.project_id, lanes.c.batch, lanes.c.language)
        )
        return [
            LaneState(row.project, row.language, row.batch, bool(row.paused), row.filled, row.leased, row.free)
            for row in conn.execute(query, {"now": now})
        ]


def _held(conn: Connection, rater_id: str, now: datetime) -> list[Lease]:
    """What a rater holds, oldest first."""
    rows = conn.execute(_HELD, {"rater": rater_id, "now": now}).mappings().all()
    if not rows:
        return []
    held = load_comparisons(conn, [r["comparison_id"] for r in rows])
    return [lease_from(row, held[row["comparison_id"]]) for row in rows]


def lease_from(row, comparison: Comparison) -> Lease:
    """A lease from its row."""
    shown, version = tuple(row["order_shown"]), row["guideline_version"]
    return Lease(row["id"], comparison, row["rater_id"], shown, row["expires_at"], version)


_LEASE = ("id", "comparison_id", "rater_id", "order_shown", "expires_at", "guideline_version")
_HELD = (
    sa.select(*(leases.c[name] for name in _LEASE))
    .join(places, places.c.lease_id == leases.c.id)
    .where(
        places.c.rater_id == sa.bindparam("rater"),
        places.c.judgment_id.is_(None),
        places.c.leased_until > sa.bindparam("now", type_=Utc),
    )
    .order_by(leases.c.leased_at, places.c.position)
)


def _fill_place(conn: Connection, held, lease_id: str, judgment_id: str, now: datetime) -> bool:
    """Fill a place the rater holds (under this lease or a later one), else a free one. False where there is none."""
    which = {"of": held["comparison_id"], "rater": held["rater_id"], "now": now}
    filled = {"judgment_id": judgment_id, "rater_id": held["rater_id"], "lease_id": lease_id, "leased_until": None}
    return conn.execute(_FILL_PLACE, which | filled).rowcount > 0


_HELD_BY_THEM = places.c.rater_id == sa.bindparam("rater")
_PLACE_FOR = (
    sa.select(places.c.n)
    .where(
        places.c.comparison_id == sa.bindparam("of"),
        places.c.judgment_id.is_(None),
        sa.or_(_HELD_BY_THEM, is_free()),
        sa.or_(places.c.reserved_for.is_(None), places.c.reserved_for == sa.bindparam("rater")),
    )
    .order_by(sa.case((_HELD_BY_THEM, 0), else_=1), places.c.n)
    .limit(1)
    .with_for_update()
)
_FILL_PLACE = places.update().where(
    places.c.comparison_id == sa.bindparam("of"), places.c.n == _PLACE_FOR.correlate(None).scalar_subquery()
)


# Locks are taken in this order: rater, comparison, place, judgments. SQLite's write lock covers them all; there FOR
# UPDATE is left out. The NO KEY form does not stop others from inserting rows that refer to the locked one.


def _lock_rater(store: Store, conn: Connection, rater_id: str) -> tuple[Any, datetime]:
    """One lease or submit of a rater at a time. Their row (None: there is none, or they are disabled), and the time."""
    row = conn.execute(_rater_and_clock(store.is_sqlite), {"rater": rater_id}).first()
    if row is None:
        return None, store.now(conn)
    now = utc_now() if row.clock is None else row.clock.astimezone(UTC)
    return (row if row.disabled_at is None else None), now


@cache
def _rater_and_clock(sqlite: bool) -> sa.Select:
    clock = sa.null() if sqlite else sa.func.clock_timestamp()
    of = raters.c.id == sa.bindparam("rater")
    needed = (raters.c.id, raters.c.languages, raters.c.quota, raters.c.paused_at, raters.c.disabled_at)
    return sa.select(*needed, clock.label("clock")).where(of).with_for_update(key_share=True)


def _lock_comparison(conn: Connection, comparison_id: str) -> None:
    query = sa.select(comparisons.c.id).where(comparisons.c.id == comparison_id)
    conn.execute(query.with_for_update(key_share=True))


def _tell(conn: Connection, row: dict) -> None:
    """Tell other programs of a judgment, and of its comparison where it was the last one wanted."""
    hooks = webhooks.list_subscriptions(conn)
    if not hooks:
        return
    which = {"comparison_id": row["comparison_id"], "judgment_id": row["id"]}
    told = which | {k: row[k] for k in ("rater_id", "verdict", "surplus", "supersedes", "simulated")}
    webhooks.enqueue_event(conn, Event.JUDGMENT_CREATED, told, hooks)
    if row["surplus"] or row["supersedes"]:
        return
    open_ = sa.select(places.c.n).where(places.c.comparison_id == row["comparison_id"], places.c.judgment_id.is_(None))
    if conn.execute(open_.limit(1)).first() is None:
        webhooks.enqueue_event(
            conn, Event.COMPARISON_RESOLVED, {"comparison_id": row["comparison_id"], "by": "raters"}, hooks
        )
