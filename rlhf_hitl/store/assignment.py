"""What a rater is offered next: the lanes open to them, whose head comes first, and when something is shown again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.comparisons import find_existing_ids
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.tables import Utc, comparisons, judgments, lanes, members, places, projects, prompts, raters
from rlhf_hitl.types import Route, Verdict, make_content_id, utc_now

#: A hidden repeat shows nothing of a rater's last so many judgments, and something of those before.
REPEAT_GAP, REPEAT_WINDOW = 20, 100
CANDIDATES = 50  # with the tags wished for, of which others may take some meanwhile


@dataclass(frozen=True)
class TaskFilter:
    """What a rater wants to be offered, beyond what their languages and projects allow: None and {} for anything."""

    project: str | None = None
    batch: str | None = None
    language: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


ANY_TASK = TaskFilter()
NOW = sa.bindparam("now", type_=Utc)


class Place(NamedTuple):
    comparison_id: str
    n: int


def is_free() -> sa.ColumnElement[bool]:
    """No lease is running on the place at the time bound to `now` (it may still have been filled)."""
    return sa.or_(places.c.leased_until.is_(None), places.c.leased_until <= NOW)


def may_have_more(conn: Connection, rater, holding: int, now: datetime) -> bool:
    """Neither paused nor at the end of today's quota, to which what is held counts."""
    if rater.paused_at is not None:
        return False
    if rater.quota is None:
        return True
    midnight = datetime.combine(now.date(), datetime.min.time(), now.tzinfo)
    own = sa.and_(judgments.c.rater_id == rater.id, IS_FIRST)
    newest = sa.select(judgments.c.created_at).where(own).order_by(judgments.c.seq.desc()).limit(rater.quota)
    return holding + sum(at >= midnight for at in conn.execute(newest).scalars()) < rater.quota


def next_place(
    store: Store,
    conn: Connection,
    rater,
    wish: TaskFilter,
    candidates: Sequence[str] | None,
    now: datetime,
    chance: Callable[[], float],
) -> Place | None:
    """The free place that comes first among the lanes open to a rater; among `candidates` where tags are wished for."""
    given = {"rater": rater.id, "now": now}
    if candidates is not None:
        found = conn.execute(_FIRST_OF, given | {"ids": list(candidates)}).first()
        return None if found is None else Place(found.comparison_id, found.n)
    offered = _lanes_for(conn, rater, wish)
    while offered:
        if len(offered) > 1:
            offered = _by_head(conn, offered, given)
            if not offered:
                return None
        lane = offered[0]
        found = conn.execute(_HEAD, given | {"lane": lane.id}).first()
        if found is not None:
            if lane.repeat_every and chance() < 1 / lane.repeat_every:
                again = _make_repeat(store, conn, rater.id, lane.project_id, chance)
                if again is not None:
                    return again
            return Place(found.comparison_id, found.n)
        offered = offered[1:]  # the last ones of that lane were taken this moment
    return None


def tagged(store: Store, rater_id: str, wish: TaskFilter, now: datetime | None) -> list[str]:
    """The first comparisons in line with the tags wished for.

    Tags are looked for along the line, which takes seconds where a million stand before the first that has them. So it
    is done by itself, before the lock is taken that all others wait for.
    """
    with store.read() as conn:
        now = now or store.now(conn)
        rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).first()
        if rater is None:
            return []
        query, given = _free_places(), {"rater": rater_id, "now": now}
        for key, value in wish.tags.items():
            # Entry by entry: a path into the JSON would have to quote what a tag may be called.
            each = (sa.func.json_each if store.is_sqlite else sa.func.json_each_text)(prompts.c.tags)
            entry = each.table_valued("key", "value")
            has = sa.select(1).select_from(prompts.join(entry, sa.true()))
            has = has.where(prompts.c.id == comparisons.c.prompt_id, entry.c.key == key, entry.c.value == value)
            query = query.where(has.exists())
        query = query.add_columns(places.c.position).limit(CANDIDATES)
        found = [
            (row.position, row.comparison_id)
            for lane in _lanes_for(conn, rater, wish)
            for row in conn.execute(query.where(places.c.lane_id == lane.id), given)
        ]
    return [comparison for _, comparison in sorted(found)[:CANDIDATES]]


def count_left(conn: Connection, rater_id: str, now: datetime, cap: int) -> int:
    """How many comparisons a rater could be given, besides those they hold; counting stops at `cap`."""
    rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).one()
    if rater.paused_at is not None:
        return 0
    ids = [lane.id for lane in _lanes_for(conn, rater, ANY_TASK)]
    free = _free_places().where(places.c.lane_id.in_(ids)).order_by(None)
    some = free.with_only_columns(places.c.comparison_id).distinct().limit(cap).subquery()
    return conn.execute(sa.select(sa.func.count()).select_from(some), {"rater": rater_id, "now": now}).scalar_one()


