"""Assignments: comparisons that are reserved for a named rater, first in their line.

An assignment takes a free place of the comparison, so that it is judged no more often than it was to be. Where all its
places are taken, one more is opened, and the comparison wants one more judgment.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import compute_queue_position, measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.people import find_rater_id
from rlhf_hitl.store.quality_tables import assignments
from rlhf_hitl.store.queue.locks import lock_rater
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.queue.qualifying import load_standing, must_qualify
from rlhf_hitl.store.tables import comparisons, judgments, lanes, members, places, projects, raters, routings
from rlhf_hitl.types import QualificationRule, QualificationState, Role, Route, utc_now

#: Comparisons that are assigned in one transaction: others wait for the rater's lock meanwhile.
ASSIGNED_AT_ONCE = 50
#: Why a comparison cannot be assigned → in words.
REFUSALS = {
    "judged": "judged by them already",
    "assigned": "assigned to them already",
    "accepted": "accepted on a model's score",
    "closed": "in a project or a language that is not theirs",
    "unqualified": "in a project for which they have not qualified",
    "measuring": "a gold or a hidden repeat",
    "unknown": "not in the store",
}


@dataclass(frozen=True)
class Assigned:
    """What became of an assignment: how many comparisons were assigned, and why (`REFUSALS`) others were not."""

    rater: str
    assigned: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Assignment:
    """A comparison reserved for a rater. `state` is `waiting`, `judged` or `ended`: by a lead, or as a model decides it
    by now."""

    id: str
    comparison_id: str
    rater_id: str
    rater: str
    slice: str
    assigned_by: str
    created_at: datetime
    state: str


def assign(
    store: Store, name: str, comparison_ids: Sequence[str], *, slice: str = "", by: audit.Actor = audit.CLI
) -> Assigned:
    """Reserve comparisons for a rater, given by name. Those that cannot be are counted by reason.

    Args:
        slice: the name of the slice that the comparisons are of, which the assignments keep.

    Raises:
        NotFound: there is no such rater.
        BadInput: they cannot judge: disabled, a judge, or an evaluator.
    """
    with store.read() as conn:
        rater_id = find_rater_id(conn, name)
    refused: Counter[str] = Counter()
    # In order of id, as everybody locks comparisons.
    remaining, count = iter(sorted(set(comparison_ids))), 0
    while chunk := list(islice(remaining, ASSIGNED_AT_ONCE)):
        with store.write() as conn:
            rater, clock = lock_rater(store, conn, rater_id)
            if rater is None or rater.role not in (Role.RATER.value, Role.LEAD.value, Role.ADMIN.value):
                raise BadInput(f"rater {name!r}", expected="a person who may rate", fix="see `rlhf-hitl raters list`")
            found = _load_comparisons(store, conn, chunk)
            asking = _find_unqualified(conn, rater, found, clock)
            refused["unknown"] += len(chunk) - len(found)
            done = 0
            for comparison in found:
                reason = _find_refusal(conn, rater, comparison)
                if reason is None and comparison.project_id in asking:
                    reason = "unqualified"
                if reason is None:
                    _assign_one(store, conn, rater.id, comparison, slice, by, clock)
                    done += 1
                else:
                    refused[reason] += 1
            if done:
                details = {"comparisons": done} | ({"slice": slice} if slice else {})
                audit.record(conn, by, "comparisons.assigned", name, **details)
            count += done
    return Assigned(name, count, {reason: n for reason, n in refused.items() if n})


def end_assignments(
    store: Store,
    name: str,
    comparison_ids: Sequence[str] | None = None,
    *,
    slice: str | None = None,
    by: audit.Actor = audit.CLI,
) -> int:
    """End assignments of a rater, given by name, and return how many. Their places go back to all raters.

    A place that was opened for the assignment is removed, unless others were opened since. What the rater holds they
    may still answer.

    Args:
        comparison_ids: of these comparisons; None: of all.
        slice: only those that were assigned by this slice.

    Raises:
        NotFound: there is no such rater.
    """
    with store.write() as conn:
        rater_id = find_rater_id(conn, name)
        _, now = lock_rater(store, conn, rater_id)
        query = sa.select(assignments).where(assignments.c.rater_id == rater_id, assignments.c.ended_at.is_(None))
        if comparison_ids is not None:
            query = query.where(store.among(assignments.c.comparison_id, comparison_ids))
        if slice is not None:
            query = query.where(assignments.c.slice == slice)
        rows = conn.execute(query.order_by(assignments.c.comparison_id)).all()
        _load_comparisons(store, conn, [row.comparison_id for row in rows])  # locked, in order of id
        for row in rows:
            conn.execute(assignments.update().where(assignments.c.id == row.id).values(ended_at=now))
            _free_place(store, conn, row, now)
        if rows:
            audit.record(conn, by, "assignments.ended", name, comparisons=len(rows))
        return len(rows)


def list_assignments(
    store: Store, *, rater_id: str | None = None, ended: bool = False, limit: int = 1000
) -> list[Assignment]:
    """Return assignments, newest first: of one rater or of all; with `ended` also those that were ended."""
    judged = sa.exists().where(
        judgments.c.comparison_id == assignments.c.comparison_id, judgments.c.rater_id == assignments.c.rater_id
    )
    waits = sa.exists().where(
        places.c.comparison_id == assignments.c.comparison_id,
        places.c.n == assignments.c.place,
        places.c.reserved_for == assignments.c.rater_id,
    )
    query = (
        sa.select(assignments, raters.c.name.label("rater"), judged.label("is_judged"), waits.label("waits"))
        .join(raters, raters.c.id == assignments.c.rater_id)
        .order_by(assignments.c.created_at.desc(), assignments.c.id)
        .limit(limit)
    )
    if rater_id is not None:
        query = query.where(assignments.c.rater_id == rater_id)
    if not ended:
        query = query.where(assignments.c.ended_at.is_(None))
    names = ("id", "comparison_id", "rater_id", "rater", "slice", "assigned_by", "created_at")
    with store.read() as conn:
        return [
            Assignment(
                *(getattr(row, name) for name in names),
                state="judged" if row.is_judged else "waiting" if row.waits and row.ended_at is None else "ended",
            )
            for row in conn.execute(query)
        ]


def _load_comparisons(store: Store, conn: Connection, ids: Sequence[str]) -> list[Any]:
    """Lock comparisons in order of id and return what an assignment must know of them."""
    query = (
        sa.select(
            comparisons.c.id,
            comparisons.c.overlap,
            comparisons.c.route,
            comparisons.c.lane_id,
            measures_raters().label("measures_raters"),
            lanes.c.language,
            lanes.c.project_id,
            projects.c.open,
            projects.c.qualification,
        )
        .join(lanes, lanes.c.id == comparisons.c.lane_id)
        .join(projects, projects.c.id == lanes.c.project_id)
        .where(store.among(comparisons.c.id, ids))
        .order_by(comparisons.c.id)
    )
    return list(conn.execute(query.with_for_update(key_share=True, of=comparisons)).all())


def _find_refusal(conn: Connection, rater: Any, comparison: Any) -> str | None:
    """Return why a comparison cannot be assigned to a rater, as a key of REFUSALS; None where it can."""
    if comparison.measures_raters:
        return "measuring"
    if comparison.route == Route.AUTO.value:
        return "accepted"
    own = {"comparison": comparison.id, "rater": rater.id}
    if conn.execute(_JUDGED, own).first() is not None:
        return "judged"
    if conn.execute(_ASSIGNED, own).first() is not None:
        return "assigned"
    reads = rater.languages is None or comparison.language in ("", *rater.languages)
    is_member = comparison.open or conn.execute(_MEMBER, {"project": comparison.project_id, "rater": rater.id}).first()
    return None if reads and is_member else "closed"


def _find_unqualified(conn: Connection, rater: Any, found: Sequence[Any], now: datetime) -> set[str]:
    """Return the projects of comparisons in which a rater gets no work, as they have not qualified."""
    rules = {row.project_id: row.qualification for row in found if row.qualification is not None}
    if not must_qualify(rater):
        return set()
    return {
        project
        for project, rule in rules.items()
        if load_standing(conn, rater.id, project, QualificationRule(**rule), now).state
        is not QualificationState.QUALIFIED
    }


_JUDGED = sa.select(judgments.c.id).where(
    judgments.c.comparison_id == sa.bindparam("comparison"), judgments.c.rater_id == sa.bindparam("rater")
)
_ASSIGNED = sa.select(assignments.c.id).where(
    assignments.c.comparison_id == sa.bindparam("comparison"),
    assignments.c.rater_id == sa.bindparam("rater"),
    assignments.c.ended_at.is_(None),
)
_MEMBER = sa.select(members.c.rater_id).where(
    members.c.project_id == sa.bindparam("project"), members.c.rater_id == sa.bindparam("rater")
)


def _assign_one(
    store: Store, conn: Connection, rater_id: str, comparison: Any, slice: str, by: audit.Actor, now: datetime
) -> None:
    """Reserve a place: the one that the rater holds, else the first that nobody holds, else one more."""
    of_raters = (places.c.comparison_id == comparison.id, places.c.role == "", places.c.judgment_id.is_(None))
    is_held = sa.and_(places.c.rater_id == rater_id, places.c.leased_until > now)
    usable = sa.or_(is_held, sa.and_(is_free(), places.c.reserved_for.is_(None)))
    # A place that somebody leases at this moment is locked, and is not free.
    query = sa.select(places.c.n).where(*of_raters, usable).order_by(is_held.desc(), places.c.n).limit(1)
    n = conn.execute(query.with_for_update(skip_locked=True), {"now": now}).scalar()
    opened = n is None
    # First of all: nothing else stands before this bit of a position.
    position = store.draw("queue", comparison.id, 2**28)
    if n is None:
        counted = comparisons.update().where(comparisons.c.id == comparison.id)
        newest = sa.select(sa.func.max(places.c.n)).where(places.c.comparison_id == comparison.id, places.c.role == "")
        highest = conn.execute(newest).scalar()
        n = max(comparison.overlap, 0 if highest is None else highest + 1)
        conn.execute(counted.values(overlap=comparisons.c.overlap + 1))
        row = {"comparison_id": comparison.id, "n": n, "lane_id": comparison.lane_id, "position": position}
        conn.execute(places.insert().values(row | {"reserved_for": rater_id}))
    else:
        chosen = places.update().where(places.c.comparison_id == comparison.id, places.c.n == n)
        conn.execute(chosen.values(reserved_for=rater_id, position=position))
    conn.execute(
        assignments.insert().values(
            id=f"as_{uuid.uuid4().hex[:24]}",
            comparison_id=comparison.id,
            rater_id=rater_id,
            place=n,
            opened=opened,
            slice=slice,
            assigned_by=by.id[:80],
            created_at=utc_now(),
        )
    )


def _free_place(store: Store, conn: Connection, assignment: Any, now: datetime) -> None:
    """Give a place back to all raters, or remove it where it was opened for the assignment and nobody holds it."""
    the_place = (
        places.c.comparison_id == assignment.comparison_id,
        places.c.n == assignment.place,
        places.c.reserved_for == assignment.rater_id,
        places.c.judgment_id.is_(None),
    )
    of_comparison = comparisons.c.id == assignment.comparison_id
    # Only the last one, for the places of a comparison are numbered without a gap.
    last = sa.select(comparisons.c.overlap - 1).where(of_comparison).scalar_subquery()
    if assignment.opened and (
        conn.execute(places.delete().where(*the_place, is_free(), places.c.n == last), {"now": now}).rowcount
    ):
        conn.execute(comparisons.update().where(of_comparison).values(overlap=comparisons.c.overlap - 1))
        return
    newest = sa.select(routings.c.route, routings.c.round, routings.c.place_in_line)
    newest = newest.where(routings.c.comparison_id == assignment.comparison_id).order_by(routings.c.seq.desc()).limit(1)
    routed = conn.execute(newest).first()
    where = (Route.HUMAN, 0, 0) if routed is None else (Route(routed.route), routed.round, routed.place_in_line)
    if where[0] is Route.AUTO:
        return
    position = compute_queue_position(store, assignment.comparison_id, *where)
    conn.execute(places.update().where(*the_place).values(reserved_for=None, position=position))
