"""Which place a rater is given next: of the lanes open to them the one whose head comes first, repeats and golds.

A lane is a partition of the queue (project, language, batch). All places of a lane are alike to a rater's languages and
to a task filter, so the next place is the head of a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.comparisons import find_existing_ids, measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import IS_FIRST
from rlhf_hitl.store.known_names import find_spellings
from rlhf_hitl.store.queue import gold_places
from rlhf_hitl.store.queue.places import LEAD, NOW, ROLE, Place, is_free
from rlhf_hitl.store.queue.qualifying import load_standing, must_qualify
from rlhf_hitl.store.tables import comparisons, judgments, lanes, members, places, projects, prompts, raters
from rlhf_hitl.types import (
    Qualification,
    QualificationRule,
    QualificationState,
    Route,
    Verdict,
    make_content_id,
    utc_now,
)

#: A hidden repeat is not one of a rater's newest REPEAT_GAP judgments, but one of the REPEAT_WINDOW before those.
REPEAT_GAP, REPEAT_WINDOW = 20, 100
#: Comparisons that a rater may ask for over the API, and hold at once when one that ran out is renewed.
MOST_HELD = 20
#: How many comparisons with the tags of a filter are looked up; other raters may take some of them meanwhile.
CANDIDATES = 50


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks a rater asks for, among those their languages and projects allow. None and {} ask for any.

    Whether there is a task for a filter tells something of that task. So a filter that was chosen `by_rater` finds only
    tasks of projects that open it to raters: see `Project.rater_filters`.
    """

    project: str | None = None
    batch: str | None = None
    language: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    by_rater: bool = False

    @property
    def to_be_open(self) -> set[str]:
        """The names of the filters that a project must have opened to raters."""
        if not self.by_rater:
            return set()
        return {f"tags.{key}" for key in self.tags} | ({"batch"} if self.batch is not None else set())


ANY_TASK = TaskFilter()


def may_lease_more(conn: Connection, rater, held: int, now: datetime) -> bool:
    """Return whether a rater is neither paused nor at the end of today's quota. What they hold counts towards it."""
    return rater.paused_at is None and is_below_quota(conn, rater, held, now)


def is_below_quota(conn: Connection, rater, held: int, now: datetime) -> bool:
    """Return whether a rater who holds some comparisons may judge one more today."""
    if rater.quota is None:
        return True
    midnight = datetime.combine(now.date(), datetime.min.time(), now.tzinfo)
    own = sa.and_(judgments.c.rater_id == rater.id, IS_FIRST)
    newest = sa.select(judgments.c.created_at).where(own).order_by(judgments.c.seq.desc()).limit(rater.quota)
    return held + sum(at >= midnight for at in conn.execute(newest).scalars()) < rater.quota