def _lanes_for(conn: Connection, rater, wish: TaskFilter) -> list:
    """The lanes of projects that go on and that the rater may work in, in languages they read."""
    query, given = _OPEN_LANES, {"rater": rater.id}
    for column, value in {lanes.c.project_id: wish.project, lanes.c.batch: wish.batch}.items():
        if value is not None:
            query = query.where(column == value)
    if rater.languages is not None:
        query = query.where(lanes.c.language.in_(["", *rater.languages]))
    if wish.language is not None:
        query = query.where(lanes.c.language == wish.language.lower())
    return list(conn.execute(query, given))


_OPEN_LANES = (
    sa.select(lanes.c.id, lanes.c.project_id, projects.c.repeat_every)
    .join(projects)
    .where(
        projects.c.paused_at.is_(None),
        sa.or_(
            projects.c.open,
            sa.exists().where(members.c.project_id == projects.c.id, members.c.rater_id == sa.bindparam("rater")),
        ),
    )
    .order_by(lanes.c.id)
)


def _by_head(conn: Connection, offered: list, given: Mapping[str, Any]) -> list:
    """Lanes that have something for the rater, the one whose head comes first in front."""
    found = conn.execute(_HEADS, {**given, "lanes": [lane.id for lane in offered]})
    heads = {lane: first for lane, first in found if first is not None}
    return sorted((lane for lane in offered if lane.id in heads), key=lambda lane: (heads[lane.id], lane.id))


def _free_places() -> sa.Select:
    """The places that rater `rater` may be given at the time `now`, first in line first."""
    mine, me = places.alias(), sa.bindparam("rater")
    return (
        sa.select(places.c.comparison_id, places.c.n)
        .select_from(places.join(comparisons, comparisons.c.id == places.c.comparison_id))
        .where(
            places.c.judgment_id.is_(None),
            is_free(),
            sa.or_(places.c.reserved_for.is_(None), places.c.reserved_for == me),
            # A place that was held while its comparison became `auto` is still there when the lease runs out.
            comparisons.c.route != Route.AUTO.value,
            ~sa.exists().where(judgments.c.comparison_id == places.c.comparison_id, judgments.c.rater_id == me),
            ~sa.exists().where(
                mine.c.comparison_id == places.c.comparison_id,
                mine.c.rater_id == me,
                mine.c.judgment_id.is_(None),
                mine.c.leased_until > NOW,
            ),
        )
        .order_by(places.c.position, places.c.n)
    )


def _first(*where: sa.ColumnElement[bool]) -> sa.Select:
    """The first of the free places, locked, past those another is just taking."""
    return _free_places().where(*where).limit(1).with_for_update(skip_locked=True, of=places)


# Statements of the busy path are built once: building one takes longer than running it.
_HEAD = _first(places.c.lane_id == sa.bindparam("lane"))
_FIRST_OF = _first(places.c.comparison_id.in_(sa.bindparam("ids", expanding=True)))
# Asked of each lane by itself: that is one step into the index, however long the lane is.
_HEADS = sa.select(
    lanes.c.id,
    _free_places()
    .with_only_columns(places.c.position)
    .where(places.c.lane_id == lanes.c.id)
    .limit(1)
    .correlate(lanes)
    .scalar_subquery(),
).where(lanes.c.id.in_(sa.bindparam("lanes", expanding=True)))


def _make_repeat(
    store: Store, conn: Connection, rater_id: str, project: str, chance: Callable[[], float]
) -> Place | None:
    """A comparison that shows a rater again what they ranked a while ago; None where there is nothing to repeat."""
    # Not the newest, which are still remembered; nor what is a repeat itself or was shown again before.
    query = (
        sa.select(comparisons, judgments.c.verdict)
        .select_from(judgments.join(comparisons, comparisons.c.id == judgments.c.comparison_id).join(lanes))
        .where(judgments.c.rater_id == rater_id, IS_FIRST, lanes.c.project_id == project)
        .order_by(judgments.c.seq.desc())
        .offset(REPEAT_GAP)
        .limit(REPEAT_WINDOW)
    )
    ranked = Verdict.RANKED.value
    rows = [r for r in conn.execute(query).mappings() if r["verdict"] == ranked and r["repeat_of"] is None]
    named = {make_content_id("x", r["completion_ids"], {"repeat_of": r["id"], "rater": rater_id}): r for r in rows}
    left = sorted(named.keys() - find_existing_ids(conn, "comparisons", named))
    if not left:
        return None
    id = left[int(chance() * len(left))]
    first = named[id]
    same = {k: first[k] for k in ("prompt_id", "completion_ids", "source", "lane_id")}
    new = {"id": id, "overlap": 1, "route": Route.HUMAN.value, "created_at": utc_now(), "repeat_of": first["id"]}
    conn.execute(comparisons.insert().values(same | new))
    # In front of the line: should the rater let it run out, it is the first they get.
    place = {"comparison_id": id, "n": 0, "lane_id": first["lane_id"], "position": 0, "reserved_for": rater_id}
    conn.execute(places.insert().values(place))
    return Place(id, 0)
