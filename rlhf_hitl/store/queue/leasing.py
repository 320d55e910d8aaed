"""Who holds which place: lease the next comparisons, hold them longer, give them back."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import audit, guidelines
from rlhf_hitl.store.comparisons import load_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.queue import assignment
from rlhf_hitl.store.queue.assignment import ANY_TASK, MOST_HELD, TaskFilter
from rlhf_hitl.store.queue.decisions import may_decide
from rlhf_hitl.store.queue.locks import lock_rater
from rlhf_hitl.store.queue.places import LEAD, ROLE, Place, find_working_role
from rlhf_hitl.store.tables import Utc, comparisons, judgments, leases, places, routings
from rlhf_hitl.types import Comparison, Lease
from rlhf_hitl.types.messages import list_images

#: After so long without an answer a lease cannot be renewed any more: others wait for the comparison.
LONGEST_HOLD = timedelta(days=1)


class LeaseOfAnotherRater(Conflict):
    """The lease was given to another rater."""


def lease(
    store: Store,
    rater_id: str,
    *,
    seconds: float,
    task_filter: TaskFilter = ANY_TASK,
    now: datetime | None = None,
) -> Lease | None:
    """Return the comparison a rater holds, else the next one for them; None when nothing is left for them."""
    return next(iter(lease_many(store, rater_id, 1, seconds=seconds, task_filter=task_filter, now=now)), None)


def lease_many(
    store: Store,
    rater_id: str,
    count: int,
    *,
    seconds: float,
    task_filter: TaskFilter = ANY_TASK,
    now: datetime | None = None,
    chance: Callable[[], float] = random.random,
    role: str = "",
) -> list[Lease]:
    """Return up to `count` comparisons for a rater: those they hold, oldest first, then the next ones in line.

    The order of the completions starts at random and rotates by one from place to place of a comparison, so that across
    raters each completion stands equally often in each position. A hidden repeat is shown in the reverse order.

    Args:
        seconds: how long new leases last.
        chance: returns a number in [0, 1), which decides whether a hidden repeat or a gold comes next.
        role: as a rater (empty), as a `judge`, or as a `lead` who decides. The caller knows who may.

    Raises:
        NotFound: no such rater, or one who is disabled.
        BadInput: the filter was chosen by the rater, and no project opens it to raters.
    """
    assignment.check_filter_is_open(store, rater_id, task_filter)
    candidates = assignment.find_tagged(store, rater_id, task_filter, now) if task_filter.tags else None
    with store.write() as conn:
        rater, clock = lock_rater(store, conn, rater_id)
        if rater is None:
            raise NotFound(f"rater {rater_id!r}", expected="one who may rate", fix="see `rlhf-hitl raters list`")
        now = now or clock
        held = _load_running_leases(conn, rater_id, now, role)[:count]
        until = now + timedelta(seconds=seconds)
        while len(held) < count and assignment.may_lease_more(conn, rater, len(held), now):
            place = assignment.find_next_place(store, conn, rater, task_filter, candidates, now, chance, role)
            if place is None:
                break
            # One after another, so that they are listed in this order again.
            leased_at = now + timedelta(microseconds=len(held))
            held.append(_lease_place(store, conn, rater_id, place, leased_at, until))
        return held


def load_lease(store: Store, lease_id: str, rater_id: str) -> Lease:
    """Return a lease that this rater was given, whether or not it still runs.

    Raises:
        NotFound: no such lease.
        LeaseOfAnotherRater: it was given to another rater.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(leases).where(leases.c.id == lease_id)).mappings().first()
        row = check_lease_of(rater_id, lease_id, row)
        comparison = load_comparisons(conn, [row["comparison_id"]])[row["comparison_id"]]
    return _lease_from_row(row, comparison)


def check_lease_of(rater_id: str, lease_id: str, row: RowMapping | None) -> RowMapping:
    """Return the row of a lease, once it is known to be there and to be this rater's.

    Raises:
        NotFound: there is no row.
        LeaseOfAnotherRater: it was given to another rater.
    """
    if row is None:
        raise NotFound(f"lease {lease_id!r}", expected="a lease this store gave", fix="ask for the next comparison")
    if row["rater_id"] != rater_id:
        raise LeaseOfAnotherRater(f"lease {lease_id}: it is another rater's. Fix: sign in as the one it was given to")
    return row


def _lease_place(store: Store, conn: Connection, rater_id: str, place: Place, now: datetime, until: datetime) -> Lease:
    comparison = load_comparisons(conn, [place.comparison_id])[place.comparison_id]
    row = {
        "id": f"l_{uuid.uuid4().hex}",
        "comparison_id": comparison.id,
        "rater_id": rater_id,
        "place": place.n,
        "order_shown": _choose_order(store, conn, comparison, place.n, rater_id),
        "route": comparison.route.value,
        "leased_at": now,
        "expires_at": until,
    }
    parameters = {"comparison": comparison.id, "project": comparison.project}
    version = conn.execute(_INSERT_LEASE, row | parameters).scalar_one()
    holder = {"rater_id": rater_id, "lease_id": row["id"], "leased_until": until}
    conn.execute(_HOLD_PLACE, {"comparison": place.comparison_id, "place_n": place.n} | holder)
    return Lease(row["id"], comparison, rater_id, tuple(row["order_shown"]), until, version)