def find_next_place(
    store: Store,
    conn: Connection,
    rater,
    task_filter: TaskFilter,
    candidates: Sequence[str] | None,
    now: datetime,
    chance: Callable[[], float],
    role: str = "",
) -> Place | None:
    """Return the free place that comes first in the lanes open to a rater, or first among `candidates` if given.

    The place is locked, not yet leased. It may be that of a hidden repeat or a gold, which is created here. Where the
    rater has to qualify first, it is that of a gold for it.

    Args:
        candidates: ids of the comparisons that have the tags of the filter.
        chance: returns a number in [0, 1), which decides whether a hidden repeat or a gold comes next.
        role: whose places: of raters (empty), judges or leads. Only raters get repeats and golds.
    """
    filtered = _load_open_lanes(conn, rater, task_filter, role)
    lanes_at_work, asked = _split_lanes(conn, rater, filtered, now)
    # Golds have no batch and no tags: a filter by those would be a way round them.
    without = TaskFilter(task_filter.project, language=task_filter.language)
    of_golds = filtered if task_filter.batch is None else _load_open_lanes(conn, rater, without, role)
    for standing, _ in asked:
        lane_ids = [lane.id for lane in of_golds if lane.project_id == standing.project]
        place = gold_places.find_qualification_place(store, conn, rater.id, standing, lane_ids, now, chance)
        if place is not None:
            return place
    open_lanes = {lane.id: lane for lane in lanes_at_work}
    head = _find_head(conn, lanes_at_work, candidates, {"rater": rater.id, "now": now, "working_role": role})
    if head is None:
        return None
    lane = open_lanes[head.lane_id]
    # A repeat fits the filter too: otherwise it would show by that.
    fitting = [other.id for other in lanes_at_work if other.project_id == lane.project_id]
    measuring = None
    if not role and lane.gold_every and chance() < 1 / lane.gold_every:
        most = max(1, MOST_HELD // lane.gold_every)
        lane_ids = [other.id for other in of_golds if other.project_id == lane.project_id]
        measuring = gold_places.create_gold_place(
            store, conn, rater.id, lane.project_id, lane_ids, head.position, chance, most
        )
    if not role and measuring is None and lane.repeat_every and chance() < 1 / lane.repeat_every:
        measuring = _create_repeat(store, conn, rater.id, lane, fitting, task_filter, head.position, chance)
    return measuring or Place(head.comparison_id, head.n)


def _find_head(
    conn: Connection, open_lanes: list, candidates: Sequence[str] | None, parameters: Mapping[str, Any]
) -> Any | None:
    """Return the comparison_id, n, lane_id and position of the place that comes first; it is locked."""
    if candidates is not None:
        of_filter = {"ids": list(candidates), "lanes": [lane.id for lane in open_lanes]}
        return conn.execute(_FIRST_OF_CANDIDATES, {**parameters, **of_filter}).first()
    while open_lanes:
        if len(open_lanes) > 1:
            open_lanes = _sort_by_head(conn, open_lanes, parameters)
            if not open_lanes:
                return None
        head = conn.execute(_HEAD_OF_LANE, {**parameters, "lane": open_lanes[0].id}).first()
        if head is not None:
            return head
        open_lanes = open_lanes[1:]  # other raters took the last places of that lane at this moment
    return None


def find_tagged(store: Store, rater_id: str, task_filter: TaskFilter, now: datetime | None) -> list[str]:
    """Return the ids of the first comparisons in line that have the tags of a filter.

    This scans the lanes in order, which takes seconds where a million comparisons stand before the first one that has
    the tags. So it runs in a transaction of its own, before the lock is taken that all others wait for.
    """
    with store.read() as conn:
        now = now or store.now(conn)
        rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).first()
        if rater is None:
            return []
        query, parameters = _select_free_places(), {"rater": rater_id, "now": now}
        query = query.where(*_have_tags(store, task_filter.tags))
        query = query.add_columns(places.c.position).limit(CANDIDATES)
        candidates = [
            (row.position, row.comparison_id)
            for lane in _split_lanes(conn, rater, _load_open_lanes(conn, rater, task_filter), now)[0]
            for row in conn.execute(query.where(places.c.lane_id == lane.id), parameters)
        ]
    return [comparison_id for _, comparison_id in sorted(candidates)[:CANDIDATES]]


def _have_tags(store: Store, tags: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that the prompt of a statement's comparison has these tags."""
    conditions = []
    for key, value in tags.items():
        # Entry by entry, because a path into the JSON would have to quote the names of tags.
        each = (sa.func.json_each if store.is_sqlite else sa.func.json_each_text)(prompts.c.tags)
        entry = each.table_valued("key", "value")
        tag = sa.select(1).select_from(prompts.join(entry, sa.true()))
        tag = tag.where(prompts.c.id == comparisons.c.prompt_id, entry.c.key == key, entry.c.value == value)
        conditions.append(tag.correlate(comparisons).exists())
    return conditions


def count_available(conn: Connection, rater_id: str, now: datetime, cap: int) -> int:
    """Count the comparisons a rater could be given, without those they hold. Counting stops at `cap`."""
    rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).one()
    if rater.paused_at is not None:
        return 0
    lanes_at_work, asked = _split_lanes(conn, rater, _load_open_lanes(conn, rater, ANY_TASK), now)
    lane_ids = [lane.id for lane in lanes_at_work]
    # Without hidden repeats and golds, which would show by a count that grows.
    free = _select_free_places().where(places.c.lane_id.in_(lane_ids), ~measures_raters()).order_by(None)
    capped = free.with_only_columns(places.c.comparison_id).distinct().limit(cap).subquery()
    counted = conn.execute(sa.select(sa.func.count()).select_from(capped), {"rater": rater_id, "now": now}).scalar_one()
    return counted + sum(gold_places.count_asked(conn, rater_id, standing, now) for standing, _ in asked)


def _split_lanes(
    conn: Connection, rater: Any, open_lanes: Sequence[Any], now: datetime
) -> tuple[list[Any], list[tuple[Qualification, list[int]]]]:
    """Return the lanes in which a rater works, and for each project that asks them to qualify, its lanes' ids."""
    asking = {lane.project_id: lane.qualification for lane in open_lanes if lane.qualification is not None}
    if not asking or not must_qualify(rater):
        return list(open_lanes), []
    standings = {
        project: load_standing(conn, rater.id, project, QualificationRule(**rule), now)
        for project, rule in asking.items()
    }
    at_work, asked = [], {}
    for lane in open_lanes:
        standing = standings.get(lane.project_id)
        if standing is None or standing.state is QualificationState.QUALIFIED:
            at_work.append(lane)
        elif standing.state is QualificationState.ASKED:
            asked.setdefault(lane.project_id, (standing, []))[1].append(lane.id)
    return at_work, list(asked.values())


