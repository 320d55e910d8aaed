"""The queue: a rater leases a place, looks, and submits. One comparison never gets more judgments than it wants."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import catalog
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, judgments, leases, places, prompts, raters, routings
from rlhf_hitl.types import Answer, Judgment, Lease, Receipt, Route, Split, Verdict, utc_now


def lease(store: Store, rater_id: str, *, seconds: float = 1800, now: datetime | None = None) -> Lease | None:
    """The next comparison for a rater, or the one they already hold; None when nothing is left for them.

    The order of the completions turns by one from place to place of a comparison and starts at random, so that across
    raters each completion stands equally often in each position.

    Raises:
        NotFound: no such rater, or one who is disabled.
    """
    now = now or utc_now()
    with store.write() as conn:
        if not _lock_rater(conn, rater_id):
            raise NotFound(f"rater {rater_id!r}", expected="one who may rate", fix="see `rlhf-hitl raters list`")
        held = _held(conn, rater_id, now)
        if held is not None:
            return held
        place = _free_place(conn, rater_id, now)
        if place is None:
            return None
        comparison = catalog.load(conn, [place.comparison_id])[place.comparison_id]
        turn = (catalog.shuffle(comparison.id) + place.n) % len(comparison.completions)
        ids = [c.id for c in comparison.completions]
        newest = sa.select(routings.c.reward_model_id).where(routings.c.comparison_id == comparison.id)
        row = {
            "id": f"l_{uuid.uuid4().hex}",
            "comparison_id": comparison.id,
            "rater_id": rater_id,
            "place": place.n,
            "order_shown": ids[turn:] + ids[:turn],
            "route": comparison.route.value,
            "reward_model_id": conn.execute(newest.order_by(routings.c.seq.desc()).limit(1)).scalar(),
            "leased_at": now,
            "expires_at": now + timedelta(seconds=seconds),
        }
        conn.execute(leases.insert().values(row))
        conn.execute(
            places.update()
            .where(places.c.comparison_id == place.comparison_id, places.c.n == place.n)
            .values(rater_id=rater_id, lease_id=row["id"], leased_until=row["expires_at"])
        )
        return Lease(row["id"], comparison, rater_id, tuple(row["order_shown"]), row["expires_at"])


def submit(
    store: Store,
    lease_id: str,
    rater_id: str,
    answer: Answer,
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

    Raises:
        NotFound: no such lease.
        Conflict: the lease is another rater's, this rater has judged the comparison under another key, or has used
            the key for another comparison.
        BadInput: the ranking names a completion that was not shown.
    """
    key = idempotency_key or lease_id
    now = now or utc_now()
    with store.write() as conn:
        held = conn.execute(sa.select(leases).where(leases.c.id == lease_id)).mappings().first()
        if held is None:
            raise NotFound(f"lease {lease_id!r}", expected="a lease this store gave", fix="ask for the next comparison")
        if held["rater_id"] != rater_id:
            raise Conflict(f"lease {lease_id}: it is another rater's. Fix: sign in as the one it was given to")
        _lock_rater(conn, rater_id)
        _lock_comparison(conn, held["comparison_id"])
        known = _by_key(conn, rater_id, key, held["comparison_id"])
        if known is not None:
            return Receipt(known, "repeated")
        _check_ranking(answer, held["order_shown"])
        judged = sa.select(judgments.c.id).where(
            judgments.c.comparison_id == held["comparison_id"], judgments.c.rater_id == rater_id
        )
        if conn.execute(judged.limit(1)).first():
            raise Conflict(
                f"comparison {held['comparison_id']}: you have judged it. Fix: correct that judgment instead"
            )
        place = _place_for(conn, held, now)
        row = _row(
            answer,
            comparison_id=held["comparison_id"],
            rater_id=rater_id,
            lease_id=lease_id,
            order_shown=held["order_shown"],
            route=held["route"],
            reward_model_id=held["reward_model_id"],
            guideline_version=guideline_version,
            interface_version=interface_version,
            simulated=simulated,
            surplus=place is None,
            idempotency_key=key,
            created_at=now,
        )
        _append(store, conn, row)
        if place is not None:
            conn.execute(
                places.update()
                .where(places.c.comparison_id == held["comparison_id"], places.c.n == place)
                .values(judgment_id=row["id"], rater_id=rater_id, lease_id=lease_id, leased_until=None)
            )
        return Receipt(row["id"], "counted" if place is not None else "surplus")


