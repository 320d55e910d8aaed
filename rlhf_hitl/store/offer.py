"""What a rater is offered next: the lanes open to them, whose head comes first, and when something is shown again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store import catalog
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import Utc, comparisons, judgments, lanes, members, places, projects, prompts, raters
from rlhf_hitl.types import Route, Verdict, content_id, utc_now

#: A hidden repeat shows nothing of a rater's last so many judgments, and something of those before.
REPEAT_GAP, REPEAT_WINDOW = 20, 100


@dataclass(frozen=True)
class Wish:
    """What a rater wants to be offered, beyond what their languages and projects allow: None and {} for anything."""

    project: str | None = None
    batch: str | None = None
    language: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


ANYTHING = Wish()
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
    own = sa.and_(judgments.c.rater_id == rater.id, judgments.c.supersedes.is_(None))
    newest = sa.select(judgments.c.created_at).where(own).order_by(judgments.c.seq.desc()).limit(rater.quota)
    return holding + sum(at >= midnight for at in conn.execute(newest).scalars()) < rater.quota


def next_place(
    store: Store, conn: Connection, rater, wish: Wish, now: datetime, chance: Callable[[], float]
) -> Place | None:
    """The free place that comes first among the lanes open to a rater."""
    offered = _lanes_for(conn, rater, wish)
    while offered:
        if len(offered) > 1:
            offered = _by_head(store, conn, offered, rater.id, wish, now)
            if not offered:
                return None
        lane = offered[0]
        head = _head(store.is_sqlite, len(wish.tags))
        found = conn.execute(head, _bound(rater.id, wish, now) | {"lane": lane.id}).first()
        if found is not None:
            if lane.repeat_every and chance() < 1 / lane.repeat_every:
                again = _make_repeat(store, conn, rater.id, lane.project_id, chance)
                if again is not None:
                    return again
            return Place(found.comparison_id, found.n)
        offered = offered[1:]  # the last ones of that lane were taken this moment
    return None


def count_left(store: Store, conn: Connection, rater_id: str, now: datetime, cap: int) -> int:
    """How many comparisons a rater could be given, besides those they hold; counting stops at `cap`."""
    rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).one()
    if rater.paused_at is not None:
        return 0
    ids = [lane.id for lane in _lanes_for(conn, rater, ANYTHING)]
    free = _free_places(store.is_sqlite, 0).where(places.c.lane_id.in_(ids)).order_by(None)
    some = free.with_only_columns(places.c.comparison_id).distinct().limit(cap).subquery()
    query = sa.select(sa.func.count()).select_from(some)
    return conn.execute(query, _bound(rater_id, ANYTHING, now)).scalar_one()


def _lanes_for(conn: Connection, rater, wish: Wish) -> list:
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


def _by_head(store: Store, conn: Connection, offered: list, rater_id: str, wish: Wish, now: datetime) -> list:
    """Lanes that have something for the rater, the one whose head comes first in front."""
    given = _bound(rater_id, wish, now) | {"lanes": [lane.id for lane in offered]}
    found = conn.execute(_heads(store.is_sqlite, len(wish.tags)), given)
    heads = {lane: first for lane, first in found if first is not None}
    return sorted((lane for lane in offered if lane.id in heads), key=lambda lane: (heads[lane.id], lane.id))


# Statements are built once for each number of tags asked for: building one takes longer than running it.


@lru_cache(maxsize=64)
def _head(sqlite: bool, tags: int) -> sa.Select:
    """The first place of lane `lane` for a rater, locked, past those another is just taking."""
    free = _free_places(sqlite, tags).where(places.c.lane_id == sa.bindparam("lane"))
    return free.limit(1).with_for_update(skip_locked=True, of=places)


@lru_cache(maxsize=64)
def _heads(sqlite: bool, tags: int) -> sa.Select:
    """Lane → position of its head, of the lanes in `lanes`."""
    # Asked of each lane by itself: that is one step into the index, however long the lane is.
    head = _free_places(sqlite, tags).with_only_columns(places.c.position).where(places.c.lane_id == lanes.c.id)
    first = head.limit(1).correlate(lanes).scalar_subquery()
    return sa.select(lanes.c.id, first).where(lanes.c.id.in_(sa.bindparam("lanes", expanding=True)))


def _free_places(sqlite: bool, tags: int) -> sa.Select:
    """The places that rater `rater` may be given, first in line first; for values see `_bound`."""
    mine, me = places.alias(), sa.bindparam("rater")
    query = (
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
    for i in range(tags):
        # Entry by entry: a path into the JSON would have to quote what a tag may be called.
        each = (sa.func.json_each if sqlite else sa.func.json_each_text)(prompts.c.tags).table_valued("key", "value")
        is_it = (each.c.key == sa.bindparam(f"key_{i}"), each.c.value == sa.bindparam(f"value_{i}"))
        entry = sa.select(1).select_from(prompts.join(each, sa.true()))
        query = query.where(entry.where(prompts.c.id == comparisons.c.prompt_id, *is_it).exists())
    return query


def _bound(rater_id: str, wish: Wish, now: datetime) -> dict[str, Any]:
    given: dict[str, Any] = {"rater": rater_id, "now": now}
    for i, (key, value) in enumerate(wish.tags.items()):
        given |= {f"key_{i}": key, f"value_{i}": value}
    return given


def _make_repeat(
    store: Store, conn: Connection, rater_id: str, project: str, chance: Callable[[], float]
) -> Place | None:
    """A comparison that shows a rater again what they ranked a while ago; None where there is nothing to repeat."""
    # Not the newest, which are still remembered; nor what is a repeat itself or was shown again before.
    query = (
        sa.select(comparisons, judgments.c.verdict)
        .select_from(judgments.join(comparisons, comparisons.c.id == judgments.c.comparison_id).join(lanes))
        .where(judgments.c.rater_id == rater_id, judgments.c.supersedes.is_(None), lanes.c.project_id == project)
        .order_by(judgments.c.seq.desc())
        .offset(REPEAT_GAP)
        .limit(REPEAT_WINDOW)
    )
    ranked = Verdict.RANKED.value
    rows = [r for r in conn.execute(query).mappings() if r["verdict"] == ranked and r["repeat_of"] is None]
    named = {content_id("x", r["completion_ids"], {"repeat_of": r["id"], "rater": rater_id}): r for r in rows}
    left = sorted(named.keys() - catalog.known_ids(conn, "comparisons", named))
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
