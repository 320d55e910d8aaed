"""Places on golds, which are reserved for one rater: hidden among the others, or before all others, to qualify.

They are made when they are leased, as those of hidden repeats are. The rater is locked meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.queue.places import Place
from rlhf_hitl.store.queue.qualifying import begin_attempt
from rlhf_hitl.store.tables import comparisons, judgments, places
from rlhf_hitl.types import GoldPurpose, Qualification, Route, make_content_id, utc_now

#: The id of the gold that a comparison is, or that it repeats in a later attempt to qualify.
GOLD_ID = sa.func.coalesce(comparisons.c.repeat_of, comparisons.c.id)
_RATER = sa.bindparam("rater")


def create_gold_place(
    conn: Connection,
    rater_id: str,
    project: str,
    lane_ids: Sequence[int],
    conditions: Sequence[sa.ColumnElement[bool]],
    position: int,
    chance: Callable[[], float],
    most: int,
) -> Place | None:
    """Create the place of a hidden gold that a rater has not answered; None where there is none.

    Args:
        lane_ids: the lanes of the project that are open to the rater.
        conditions: what else comparisons must fit, that the rater asks for.
        position: of the place that would have come: the gold's is just before it.
        most: how many golds may wait for the rater; there is none while as many do.
    """
    waiting = conn.execute(_WAITING, {"rater": rater_id, "project": project, "purpose": GoldPurpose.HIDDEN.value}).all()
    if len(waiting) >= most:
        return None
    parameters = {"rater": rater_id, "project": project, "lanes": list(lane_ids)}
    new = sorted(
        set(conn.execute(_UNANSWERED.where(*conditions), parameters).scalars()) - {place.gold_id for place in waiting}
    )
    if not new:
        return None
    return _open_place(conn, rater_id, new[int(chance() * len(new))], max(position - 1, 0))


def find_qualification_place(
    store: Store,
    conn: Connection,
    rater_id: str,
    standing: Qualification,
    lane_ids: Sequence[int],
    now: datetime,
    chance: Callable[[], float],
) -> Place | None:
    """Return the place of the next gold of a rater's attempt to qualify; the attempt begins where none goes on.

    None where they hold all that are still asked of them, or no gold is in a lane that is open to them.
    """
    of_project = {"rater": rater_id, "project": standing.project, "purpose": GoldPurpose.QUALIFICATION.value}
    waiting = conn.execute(_WAITING.with_for_update(of=places), of_project).all()
    held = [place for place in waiting if place.leased_until is not None and place.leased_until > now]
    if standing.answered + len(held) >= standing.golds:
        return None
    if unheld := [place for place in waiting if place not in held and place.lane_id in lane_ids]:
        return Place(unheld[0].comparison_id, unheld[0].n)
    offered = conn.execute(_FOR_QUALIFICATION, {"project": standing.project, "lanes": list(lane_ids)}).all()
    if not offered:
        return None
    attempt = begin_attempt(conn, rater_id, standing.project, now)
    answered = list(conn.execute(_ANSWERED, of_project).scalars())
    # The newest answers are those that the attempt has counted.
    asked, known = {*answered[: attempt.answered], *(place.gold_id for place in waiting)}, set(answered)
    left = sorted(gold_id for gold_id, _ in offered if gold_id not in asked)
    # What they have never answered first; then again what they answered in an earlier attempt.
    candidates = [gold_id for gold_id in left if gold_id not in known] or left
    if not candidates:
        return None
    gold_id = candidates[int(chance() * len(candidates))]
    if gold_id not in known:
        return _open_place(conn, rater_id, gold_id, 0)
    return _open_repeat(store, conn, rater_id, gold_id, attempt.attempt)


def _open_place(conn: Connection, rater_id: str, gold_id: str, position: int) -> Place:
    """Open a place of a gold for one rater. The overlap of a gold counts its places, and numbers them."""
    counted = comparisons.update().where(comparisons.c.id == gold_id).values(overlap=comparisons.c.overlap + 1)
    opened = conn.execute(counted.returning(comparisons.c.overlap, comparisons.c.lane_id)).one()
    place = {"comparison_id": gold_id, "n": opened.overlap - 1, "lane_id": opened.lane_id, "position": position}
    conn.execute(places.insert().values(place | {"reserved_for": rater_id}))
    return Place(gold_id, opened.overlap - 1)


def _open_repeat(store: Store, conn: Connection, rater_id: str, gold_id: str, attempt: int) -> Place:
    """Open the place of a comparison that asks a rater a gold again, in a later attempt to qualify."""
    original = conn.execute(sa.select(comparisons).where(comparisons.c.id == gold_id)).mappings().one()
    told_apart = {"repeat_of": gold_id, "rater": rater_id, "attempt": attempt}
    repeat_id = make_content_id("x", original["completion_ids"], told_apart)
    copied = {name: original[name] for name in ("prompt_id", "completion_ids", "source", "lane_id")}
    values = {"id": repeat_id, "overlap": 1, "route": Route.HUMAN.value, "created_at": utc_now(), "repeat_of": gold_id}
    store.insert_new(conn, comparisons, [copied | values])
    place = {"comparison_id": repeat_id, "n": 0, "lane_id": original["lane_id"], "position": 0}
    conn.execute(places.insert().values(place | {"reserved_for": rater_id}))
    return Place(repeat_id, 0)


def count_asked(conn: Connection, rater_id: str, standing: Qualification, now: datetime) -> int:
    """Return how many golds a rater has still to be given in their attempt to qualify, without those they hold."""
    of_project = {"rater": rater_id, "project": standing.project, "purpose": GoldPurpose.QUALIFICATION.value}
    held = [p for p in conn.execute(_WAITING, of_project) if p.leased_until is not None and p.leased_until > now]
    return max(0, standing.golds - standing.answered - len(held))


def is_asked_to_qualify(conn: Connection, rater_id: str, comparison_id: str) -> bool:
    """Return whether an unfilled place on a gold for qualification is reserved for a rater."""
    query = _WAITING_ANYWHERE.where(places.c.comparison_id == comparison_id)
    parameters = {"rater": rater_id, "purpose": GoldPurpose.QUALIFICATION.value}
    return conn.execute(query, parameters).first() is not None


#: The unfilled places on golds of a purpose that are reserved for a rater: of all projects, or of one.
_WAITING_ANYWHERE = (
    sa.select(places.c.comparison_id, places.c.n, places.c.lane_id, places.c.leased_until, GOLD_ID.label("gold_id"))
    .join(comparisons, comparisons.c.id == places.c.comparison_id)
    .join(golds, golds.c.comparison_id == GOLD_ID)
    .where(
        places.c.reserved_for == _RATER,
        places.c.judgment_id.is_(None),
        golds.c.purpose == sa.bindparam("purpose"),
    )
    .order_by(places.c.comparison_id)
)
_WAITING = _WAITING_ANYWHERE.where(golds.c.project_id == sa.bindparam("project"))
_OFFERED = (
    sa.select(golds.c.comparison_id, comparisons.c.lane_id)
    .join(comparisons, comparisons.c.id == golds.c.comparison_id)
    .where(
        golds.c.project_id == sa.bindparam("project"),
        golds.c.ended_at.is_(None),
        comparisons.c.lane_id.in_(sa.bindparam("lanes", expanding=True)),
    )
)
_FOR_QUALIFICATION = _OFFERED.where(golds.c.purpose == GoldPurpose.QUALIFICATION.value)
_UNANSWERED = _OFFERED.where(
    golds.c.purpose == GoldPurpose.HIDDEN.value,
    ~sa.exists().where(judgments.c.comparison_id == golds.c.comparison_id, judgments.c.rater_id == _RATER),
)
#: The golds of a purpose that a rater has answered in a project, the newest answer first.
_ANSWERED = (
    sa.select(GOLD_ID.label("gold_id"))
    .select_from(judgments)
    .join(comparisons, comparisons.c.id == judgments.c.comparison_id)
    .join(golds, golds.c.comparison_id == GOLD_ID)
    .where(
        judgments.c.rater_id == _RATER,
        IS_FIRST,
        judgments.c.surplus.is_(False),
        golds.c.project_id == sa.bindparam("project"),
        golds.c.purpose == sa.bindparam("purpose"),
    )
    .order_by(judgments.c.seq.desc())
)
