"""What was accepted on a model's score: page by page, newest first, searched by words, sampled, and counted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import load_comparisons
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import audit as audit_log
from rlhf_hitl.store.tables import comparisons, lanes, routings, scores
from rlhf_hitl.types import Comparison, Route, Score

#: Comparisons that a search reads at once, and the seconds after which it returns what it has found so far.
READ_AT_ONCE, SEARCH_SECONDS = 200, 0.1
# A sum, so that it is read from the index of what is accepted; the index of lanes leads to all that are not, too.
_LANE = comparisons.c.lane_id + 0
#: The action of the audit log.
EXPORT = "export"
#: `count_newer` counts no further.
NEWER_CAP = 100


@dataclass(frozen=True)
class AcceptedComparison:
    """A comparison that was accepted without a rater, the score it was accepted on, and when.

    `seq` numbers the decisions: a newer one has a higher number.
    """

    comparison: Comparison
    score: Score | None
    reason: str
    accepted_at: datetime
    seq: int


@dataclass(frozen=True)
class AcceptedPage:
    """A part of the accepted comparisons.

    Attributes:
        rows: those found, newest first.
        looked_at: how many comparisons were looked at to find them.
        before: from where to go on; None where there are no more.
    """

    rows: tuple[AcceptedComparison, ...]
    looked_at: int
    before: int | None


def list_accepted(
    store: Store,
    *,
    project: str | None = None,
    words: str = "",
    before: int | None = None,
    limit: int = 25,
    seconds: float = SEARCH_SECONDS,
) -> AcceptedPage:
    """Return the newest comparisons that were accepted on a model's score, up to `limit` of them.

    Args:
        words: each of them must occur in the prompt or in an answer, whatever its case, or be the comparison's id.
            Texts have no index, so a search reads them one by one; it may return fewer than it could go on to find.
        before: only decisions made before the one of this number.
        seconds: after this time a search returns what it has found.
    """
    wanted = tuple(words.casefold().split())
    deadline = time.monotonic() + seconds
    found: list[tuple[Any, Comparison]] = []
    looked_at = 0
    with store.read() as conn:
        while True:
            size = READ_AT_ONCE if wanted else limit
            # One more than is read shows whether there are more.
            rows = conn.execute(_select_accepted(project, before, size + 1)).mappings().all()
            has_more = len(rows) > size
            for row, comparison in _load(conn, rows[:size]):
                looked_at, before = looked_at + 1, row["seq"]
                if _holds_words(comparison, wanted):
                    found.append((row, comparison))
                if len(found) == limit:
                    has_more = has_more or row is not rows[-1]
                    break
            if not has_more or len(found) == limit or time.monotonic() > deadline:
                break
        accepted = _add_scores(conn, found)
    return AcceptedPage(accepted, looked_at, before if has_more else None)


def sample_accepted(store: Store, *, project: str | None = None, limit: int = 25) -> tuple[AcceptedComparison, ...]:
    """Return up to `limit` comparisons drawn at random among those that were accepted on a model's score.

    An id is a hash of what is compared, so ids in a row, from a random one on, are a random sample.
    """
    in_order = sa.select(comparisons.c.accepted_seq).where(_is_accepted(project)).order_by(comparisons.c.id)
    start = f"x_{secrets.token_hex(12)}"
    with store.read() as conn:
        drawn = [*conn.execute(in_order.where(comparisons.c.id >= start).limit(limit)).scalars()]
        if len(drawn) < limit:  # on from the first id
            drawn += conn.execute(in_order.where(comparisons.c.id < start).limit(limit - len(drawn))).scalars()
        query = sa.select(routings).where(routings.c.seq.in_(drawn)).order_by(routings.c.seq.desc())
        return _add_scores(conn, list(_load(conn, conn.execute(query).mappings().all())))


def _add_scores(conn: Connection, found: Sequence[tuple[Any, Comparison]]) -> tuple[AcceptedComparison, ...]:
    scores_by_key = _load_scores(conn, [comparison.id for _, comparison in found])
    return tuple(
        AcceptedComparison(
            comparison,
            scores_by_key.get((comparison.id, row["reward_model_id"])),
            row["reason"],
            row["created_at"],
            row["seq"],
        )
        for row, comparison in found
    )


def count_accepted(store: Store, *, project: str | None = None) -> dict[tuple[str, str, str], int]:
    """Return (project, language, batch) → how many comparisons of the lane are accepted, where there are any."""
    counted = sa.select(_LANE.label("lane"), sa.func.count().label("n")).where(_is_accepted(project)).group_by(_LANE)
    counted = counted.subquery()
    columns = (lanes.c.project_id, lanes.c.language, lanes.c.batch, counted.c.n)
    query = sa.select(*columns).join(counted, counted.c.lane == lanes.c.id)
    with store.read() as conn:
        return {(row.project_id, row.language, row.batch): row.n for row in conn.execute(query)}


def count_newer(store: Store, seq: int, *, project: str | None = None) -> int:
    """Return how many comparisons were accepted after the decision `seq`, up to NEWER_CAP."""
    newer = sa.select(comparisons.c.accepted_seq).where(_is_accepted(project), comparisons.c.accepted_seq > seq)
    with store.read() as conn:
        return conn.execute(sa.select(sa.func.count()).select_from(newer.limit(NEWER_CAP).subquery())).scalar_one()


def record_export(conn: Connection, by: audit.Actor, format: str, *, project: str | None, with_accepted: bool) -> None:
    """Record an export in the audit log, and which decisions may be in it: those that are made by now.

    Args:
        with_accepted: whether what models accepted was exported, too.
    """
    newest = conn.execute(sa.select(sa.func.max(routings.c.seq))).scalar() if with_accepted else None
    audit.record(conn, by, EXPORT, format, project=project, decisions=newest or 0)


def find_export(conn: Connection, comparison_id: str) -> datetime | None:
    """Return when the decision by which a comparison is accepted was exported for the last time; None: it was not.

    A slice or a filter may have left it out of that export: which comparisons are in one is not kept.
    """
    query = sa.select(comparisons.c.accepted_seq, lanes.c.project_id).join(lanes, lanes.c.id == comparisons.c.lane_id)
    accepted = conn.execute(query.where(comparisons.c.id == comparison_id)).first()
    if accepted is None or accepted.accepted_seq is None:
        return None
    exports = sa.select(audit_log.c.at, audit_log.c.details).where(audit_log.c.action == EXPORT)
    for at, details in conn.execute(exports.order_by(audit_log.c.seq.desc())):
        is_concerned = details.get("project") in (None, accepted.project_id)
        if is_concerned and details.get("decisions", 0) >= accepted.accepted_seq:
            return at
    return None


def load_routes(store: Store, ids: Sequence[str]) -> dict[str, Route]:
    """Return comparison id → its route, for those of the ids that the store has."""
    query = sa.select(comparisons.c.id, comparisons.c.route).where(comparisons.c.id.in_(ids))
    with store.read() as conn:
        return {id: Route(route) for id, route in conn.execute(query)}


def _select_accepted(project: str | None, before: int | None, limit: int) -> sa.Select[Any]:
    """Select the newest decisions by which comparisons are accepted."""
    numbers = sa.select(comparisons.c.accepted_seq).where(_is_accepted(project))
    if before is not None:
        numbers = numbers.where(comparisons.c.accepted_seq < before)
    # First the numbers, which the index holds together with the lanes, however many others it passes on the way.
    numbers = numbers.order_by(comparisons.c.accepted_seq.desc()).limit(limit)
    return sa.select(routings).where(routings.c.seq.in_(numbers)).order_by(routings.c.seq.desc())


def _is_accepted(project: str | None) -> sa.ColumnElement[bool]:
    accepted = comparisons.c.accepted_seq.is_not(None)
    if project is None:
        return accepted
    return sa.and_(accepted, _LANE.in_(sa.select(lanes.c.id).where(lanes.c.project_id == project)))


def _load(conn: Connection, rows: Sequence[Any]) -> Iterator[tuple[Any, Comparison]]:
    loaded = load_comparisons(conn, [row["comparison_id"] for row in rows])
    return ((row, loaded[row["comparison_id"]]) for row in rows)


def _load_scores(conn: Connection, ids: Sequence[str]) -> dict[tuple[str, str], Score]:
    query = sa.select(*(c for c in scores.c if c.name != "created_at")).where(scores.c.comparison_id.in_(ids))
    rows = conn.execute(query).mappings()
    return {(row["comparison_id"], row["reward_model_id"]): Score(**row) for row in rows}


def _holds_words(comparison: Comparison, words: Sequence[str]) -> bool:
    """Return whether each word, without case, occurs in a comparison's texts or is its id."""
    if not words:
        return True
    messages = [*comparison.prompt.messages, *(m for c in comparison.completions for m in c.messages)]
    text = "\n".join(message.read_all_text() for message in messages).casefold()
    return all(word in text or word == comparison.id for word in words)