# Statements of the busy path are built once: SQLAlchemy takes longer to build one than the database to run it.
_HOLD_PLACE = places.update().where(
    places.c.comparison_id == sa.bindparam("comparison"), places.c.n == sa.bindparam("place_n")
)
_INSERT_LEASE = (
    leases.insert()
    .values(
        reward_model_id=sa.select(routings.c.reward_model_id)
        .where(routings.c.comparison_id == sa.bindparam("comparison"))
        .order_by(routings.c.seq.desc())
        .limit(1)
        .scalar_subquery(),
        guideline_version=guidelines.select_current_version(sa.bindparam("project")),
    )
    .returning(leases.c.guideline_version)
)


def _choose_order(store: Store, conn: Connection, comparison: Comparison, n: int, rater_id: str) -> list[str]:
    """Return the ids of a comparison's completions in the order to show at its place number `n`."""
    if comparison.repeat_of is not None:
        first_judgment = sa.select(judgments.c.order_shown).where(
            judgments.c.comparison_id == comparison.repeat_of,
            judgments.c.rater_id == rater_id,
            IS_FIRST,
        )
        return conn.execute(first_judgment).scalar_one()[::-1]
    # All of the order is drawn, and not only where it starts: of three or more, a turned canonical order tells a lot.
    ids = [c.id for c in comparison.completions]
    ids.sort(key=lambda id: store.draw("order", f"{comparison.id}:{id}", 2**60))
    start = n % len(ids)
    return ids[start:] + ids[:start]


def _load_running_leases(conn: Connection, rater_id: str, now: datetime, role: str) -> list[Lease]:
    """Return what a rater holds in a working role, oldest first."""
    held = {"rater": rater_id, "now": now, "working_role": role}
    rows = conn.execute(_RUNNING_LEASES_OF_ROLE, held).mappings().all()
    if not rows:
        return []
    loaded = load_comparisons(conn, [row["comparison_id"] for row in rows])
    return [_lease_from_row(row, loaded[row["comparison_id"]]) for row in rows]


def _lease_from_row(row: RowMapping, comparison: Comparison) -> Lease:
    order_shown, version = tuple(row["order_shown"]), row["guideline_version"]
    return Lease(row["id"], comparison, row["rater_id"], order_shown, row["expires_at"], version)


_LEASE_COLUMNS = ("id", "comparison_id", "rater_id", "order_shown", "expires_at", "guideline_version")
_RUNNING_LEASES = (
    sa.select(*(leases.c[name] for name in _LEASE_COLUMNS))
    .join(places, places.c.lease_id == leases.c.id)
    .where(
        places.c.rater_id == sa.bindparam("rater"),
        places.c.judgment_id.is_(None),
        places.c.leased_until > sa.bindparam("now", type_=Utc),
    )
    .order_by(leases.c.leased_at, leases.c.id)  # not by position, which a hidden repeat has another of
)
_RUNNING_LEASES_OF_ROLE = _RUNNING_LEASES.where(places.c.role == ROLE)


def renew(store: Store, lease_id: str, rater_id: str, *, seconds: float, now: datetime | None = None) -> datetime:
    """Hold a comparison for `seconds` from now. A lease that ran out starts again if nobody else took the place.

    Returns:
        The time at which the lease now runs out.

    Raises:
        NotFound: no such lease of this rater.
        Conflict: it was answered or given back, or it ran out and the place went to another rater; or it ran out, and
            the rater would not be given another one now; or it was given a day ago, or to a lead who is none now.
    """
    with store.write() as conn:
        rater, clock = lock_rater(store, conn, rater_id)
        own_lease = leases.c.id == lease_id, leases.c.rater_id == rater_id
        row = conn.execute(
            sa.select(leases.c.comparison_id, leases.c.place, leases.c.leased_at).where(*own_lease)
        ).first()
        if row is None:
            raise NotFound(f"lease {lease_id!r}", expected="one of your own", fix="ask for the next comparison")
        now = now or clock
        until = min(now + timedelta(seconds=seconds), row.leased_at + LONGEST_HOLD)
        held = _match_held_place(lease_id, row.comparison_id, row.place)
        has_lapsed = conn.execute(sa.select(places.c.n).where(*held, places.c.leased_until <= now)).first() is not None
        role = find_working_role(row.place)
        if role == LEAD and not may_decide(rater):
            raise Conflict(f"lease {lease_id}: only leads decide. Fix: ask for the next comparison to rate")
        if until <= now or (has_lapsed and not _may_hold_again(conn, rater, row.comparison_id, now, role)):
            raise Conflict(f"lease {lease_id}: it is over. Fix: ask for the next comparison")
        if not conn.execute(places.update().where(*held).values(leased_until=until)).rowcount:
            raise Conflict(f"lease {lease_id}: it is over. Fix: ask for the next comparison")
        conn.execute(leases.update().where(leases.c.id == lease_id).values(expires_at=until))
        return until


