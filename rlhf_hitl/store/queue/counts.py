"""How the queue stands: places that are filled, leased and free, by lane and in all."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.tables import comparisons, lanes, places, projects
from rlhf_hitl.types import LaneState, Route


def count_places(store: Store, now: datetime | None = None) -> dict[str, int]:
    """Count the places of all lanes: `filled`, `leased`, and `free` (a rater may be given it now)."""
    return sum_places(count_places_by_lane(store, now))


def sum_places(lane_states: Iterable[LaneState]) -> dict[str, int]:
    """Add up the places of lanes."""
    counted = [(lane.filled, lane.leased, lane.free) for lane in lane_states]
    filled, leased, free = (sum(column) for column in zip((0, 0, 0), *counted))
    return {"filled": filled, "leased": leased, "free": free}


def count_places_by_lane(store: Store, now: datetime | None = None, *, project: str | None = None) -> list[LaneState]:
    """Count the places of each lane for raters, of one project or of all.

    This reads every place: some tenths of a second for a million.
    """
    with store.read() as conn:
        now = now or store.now(conn)
        filled = places.c.judgment_id.is_not(None)
        leased = sa.and_(~filled, places.c.leased_until > now)
        free = sa.and_(~filled, is_free(), comparisons.c.route != Route.AUTO.value, ~measures_raters())
        conditions = {"filled": filled, "leased": leased, "free": free}
        query = (
            sa.select(
                lanes.c.project_id.label("project"),
                lanes.c.language,
                lanes.c.batch,
                projects.c.paused_at.is_not(None).label("paused"),
                *(sa.func.count(sa.case((holds, 1))).label(name) for name, holds in conditions.items()),
            )
            .select_from(
                places.join(comparisons, comparisons.c.id == places.c.comparison_id)
                .join(lanes, lanes.c.id == places.c.lane_id)
                .join(projects, projects.c.id == lanes.c.project_id)
            )
            .where(places.c.role == "")
            .group_by(lanes.c.id, projects.c.id)
            .order_by(lanes.c.project_id, lanes.c.batch, lanes.c.language)
        )
        if project is not None:
            query = query.where(lanes.c.project_id == project)
        return [
            LaneState(row.project, row.language, row.batch, bool(row.paused), row.filled, row.leased, row.free)
            for row in conn.execute(query, {"now": now})
        ]