def correct(store: Store, judgment_id: str, rater_id: str, answer: Answer, *, idempotency_key: str) -> Receipt:
    """Supersede a judgment of one's own. The first stays in the store; only the newest counts.

    Raises:
        NotFound: no such judgment of this rater.
        Conflict: it has been superseded already, or the key was used for another comparison.
    """
    with store.write() as conn:
        old = (
            conn.execute(sa.select(judgments).where(judgments.c.id == judgment_id, judgments.c.rater_id == rater_id))
            .mappings()
            .first()
        )
        if old is None:
            raise NotFound(f"judgment {judgment_id!r}", expected="one of your own", fix="pick it from your history")
        _lock_rater(conn, rater_id)
        _lock_comparison(conn, old["comparison_id"])
        known = _by_key(conn, rater_id, idempotency_key, old["comparison_id"])
        if known is not None:
            return Receipt(known, "repeated")
        if conn.execute(sa.select(judgments.c.id).where(judgments.c.supersedes == judgment_id)).first():
            raise Conflict(f"judgment {judgment_id}: it was corrected before. Fix: correct the newest one")
        _check_ranking(answer, old["order_shown"])
        same = ("comparison_id", "rater_id", "lease_id", "order_shown", "route", "reward_model_id", "simulated")
        versions = ("guideline_version", "interface_version", "surplus")
        row = _row(
            answer,
            **{k: old[k] for k in same + versions},
            supersedes=judgment_id,
            idempotency_key=idempotency_key,
            created_at=utc_now(),
        )
        _append(store, conn, row)
        return Receipt(row["id"], "counted" if not old["surplus"] else "surplus")


def release(store: Store, lease_id: str, rater_id: str) -> None:
    """Give a comparison back unjudged. Releasing what is no longer held does nothing."""
    with store.write() as conn:
        conn.execute(
            places.update()
            .where(
                places.c.lease_id == lease_id,
                places.c.rater_id == rater_id,
                places.c.judgment_id.is_(None),
            )
            .values(rater_id=None, lease_id=None, leased_until=None)
        )


def add_outside(store: Store, conn: Connection, votes: Sequence[dict]) -> int:
    """Keep votes made elsewhere: rows with comparison_id, rater_id, answer, order_shown, source, idempotency_key.

    They fill no place and open none (their comparisons came with the route their importer chose). Known keys add
    nothing. Returns how many were new.
    """
    rows = [
        _row(
            v["answer"],
            **{k: v[k] for k in ("comparison_id", "rater_id", "order_shown", "source", "idempotency_key")},
            route=Route.HUMAN.value,
            simulated=v.get("simulated", False),
            created_at=utc_now(),
        )
        for v in votes
    ]
    store.lock(conn, "judgments")
    return store.insert_new(conn, judgments, rows)


