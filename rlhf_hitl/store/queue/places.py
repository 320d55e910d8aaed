"""What a place is, and the conditions on places that the whole queue shares."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.comparisons import FIRST_PLACE, compute_queue_position
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import Utc, comparisons, places
from rlhf_hitl.types import Role, Route

LEAD = Role.LEAD.value
NOW = sa.bindparam("now", type_=Utc)
#: Whose places are meant: those of raters (empty) unless a statement is told `judge` or `lead`.
ROLE = sa.bindparam("working_role", "")


class Place(NamedTuple):
    """One wanted judgment of a comparison: its place number `n`."""

    comparison_id: str
    n: int


def is_free() -> sa.ColumnElement[bool]:
    """Return the condition that no lease runs on a place at the time bound to `now`. The place may be filled."""
    return sa.or_(places.c.leased_until.is_(None), places.c.leased_until <= NOW)


def find_working_role(n: int) -> str:
    """Return the working role that the place of this number is for: empty for raters, `judge` or `lead`."""
    return max((first, role) for role, first in FIRST_PLACE.items() if first <= n)[1]


def open_place_for_lead(store: Store, conn: Connection, comparison_id: str) -> None:
    """Open one more place for a decision by a lead. The comparison is locked."""
    of_comparison = comparisons.c.id == comparison_id
    lane_id = conn.execute(sa.select(comparisons.c.lane_id).where(of_comparison)).scalar_one()
    newest = sa.select(sa.func.max(places.c.n)).where(places.c.comparison_id == comparison_id, places.c.role == LEAD)
    n = conn.execute(newest).scalar()
    place = {"comparison_id": comparison_id, "n": FIRST_PLACE[LEAD] if n is None else n + 1, "lane_id": lane_id}
    place |= {"position": compute_queue_position(store, comparison_id, Route.ESCALATED), "role": LEAD}
    store.insert_new(conn, places, [place])
