"""Judgments in the order they came. Rows are only ever added; a correction is a new row that supersedes another."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, fields, replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import Conflict
from rlhf_hitl.store.comparisons import ROWS_PER_QUERY, restrict_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import comparisons, judgments, raters
from rlhf_hitl.types import Answer, Judgment, Role, Route, Split, utc_now

#: The condition that a judgment corrects no other: there is one such for a rater and a comparison. It is not written as
#: `supersedes IS NULL`, because SQLite would then choose the unique index on that column, and read all rows.
IS_FIRST = sa.func.coalesce(judgments.c.supersedes, "") == ""


def find_role() -> sa.ColumnElement[str | None]:
    """Return the role in which a judgment was given, for a query on `judgments`; null: a rater's.

    It stands in the judgment, except of models whose votes an earlier version imported as people's: judgments are never
    changed, so there the rater says it.
    """
    model = raters.alias()
    of_model = sa.exists().where(
        model.c.id == judgments.c.rater_id, model.c.role == Role.JUDGE.value, model.c.source != ""
    )
    taken_for_person = sa.and_(judgments.c.role.is_(None), of_model)
    return sa.case((taken_for_person, Role.JUDGE.value), else_=judgments.c.role)


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
    at_once: int = ROWS_PER_QUERY,
) -> Iterator[Judgment]:
    """Yield judgments in the order they came.

    Args:
        current: only judgments that no other supersedes.
        repeats: also judgments of hidden repeats and golds, which measure raters.
        after: only judgments whose `seq` is above this.
        at_once: how many are read together: no more than are wanted, for each may hold a long text.
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
            rows = conn.execute(query.where(judgments.c.seq > after).limit(at_once)).mappings().all()
        if not rows:
            return
        yield from (Judgment.from_plain(row) for row in rows)
        after = rows[-1]["seq"]


def read_judgments_of(store: Store, comparison_ids: Collection[str]) -> Iterator[Judgment]:
    """Yield the judgments of any number of comparisons that no other supersedes, those of some at a time."""
    ids = sorted(comparison_ids)
    for start in range(0, len(ids), ROWS_PER_QUERY):
        yield from read_judgments(store, comparison_ids=ids[start : start + ROWS_PER_QUERY], at_once=4 * ROWS_PER_QUERY)


def read_store_revision(store: Store) -> int:
    """Return the `seq` of the newest judgment (0 without one), which numbers the states of the store."""
    with store.read() as conn:
        return conn.execute(sa.select(sa.func.coalesce(sa.func.max(judgments.c.seq), 0))).scalar_one()


def count_judgments_by_rater(store: Store) -> dict[str, int]:
    """Return rater id → how many comparisons they have judged."""
    query = sa.select(judgments.c.rater_id, sa.func.count()).where(judgments.c.supersedes.is_(None))
    with store.read() as conn:
        return dict(conn.execute(query.group_by(judgments.c.rater_id)).tuples().all())