def _load_open_lanes(conn: Connection, rater, task_filter: TaskFilter, role: str = "") -> list:
    """Return the lanes in languages the rater reads, of projects that are not paused and that they may work in.

    Leads decide in every project.
    """
    query = _OPEN_LANES if role == LEAD else _RATERS_LANES
    if task_filter.project is not None:
        query = query.where(lanes.c.project_id == task_filter.project)
    if task_filter.batch is not None:
        query = query.where(lanes.c.batch.in_(find_spellings(conn, task_filter.batch)))
    if rater.languages is not None:
        query = query.where(lanes.c.language.in_(["", *rater.languages]))
    if task_filter.language is not None:
        query = query.where(lanes.c.language == task_filter.language.lower())
    rows = list(conn.execute(query, {} if role == LEAD else {"rater": rater.id}))
    to_be_open = task_filter.to_be_open
    return [row for row in rows if to_be_open <= set(row.rater_filters or ())] if to_be_open else rows


def is_open_to(conn: Connection, rater: Any, comparison_id: str, now: datetime, role: str = "") -> bool:
    """Return whether a comparison is for raters (or those of a working role), and in a lane open to this one.

    Who has to qualify first works on golds for that alone.
    """
    query = sa.select(comparisons.c.lane_id, comparisons.c.route).where(comparisons.c.id == comparison_id)
    comparison = conn.execute(query).one()
    at_work, asked = _split_lanes(conn, rater, _load_open_lanes(conn, rater, ANY_TASK, role), now)
    if any(comparison.lane_id in lane_ids for _, lane_ids in asked):
        return gold_places.is_asked_to_qualify(conn, rater.id, comparison_id)
    return comparison.route != Route.AUTO.value and any(lane.id == comparison.lane_id for lane in at_work)


def may_work_at(conn: Connection, rater_id: str, comparison_id: str) -> bool:
    """Return whether a comparison is of a project that is open to a rater, paused or not, whatever they read."""
    project = sa.select(lanes.c.project_id).join(comparisons).where(comparisons.c.id == comparison_id).scalar_subquery()
    is_member = sa.exists().where(members.c.project_id == projects.c.id, members.c.rater_id == rater_id)
    query = sa.select(projects.c.id).where(projects.c.id == project, sa.or_(projects.c.open, is_member))
    return conn.execute(query).first() is not None


def check_filter_is_open(store: Store, rater_id: str, task_filter: TaskFilter) -> None:
    """Check that a project in which a rater works opens to raters what their filter uses.

    Raises:
        BadInput: none does.
    """
    to_be_open = task_filter.to_be_open
    if not to_be_open:
        return
    with store.read() as conn:
        rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).first()
        rows = [] if rater is None else _load_open_lanes(conn, rater, TaskFilter(task_filter.project))
    if not any(to_be_open <= set(row.rater_filters) for row in rows):
        raise BadInput(
            f"filter by {', '.join(sorted(to_be_open))}",
            expected="what a project lets raters choose by",
            fix="leave it out, or ask a lead to open it (`rlhf-hitl projects set NAME --rater-filter batch`)",
        )


_OPEN_LANES = (
    sa.select(
        *(lanes.c[name] for name in ("id", "project_id")),
        *(projects.c[name] for name in ("repeat_every", "rater_filters", "gold_every", "qualification")),
    )
    .join(projects)
    .where(projects.c.paused_at.is_(None))
    .order_by(lanes.c.id)
)
_IS_OPEN_TO_RATER = sa.or_(
    projects.c.open,
    sa.exists().where(members.c.project_id == projects.c.id, members.c.rater_id == sa.bindparam("rater")),
)
_RATERS_LANES = _OPEN_LANES.where(_IS_OPEN_TO_RATER)


def _sort_by_head(conn: Connection, open_lanes: list, parameters: Mapping[str, Any]) -> list:
    """Return the lanes that have a free place for the rater, sorted by the position of their first one."""
    rows = conn.execute(_HEADS, {**parameters, "lanes": [lane.id for lane in open_lanes]})
    heads = {lane_id: position for lane_id, position in rows if position is not None}
    return sorted((lane for lane in open_lanes if lane.id in heads), key=lambda lane: (heads[lane.id], lane.id))


