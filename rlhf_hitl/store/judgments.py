"""The history: every judgment in the order it came. Rows are only ever added; a correction supersedes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import Conflict
from rlhf_hitl.store.comparisons import BATCH, restrict_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, judgments
from rlhf_hitl.types import Answer, Judgment, Reason, Route, Split, Verdict, utc_now

#: Judgments that correct no other: one a rater and comparison. Said like this because SQLite, told that `supersedes IS
#: NULL`, takes the unique index on that column for a way to one row, and reads all of them.
IS_FIRST = sa.func.coalesce(judgments.c.supersedes, "") == ""


def read_judgments(
    store: Store,
    *,
    comparison_ids: Sequence[str] | None = None,
    rater_id: str | None = None,
    split: Split | None = None,
    project: str | None = None,
    current: bool = True,
    repeats: bool = True,
    after: int = 0,
) -> Iterator[Judgment]:
    """Judgments in the order they came.

    Args:
        current: only those no other supersedes.
        repeats: also those of hidden repeats.
        after: only those whose `seq` is above this.
    """
    query = sa.select(judgments).order_by(judgments.c.seq)
    if comparison_ids is not None:
        query = query.where(store.among(judgments.c.comparison_id, comparison_ids))
    if rater_id is not None:
        query = query.where(judgments.c.rater_id == rater_id)
    if split is not None or project is not None or not repeats:
        query = query.join(comparisons, comparisons.c.id == judgments.c.comparison_id)
        query = restrict_comparisons(query, project=project, split=split, repeats=repeats)
    if current:
        newer = judgments.alias()
        query = query.where(~sa.exists().where(newer.c.supersedes == judgments.c.id))
    while True:
        with store.read() as conn:
            rows = conn.execute(query.where(judgments.c.seq > after).limit(BATCH)).mappings().all()
        if not rows:
            return
        yield from (judgment_from_row(r) for r in rows)
        after = rows[-1]["seq"]


def store_revision(store: Store) -> int:
    """The number of the newest judgment: what a snapshot of the store is a snapshot of."""
    with store.read() as conn:
        return conn.execute(sa.select(sa.func.coalesce(sa.func.max(judgments.c.seq), 0))).scalar_one()


def idempotency_keys(store: Store, conn: Connection, comparison_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """(comparison id, rater id) → the idempotency key of that rater's first judgment of it."""
    # Corrections are left out here: asked to, SQLite takes the index of what is superseded and reads all judgments.
    columns = (judgments.c.comparison_id, judgments.c.rater_id, judgments.c.idempotency_key, judgments.c.supersedes)
    rows = conn.execute(sa.select(*columns).where(store.among(judgments.c.comparison_id, comparison_ids)))
    return {(comparison, rater): key for comparison, rater, key, supersedes in rows if supersedes is None}


def new_judgment_id() -> str:
    return f"j_{uuid.uuid4().hex}"


def judgment_row(answer: Answer, **given) -> dict:
    """The row of an answer, in the circumstances `given` (columns); those not given are empty."""
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
        "id": new_judgment_id(),
        "verdict": answer.verdict.value,
        "ranking": [list(group) for group in answer.ranking],
        "strength": answer.strength,
        "scores": dict(answer.scores),
        "rationale": answer.rationale,
        "rewrite": answer.rewrite,
        "active_seconds": answer.active_seconds,
        "reason": None if answer.reason is None else answer.reason.value,
        **given,
        "order_shown": list(given["order_shown"]),
    }


def append_judgment(conn: Connection, row: dict) -> None:
    """Add a row to the end. Others who add one wait until this transaction is over: the database sees to it.

    So rows are numbered and committed in one order, and a reader who goes on `after` the last number misses nothing.
    """
    conn.execute(_APPEND, row)


_APPEND = judgments.insert()


def insert_imported_judgments(store: Store, conn: Connection, votes: Sequence[dict]) -> int:
    """Keep votes made elsewhere: rows with comparison_id, rater_id, answer, order_shown, source, idempotency_key.

    They fill no place and open none (their comparisons came with the route their importer chose). Known keys add
    nothing. Returns how many were new.
    """
    rows = [
        judgment_row(
            v["answer"],
            **{k: v[k] for k in ("comparison_id", "rater_id", "order_shown", "source", "idempotency_key")},
            route=Route.HUMAN.value,
            simulated=v.get("simulated", False),
            created_at=utc_now(),
        )
        for v in votes
    ]
    return store.insert_new(conn, judgments, rows)


def find_repeat(conn: Connection, rater_id: str, key: str, comparison_id: str, answer: Answer) -> str | None:
    """The judgment a rater sent under that key, if it is this very one.

    Raises:
        Conflict: the key was used for something else (saying `repeated` would lose this answer), or the rater has
            judged this comparison under another key.
    """
    rows = conn.execute(_OWN_BEFORE, {"rater": rater_id, "key": key, "of": comparison_id}).mappings().all()
    for row in rows:
        if row["idempotency_key"] == key:
            return _same(row, comparison_id, answer, None)
    if rows:
        raise Conflict(f"key {key!r}: you have judged its comparison under another. Fix: correct that judgment instead")
    return None


_OWN = judgments.c.rater_id == sa.bindparam("rater")
_UNDER_KEY = judgments.c.idempotency_key == sa.bindparam("key")
_OWN_BEFORE = sa.select(judgments).where(_OWN, sa.or_(_UNDER_KEY, judgments.c.comparison_id == sa.bindparam("of")))


def has_judged_before(comparison_id: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Whether rater `rater` has judged a comparison, or anything under `key`: then `known` tells what."""
    own = judgments.alias()
    mine = own.c.rater_id == sa.bindparam("rater")
    keyed = sa.exists().where(mine, own.c.idempotency_key == sa.bindparam("key"))
    return sa.or_(sa.exists().where(mine, own.c.comparison_id == comparison_id), keyed)


def find_repeated_correction(
    conn: Connection, rater_id: str, key: str, comparison_id: str, answer: Answer, supersedes: str
) -> str | None:
    """The correction a rater sent under that key, if it is this very one.

    Raises:
        Conflict: the key was used for something else; saying `repeated` would lose this answer.
    """
    row = conn.execute(sa.select(judgments).where(_OWN, _UNDER_KEY), {"rater": rater_id, "key": key}).mappings().first()
    return None if row is None else _same(row, comparison_id, answer, supersedes)


def _same(row, comparison_id: str, answer: Answer, supersedes: str | None) -> str:
    key = row["idempotency_key"]
    if row["comparison_id"] != comparison_id:
        raise Conflict(f"idempotency key {key!r}: it was used for another comparison. Fix: send a new key")
    # The seconds may have run on between the first try and the second; all else is what the rater said.
    if _said(judgment_from_row(row).answer) != _said(answer) or row["supersedes"] != supersedes:
        raise Conflict(
            f"idempotency key {key!r}: it was used for another answer, {row['id']}. Fix: correct that one, by a new key"
        )
    return row["id"]


def _said(answer: Answer) -> Answer:
    return replace(answer, scores=dict(answer.scores), active_seconds=None)


def judgment_from_row(row) -> Judgment:
    answer = Answer(
        Verdict(row["verdict"]),
        tuple(tuple(group) for group in row["ranking"]),
        row["strength"],
        row["scores"],
        row["rationale"],
        row["rewrite"],
        row["active_seconds"],
        None if row["reason"] is None else Reason(row["reason"]),
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
        seq=row["seq"],
    )
