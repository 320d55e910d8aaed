"""Places on golds, which are reserved for one rater: hidden among the others, or before all others, to qualify.

They are made when they are leased, as those of hidden repeats are. The rater is locked meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.comparisons import FIRST_PLACE
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.queue.places import Place
from rlhf_hitl.store.queue.qualifying import begin_attempt
from rlhf_hitl.store.tables import comparisons, judgments, places
from rlhf_hitl.types import GoldPurpose, Qualification, Role, Route, make_content_id, utc_now

#: The id of the gold that a comparison is, or that it repeats in a later attempt to qualify.
GOLD_ID = sa.func.coalesce(comparisons.c.repeat_of, comparisons.c.id)
_RATER = sa.bindparam("rater")


def create_gold_place(
    store: Store,
    conn: Connection,
    rater_id: str,
    project: str,
    lane_ids: Sequence[int],
    position: int,
    chance: Callable[[], float],
    most: int,
) -> Place | None:
    """Create the place of a hidden gold that a rater has not answered; None where there is none.

    Args:
        lane_ids: the lanes of the project that are open to the rater, whatever batch they ask for.
        position: of the place that would have come: the gold's is just before it.
        most: how many golds may wait for the rater; there is none while as many do.
    """
    waiting = conn.execute(_WAITING, {"rater": rater_id, "project": project, "purpose": GoldPurpose.HIDDEN.value}).all()
    if len(waiting) >= most:
        return None
    parameters = {"rater": rater_id, "project": project, "lanes": list(lane_ids)}
    new = sorted(set(conn.execute(_UNANSWERED, parameters).scalars()) - {place.gold_id for place in waiting})
    if not new:
        return None
    return _open_place(store, conn, rater_id, new[int(chance() * len(new))], max(position - 1, 0))


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
    answered = conn.execute(_ANSWERED, of_project).all()
    # The newest answers are those that the attempt has counted. One that came too late tells the rater as much.
    counted = [row.gold_id for row in answered if not row.surplus][: attempt.answered]
    asked, known = {*counted, *(place.gold_id for place in waiting)}, Counter(row.gold_id for row in answered)
    left = sorted(gold_id for gold_id, _ in offered if gold_id not in asked)
    # What they have never answered first; then again what they answered in an earlier attempt.
    candidates = [gold_id for gold_id in left if gold_id not in known] or left
    if not candidates:
        return None
    gold_id = candidates[int(chance() * len(candidates))]
    if gold_id not in known:
        return _open_place(store, conn, rater_id, gold_id, 0)
    return _open_repeat(store, conn, rater_id, gold_id, known[gold_id])


def _open_place(store: Store, conn: Connection, rater_id: str, gold_id: str, position: int) -> Place:
    """Open a place of a gold for one rater.

    Its number is drawn for the rater. Counting the places exactly would need a lock on the gold's comparison, and a
    place of another comparison is locked already while a hidden gold is given (`locks.py` has the order). The number
    says which completion stands first, so it goes on from the places that can be seen, as others do.
    """
    gold = conn.execute(_COUNT_PLACES, {"gold": gold_id}).one()
    sides = len(gold.completion_ids)
    place = {"comparison_id": gold_id, "lane_id": gold.lane_id, "position": position, "reserved_for": rater_id}
    for attempt in count():
        drawn = store.draw("gold place", f"{gold_id}:{rater_id}:{attempt}", FIRST_PLACE[Role.JUDGE.value] // sides)
        n = drawn * sides + gold.places % sides
        if store.insert_new(conn, places, [place | {"n": n}]):
            return Place(gold_id, n)
    raise AssertionError("numbers never end")


_COUNT_PLACES = sa.select(
    comparisons.c.lane_id,
    comparisons.c.completion_ids,
    sa.select(sa.func.count()).where(places.c.comparison_id == sa.bindparam("gold")).scalar_subquery().label("places"),
).where(comparisons.c.id == sa.bindparam("gold"))


def _open_repeat(store: Store, conn: Connection, rater_id: str, gold_id: str, times: int) -> Place:
    """Open the place of a comparison that asks a rater a gold again, which they have answered so many times."""
    original = conn.execute(sa.select(comparisons).where(comparisons.c.id == gold_id)).mappings().one()
    repeat_id = make_content_id("x", original["completion_ids"], {"repeat_of": gold_id, "rater": rater_id, "n": times})
    copied = {name: original[name] for name in ("prompt_id", "completion_ids", "source", "lane_id")}
    values = {"id": repeat_id, "overlap": 1, "route": Route.HUMAN.value, "created_at": utc_now(), "repeat_of": gold_id}
    store.insert_new(conn, comparisons, [copied | values])
    place = {"comparison_id": repeat_id, "n": 0, "lane_id": original["lane_id"], "position": 0}
    conn.execute(places.insert().values(place | {"reserved_for": rater_id}))
    return Place(repeat_id, 0)


def drop_place(conn: Connection, rater_id: str, comparison_id: str) -> None:
    """Remove a rater's unfilled place of a gold whose answer came too late to fill it.

    They have seen the gold, so the place could never be filled. An attempt to qualify asks another, or this one again.
    """
    conn.execute(_DROP, {"rater": rater_id, "comparison": comparison_id})


_DROP = places.delete().where(
    places.c.comparison_id == sa.bindparam("comparison"),
    places.c.reserved_for == _RATER,
    places.c.judgment_id.is_(None),
)


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
#: The golds of a purpose that a rater has answered in a project, the newest answer first; also too late to count.
_ANSWERED = (
    sa.select(GOLD_ID.label("gold_id"), judgments.c.surplus)
    .select_from(judgments)
    .join(comparisons, comparisons.c.id == judgments.c.comparison_id)
    .join(golds, golds.c.comparison_id == GOLD_ID)
    .where(
        judgments.c.rater_id == _RATER,
        IS_FIRST,
        golds.c.project_id == sa.bindparam("project"),
        golds.c.purpose == sa.bindparam("purpose"),
    )
    .order_by(judgments.c.seq.desc())
)