def _may_hold_again(conn: Connection, rater: Any, comparison_id: str, now: datetime, role: str) -> bool:
    """Return whether a rater may take back a lease that ran out: if they may lease it, and hold few enough."""
    if rater is None:
        return False
    held = conn.execute(_RUNNING_LEASES, {"rater": rater.id, "now": now}).mappings().all()
    judged = sa.select(judgments.c.id).where(
        judgments.c.comparison_id == comparison_id, judgments.c.rater_id == rater.id
    )
    return (
        len(held) < MOST_HELD
        and all(lease["comparison_id"] != comparison_id for lease in held)  # in another of its places
        and conn.execute(judged.limit(1)).first() is None
        and assignment.may_lease_more(conn, rater, len(held), now)
        and assignment.is_open_to(conn, rater, comparison_id, now, role)
    )


def count_running_leases(conn: Connection, rater_id: str, now: datetime) -> int:
    """Return how many comparisons a rater holds."""
    return len(conn.execute(_RUNNING_LEASES, {"rater": rater_id, "now": now}).all())


def renew_all(store: Store, rater_id: str, *, seconds: float, now: datetime | None = None) -> list[str]:
    """Hold everything that a rater holds for `seconds` from now, and return the ids of these leases.

    A lease that ran out stays so; `renew` may start it again. One that was given a day ago runs out.
    """
    with store.write() as conn:
        rater, clock = lock_rater(store, conn, rater_id)
        now = now or clock
        # The comparisons are locked in order of id, as the router locks them, so that neither waits for the other.
        held = (places.c.rater_id == rater_id, places.c.judgment_id.is_(None), places.c.leased_until > now)
        if not may_decide(rater):
            held = (*held, places.c.role != LEAD)
        query = sa.select(comparisons.c.id).join(places).where(*held).order_by(comparisons.c.id)
        conn.execute(query.with_for_update(key_share=True, of=comparisons))
        until = now + timedelta(seconds=seconds)
        leased_at = sa.select(leases.c.leased_at).where(leases.c.id == places.c.lease_id).scalar_subquery()
        held = (*held, leased_at > until - LONGEST_HOLD)
        renewed = places.update().where(*held).values(leased_until=until).returning(places.c.lease_id)
        ids = list(conn.execute(renewed).scalars())
        conn.execute(leases.update().where(leases.c.id.in_(ids)).values(expires_at=until))
        return ids


def holds_image(store: Store, rater_id: str, image_id: str) -> bool:
    """Whether a rater holds a comparison that shows an image."""
    with store.read() as conn:
        now = store.now(conn)
        held = (places.c.rater_id == rater_id, places.c.judgment_id.is_(None), places.c.leased_until > now)
        ids = list(conn.execute(sa.select(places.c.comparison_id).where(*held)).scalars())
        found = load_comparisons(conn, ids).values()
    chats = [c.prompt.messages for c in found] + [a.messages for c in found for a in c.completions]
    return any(image.id == image_id for image in list_images(*chats))


def release(store: Store, lease_id: str, rater_id: str) -> None:
    """Give a comparison back unjudged. Releasing what is no longer held does nothing.

    Raises:
        NotFound: no such lease of this rater.
    """
    with store.write() as conn:
        _release(conn, lease_id, rater_id)


def expire(store: Store, lease_id: str, *, by: audit.Actor = audit.CLI) -> None:
    """Take a comparison back from the rater who holds it, as a lead. A later answer is a late one.

    Raises:
        NotFound: no such lease.
    """
    with store.write() as conn:
        _release(conn, lease_id, None)
        audit.record(conn, by, "lease.expired", lease_id)


def _release(conn: Connection, lease_id: str, rater_id: str | None) -> None:
    """End a lease; with a rater's id, only if it is theirs."""
    query = sa.select(leases.c.comparison_id, leases.c.place, leases.c.rater_id).where(leases.c.id == lease_id)
    row = conn.execute(query).first()
    if row is None or rater_id not in (None, row.rater_id):
        raise NotFound(f"lease {lease_id!r}", expected="a lease this store gave", fix="ask for the next comparison")
    held = _match_held_place(lease_id, row.comparison_id, row.place)
    conn.execute(places.update().where(*held).values(rater_id=None, lease_id=None, leased_until=None))


def _match_held_place(lease_id: str, comparison_id: str, n: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return conditions for a lease's place, if it is unfilled and nobody else has leased it since."""
    the_place = (places.c.comparison_id == comparison_id, places.c.n == n)
    return (*the_place, places.c.lease_id == lease_id, places.c.judgment_id.is_(None))