def load_idempotency_keys(store: Store, conn: Connection, comparison_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return (comparison id, rater id) → the idempotency key of that rater's first judgment of the comparison."""
    # Corrections are left out in Python: in SQL, SQLite would choose the index on `supersedes` and read all judgments.
    columns = (judgments.c.comparison_id, judgments.c.rater_id, judgments.c.idempotency_key, judgments.c.supersedes)
    rows = conn.execute(sa.select(*columns).where(store.among(judgments.c.comparison_id, comparison_ids)))
    return {(comparison, rater): key for comparison, rater, key, supersedes in rows if supersedes is None}


def make_judgment_id() -> str:
    return f"j_{uuid.uuid4().hex}"


def judgment_to_row(answer: Answer, **circumstances) -> dict:
    """Return the row of an answer with these `circumstances` (other columns); columns left out take their defaults."""
    row = (
        _DEFAULTS
        | answer.to_plain()
        | {"id": make_judgment_id()}
        | circumstances
        | {"order_shown": list(circumstances["order_shown"])}
    )
    if row["role"] in (Role.RATER, ""):
        row["role"] = None
    return row


_DEFAULTS = {f.name: f.default for f in fields(Judgment) if f.default is not MISSING and f.name != "seq"}
_DEFAULTS["lease_id"] = None  # a column of the store alone


def append_judgment(conn: Connection, row: dict) -> None:
    """Append a row. Other transactions that append one wait until this transaction ends.

    So rows are numbered and committed in the same order, and a reader who continues `after` the last number
    misses none.
    """
    conn.execute(_APPEND, row)


_APPEND = judgments.insert()


def insert_imported_judgments(store: Store, conn: Connection, votes: Sequence[dict]) -> int:
    """Insert votes made elsewhere: mappings with comparison_id, rater_id, answer, order_shown, source, idempotency_key.

    They neither fill nor open a place (their comparisons came with the route their importer chose). A vote whose
    idempotency key is known adds nothing.

    Returns:
        How many of them were new.
    """
    columns = ("comparison_id", "rater_id", "order_shown", "source", "idempotency_key")
    rows = [
        judgment_to_row(
            vote["answer"],
            **{name: vote[name] for name in columns},
            route=Route.HUMAN.value,
            simulated=vote.get("simulated", False),
            created_at=utc_now(),
        )
        for vote in votes
    ]
    return store.insert_new(conn, judgments, rows)


def find_repeated_submission(
    conn: Connection, rater_id: str, key: str, comparison_id: str, answer: Answer
) -> str | None:
    """Return the id of the judgment a rater submitted under an idempotency key, if it is this same one.

    Raises:
        Conflict: the key was used for something else (the outcome `repeated` would lose this answer), or the rater has
            judged this comparison under another key.
    """
    rows = conn.execute(_JUDGED_BEFORE, {"rater": rater_id, "key": key, "comparison": comparison_id}).mappings().all()
    for row in rows:
        if row["idempotency_key"] == key:
            return _check_same(row, comparison_id, answer, None)
    if rows:
        raise Conflict(f"key {key!r}: you have judged its comparison under another. Fix: correct that judgment instead")
    return None


_IS_OWN = judgments.c.rater_id == sa.bindparam("rater")
_HAS_KEY = judgments.c.idempotency_key == sa.bindparam("key")
_JUDGED_BEFORE = sa.select(judgments).where(
    _IS_OWN, sa.or_(_HAS_KEY, judgments.c.comparison_id == sa.bindparam("comparison"))
)


def has_judged_before(comparison_id: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Return the condition that the rater bound to `rater` has judged a comparison, or anything under the key `key`.

    Where it holds, `find_repeated_submission` tells which of the two.
    """
    own = judgments.alias()
    is_own = own.c.rater_id == sa.bindparam("rater")
    has_key = sa.exists().where(is_own, own.c.idempotency_key == sa.bindparam("key"))
    return sa.or_(sa.exists().where(is_own, own.c.comparison_id == comparison_id), has_key)


def find_repeated_correction(
    conn: Connection, rater_id: str, key: str, comparison_id: str, answer: Answer, supersedes: str
) -> str | None:
    """Return the id of the correction a rater sent under an idempotency key, if it is this same one.

    Raises:
        Conflict: the key was used for something else; the outcome `repeated` would lose this answer.
    """
    query = sa.select(judgments).where(_IS_OWN, _HAS_KEY)
    row = conn.execute(query, {"rater": rater_id, "key": key}).mappings().first()
    return None if row is None else _check_same(row, comparison_id, answer, supersedes)


def _check_same(row, comparison_id: str, answer: Answer, supersedes: str | None) -> str:
    """Return the id of a judgment's row, once it is known to be the one that was sent again."""
    key = row["idempotency_key"]
    if row["comparison_id"] != comparison_id:
        raise Conflict(f"idempotency key {key!r}: it was used for another comparison. Fix: send a new key")
    kept = Judgment.from_plain(row)
    if _drop_active_seconds(kept.answer) != _drop_active_seconds(answer) or kept.supersedes != supersedes:
        raise Conflict(
            f"idempotency key {key!r}: it was used for another answer, {kept.id}. Fix: correct that one, by a new key"
        )
    return kept.id


def _drop_active_seconds(answer: Answer) -> Answer:
    """Return the answer without its active seconds, which may have run on between a first and a second try."""
    return replace(answer, scores=dict(answer.scores), active_seconds=None)