def _select_free_places() -> sa.Select:
    """Select the places that the rater bound to `rater` may be given at the time bound to `now`, in line order.

    They are those of raters, or of the working role bound to `working_role`.
    """
    held, rater = places.alias(), sa.bindparam("rater")
    return (
        sa.select(places.c.comparison_id, places.c.n)
        .select_from(places.join(comparisons, comparisons.c.id == places.c.comparison_id))
        .where(
            places.c.judgment_id.is_(None),
            places.c.role == ROLE,
            is_free(),
            sa.or_(places.c.reserved_for.is_(None), places.c.reserved_for == rater),
            # A place that was leased while its comparison became `auto` is still there when the lease runs out.
            comparisons.c.route != Route.AUTO.value,
            ~sa.exists().where(judgments.c.comparison_id == places.c.comparison_id, judgments.c.rater_id == rater),
            ~sa.exists().where(
                held.c.comparison_id == places.c.comparison_id,
                held.c.rater_id == rater,
                held.c.judgment_id.is_(None),
                held.c.leased_until > NOW,
            ),
        )
        .order_by(places.c.position, places.c.n)
    )


def _lock_first(*where: sa.ColumnElement[bool]) -> sa.Select:
    """Select the first free place and lock it, skipping places that another transaction has locked."""
    first = _select_free_places().add_columns(places.c.lane_id, places.c.position).where(*where).limit(1)
    return first.with_for_update(skip_locked=True, of=places)


# Statements of the busy path are built once: building one takes longer than running it.
_HEAD_OF_LANE = _lock_first(places.c.lane_id == sa.bindparam("lane"))
_FIRST_OF_CANDIDATES = _lock_first(
    places.c.comparison_id.in_(sa.bindparam("ids", expanding=True)),
    places.c.lane_id.in_(sa.bindparam("lanes", expanding=True)),
)
# One subquery for each lane, because that is one step into the index, however long the lane is.
_HEADS = sa.select(
    lanes.c.id,
    _select_free_places()
    .with_only_columns(places.c.position)
    .where(places.c.lane_id == lanes.c.id)
    .limit(1)
    .correlate(lanes)
    .scalar_subquery(),
).where(lanes.c.id.in_(sa.bindparam("lanes", expanding=True)))


def _create_repeat(
    store: Store,
    conn: Connection,
    rater_id: str,
    lane: Any,
    lane_ids: Sequence[int],
    task_filter: TaskFilter,
    position: int,
    chance: Callable[[], float],
) -> Place | None:
    """Create a hidden repeat, a comparison that shows a rater again what they ranked a while ago, and its place.

    Returns None where there is nothing to repeat, or as much of it was repeated already as a project wants.
    """
    # Neither the newest, which the rater still remembers, nor what is a repeat itself or was repeated before.
    query = (
        sa.select(comparisons, judgments.c.verdict)
        .select_from(judgments.join(comparisons, comparisons.c.id == judgments.c.comparison_id))
        .where(judgments.c.rater_id == rater_id, IS_FIRST, comparisons.c.lane_id.in_(lane_ids))
        .where(comparisons.c.is_gold.is_not(True))
        .where(*_have_tags(store, task_filter.tags))
        .order_by(judgments.c.seq.desc())
        .offset(REPEAT_GAP)
        .limit(REPEAT_WINDOW)
    )
    ranked = Verdict.RANKED.value
    rows = [row for row in conn.execute(query).mappings() if row["verdict"] == ranked and row["repeat_of"] is None]
    originals = {
        make_content_id("x", row["completion_ids"], {"repeat_of": row["id"], "rater": rater_id}): row for row in rows
    }
    repeated = find_existing_ids(conn, "comparisons", originals)
    new_ids = sorted(originals.keys() - repeated)
    # A rater who leases and gives back as often as they like gets no more repeats than others do at most.
    if not new_ids or len(repeated) + 1 > max(1, len(originals) / lane.repeat_every):
        return None
    repeat_id = new_ids[int(chance() * len(new_ids))]
    original = originals[repeat_id]
    copied = {name: original[name] for name in ("prompt_id", "completion_ids", "source", "lane_id")}
    values = {"id": repeat_id, "overlap": 1, "route": Route.HUMAN.value, "created_at": utc_now()}
    conn.execute(comparisons.insert().values(copied | values | {"repeat_of": original["id"]}))
    # Just before the place that would have come, so that it comes where it came if the lease on it is given back.
    place = {"comparison_id": repeat_id, "n": 0, "lane_id": original["lane_id"], "position": max(position - 1, 0)}
    conn.execute(places.insert().values(place | {"reserved_for": rater_id}))
    return Place(repeat_id, 0)