def keys_on(store: Store, conn: Connection, comparison_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """(comparison id, rater id) → the idempotency key of that rater's first judgment of it."""
    query = sa.select(judgments.c.comparison_id, judgments.c.rater_id, judgments.c.idempotency_key).where(
        store.among(judgments.c.comparison_id, comparison_ids), judgments.c.supersedes.is_(None)
    )
    return {(comparison, rater): key for comparison, rater, key in conn.execute(query)}


def history(
    store: Store,
    *,
    comparison_ids: Sequence[str] | None = None,
    rater_id: str | None = None,
    split: Split | None = None,
    current: bool = True,
    after: int = 0,
) -> Iterator[Judgment]:
    """Judgments in the order they came. With `current`, only those no other supersedes."""
    query = sa.select(judgments).order_by(judgments.c.seq)
    if comparison_ids is not None:
        query = query.where(store.among(judgments.c.comparison_id, comparison_ids))
    if rater_id is not None:
        query = query.where(judgments.c.rater_id == rater_id)
    if split is not None:
        query = query.join(comparisons, comparisons.c.id == judgments.c.comparison_id)
        query = query.join(prompts, prompts.c.id == comparisons.c.prompt_id).where(prompts.c.split == split.value)
    if current:
        newer = judgments.alias()
        query = query.where(~sa.exists().where(newer.c.supersedes == judgments.c.id))
    while True:
        with store.read() as conn:
            rows = conn.execute(query.where(judgments.c.seq > after).limit(catalog.BATCH)).mappings().all()
        if not rows:
            return
        yield from (_judgment(r) for r in rows)
        after = rows[-1]["seq"]


def state(store: Store, now: datetime | None = None) -> dict[str, int]:
    """How the queue stands: places `filled`, `leased` and `free` (a rater may have it now)."""
    now = now or utc_now()
    filled = places.c.judgment_id.is_not(None)
    leased = sa.and_(~filled, places.c.leased_until > now)
    free = sa.and_(~filled, _is_free(now), comparisons.c.route != Route.AUTO.value)
    columns = {"filled": filled, "leased": leased, "free": free}
    query = sa.select(*(sa.func.count(sa.case((is_so, 1))).label(name) for name, is_so in columns.items()))
    with store.read() as conn:
        return dict(conn.execute(query.select_from(places.join(comparisons))).mappings().one())


def revision(store: Store) -> int:
    """The number of the newest judgment: what a snapshot of the store is a snapshot of."""
    with store.read() as conn:
        return conn.execute(sa.select(sa.func.coalesce(sa.func.max(judgments.c.seq), 0))).scalar_one()


def _held(conn: Connection, rater_id: str, now: datetime) -> Lease | None:
    row = (
        conn.execute(
            sa.select(leases)
            .join(places, places.c.lease_id == leases.c.id)
            .where(places.c.rater_id == rater_id, places.c.judgment_id.is_(None), places.c.leased_until > now)
            .order_by(leases.c.leased_at)
            .limit(1)
        )
        .mappings()
        .first()
    )
    if row is None:
        return None
    comparison = catalog.load(conn, [row["comparison_id"]])[row["comparison_id"]]
    return Lease(row["id"], comparison, rater_id, tuple(row["order_shown"]), row["expires_at"])


def _is_free(now: datetime) -> sa.ColumnElement[bool]:
    """No lease is running on the place (it may still have been filled)."""
    return sa.or_(places.c.leased_until.is_(None), places.c.leased_until <= now)


def _free_place(conn: Connection, rater_id: str, now: datetime):
    """The first free place for a rater who holds none."""
    return conn.execute(
        sa.select(places.c.comparison_id, places.c.n)
        .join(comparisons)
        .where(
            places.c.judgment_id.is_(None),
            _is_free(now),
            # A place that was held while its comparison became `auto` is still there when the lease runs out.
            comparisons.c.route != Route.AUTO.value,
            ~sa.exists().where(judgments.c.comparison_id == places.c.comparison_id, judgments.c.rater_id == rater_id),
        )
        .order_by(places.c.priority, places.c.shuffle, places.c.n)
        .limit(1)
        .with_for_update(skip_locked=True, of=places)
    ).first()


def _place_for(conn: Connection, held, now: datetime) -> int | None:
    """The place an answer fills: one the rater holds (under this lease or a later one), else a free one, else none."""
    own = places.c.rater_id == held["rater_id"]
    return conn.execute(
        sa.select(places.c.n)
        .where(
            places.c.comparison_id == held["comparison_id"],
            places.c.judgment_id.is_(None),
            sa.or_(own, _is_free(now)),
        )
        .order_by(sa.case((own, 0), else_=1), places.c.n)
        .limit(1)
        .with_for_update()
    ).scalar()


# Locks are taken in this order: rater, comparison, place, judgments. SQLite's write lock covers them all; there FOR
# UPDATE is left out. The NO KEY form does not stop others from inserting rows that refer to the locked one.


def _lock_rater(conn: Connection, rater_id: str) -> bool:
    """One lease or submit of a rater at a time. False where there is no such rater or they are disabled."""
    query = sa.select(raters.c.disabled_at).where(raters.c.id == rater_id).with_for_update(key_share=True)
    row = conn.execute(query).first()
    return row is not None and row.disabled_at is None


def _lock_comparison(conn: Connection, comparison_id: str) -> None:
    query = sa.select(comparisons.c.id).where(comparisons.c.id == comparison_id)
    conn.execute(query.with_for_update(key_share=True))


def _append(store: Store, conn: Connection, row: dict) -> None:
    # Numbered and committed in one order, so that a reader who goes on `after` the last number misses nothing.
    store.lock(conn, "judgments")
    conn.execute(judgments.insert().values(row))


def _by_key(conn: Connection, rater_id: str, key: str, comparison_id: str) -> str | None:
    """The judgment a rater sent under that key.

    Raises:
        Conflict: the key was used for another comparison; saying `repeated` would lose this answer.
    """
    row = conn.execute(
        sa.select(judgments.c.id, judgments.c.comparison_id).where(
            judgments.c.rater_id == rater_id, judgments.c.idempotency_key == key
        )
    ).first()
    if row is not None and row.comparison_id != comparison_id:
        raise Conflict(f"idempotency key {key!r}: it was used for another comparison. Fix: send a new key")
    return row.id if row is not None else None


def _check_ranking(answer: Answer, shown: Sequence[str]) -> None:
    unknown = {i for group in answer.ranking for i in group} - set(shown)
    if unknown:
        raise BadInput(
            f"ranking names {sorted(unknown)}",
            expected=f"completions of this comparison {list(shown)}",
            fix="rank those",
        )


def _row(answer: Answer, **given) -> dict:
    empty = {
        "lease_id": None,
        "reward_model_id": None,
        "guideline_version": "",
        "interface_version": "",
        "source": "",
        "simulated": False,
        "surplus": False,
        "supersedes": None,
    }
    return empty | {
        "id": f"j_{uuid.uuid4().hex}",
        "verdict": answer.verdict.value,
        "ranking": [list(group) for group in answer.ranking],
        "strength": answer.strength,
        "scores": dict(answer.scores),
        "rationale": answer.rationale,
        "rewrite": answer.rewrite,
        "active_seconds": answer.active_seconds,
        **given,
        "order_shown": list(given["order_shown"]),
    }


def _judgment(row) -> Judgment:
    answer = Answer(
        Verdict(row["verdict"]),
        tuple(tuple(group) for group in row["ranking"]),
        row["strength"],
        row["scores"],
        row["rationale"],
        row["rewrite"],
        row["active_seconds"],
    )
    return Judgment(
        id=row["id"],
        comparison_id=row["comparison_id"],
        rater_id=row["rater_id"],
        answer=answer,
        order_shown=tuple(row["order_shown"]),
        route=Route(row["route"]),
        created_at=row["created_at"],
        idempotency_key=row["idempotency_key"],
        reward_model_id=row["reward_model_id"],
        supersedes=row["supersedes"],
        surplus=row["surplus"],
        simulated=row["simulated"],
        guideline_version=row["guideline_version"],
        interface_version=row["interface_version"],
        source=row["source"],
    )
