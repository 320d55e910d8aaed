"""Slices: filters over comparisons that have a name, for reports, evaluations, exports and routing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.catalog import find_comparison_ids
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.quality_tables import slices
from rlhf_hitl.types import utc_now
from rlhf_hitl.types.catalog import ComparisonFilter
from rlhf_hitl.types.names import check_label

MAX_NAME, MAX_DESCRIPTION = 80, 2000


@dataclass(frozen=True)
class Slice:
    """A filter with a name: what it finds changes as comparisons and their labels do."""

    name: str
    filter: ComparisonFilter
    description: str
    created_by: str
    created_at: datetime


def add_slice(
    store: Store, name: str, wanted: ComparisonFilter, description: str = "", *, by: audit.Actor = audit.CLI
) -> Slice:
    """Keep a filter under a name.

    Raises:
        BadInput: the name is empty, too long, not all of it can be seen, or another slice has it; or the filter has no
            condition, or a value that nothing can have.
    """
    name = check_label("slice", name.strip())
    if not name or len(name) > MAX_NAME:
        raise BadInput(f"slice {name[:60]!r}", expected=f"a name of 1 to {MAX_NAME} letters", fix="choose another")
    if len(description) > MAX_DESCRIPTION or "\x00" in description:
        raise BadInput("description", expected=f"at most {MAX_DESCRIPTION} letters, without NUL", fix="shorten it")
    if not wanted.to_plain():
        raise BadInput(f"slice {name!r} of everything", expected="a filter", fix="give at least one condition")
    wanted.refuse_unknown_values()
    made = Slice(name, wanted, description, by.id, utc_now())
    with store.write() as conn:
        row = vars(made) | {"filter": wanted.to_plain()}
        if not store.insert_new(conn, slices, [row]):
            raise BadInput(
                f"slice {name!r}", expected="a name that is free", fix="remove that slice, or choose another"
            )
        audit.record(conn, by, "slice.added", name, filter=wanted.to_plain())
    return made


def list_slices(store: Store) -> list[Slice]:
    """Return all slices, by name."""
    with store.read() as conn:
        rows = conn.execute(sa.select(slices).order_by(slices.c.name)).mappings().all()
    return [_to_slice(row) for row in rows]


def get_slice(store: Store, name: str) -> Slice:
    """Return the slice of a name.

    Raises:
        NotFound: there is none.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(slices).where(slices.c.name == name)).mappings().first()
        if row is None:
            names = ", ".join(conn.execute(sa.select(slices.c.name).order_by(slices.c.name).limit(20)).scalars())
            raise NotFound(
                f"slice {name[:80]!r}",
                expected=f"one of {names}" if names else "a slice that was added",
                fix="see `rlhf-hitl slices list`",
            )
    return _to_slice(row)


def remove_slice(store: Store, name: str, *, by: audit.Actor = audit.CLI) -> None:
    """Forget a slice. What was computed of it stays.

    Raises:
        NotFound: there is none of this name.
    """
    get_slice(store, name)
    with store.write() as conn:
        conn.execute(slices.delete().where(slices.c.name == name))
        audit.record(conn, by, "slice.removed", name)


def find_slice_ids(store: Store, name: str | None, *, seconds: float | None = None) -> frozenset[str] | None:
    """Return the ids of the comparisons that are in a slice now; None for no slice, which stands for all comparisons.

    Raises:
        NotFound: there is no such slice.
        Conflict: `find_comparison_ids` takes more than `seconds`.
    """
    if name is None:
        return None
    return frozenset(find_comparison_ids(store, get_slice(store, name).filter, seconds=seconds))


def _to_slice(row: Any) -> Slice:
    wanted = ComparisonFilter.from_plain(row["filter"])
    return Slice(row["name"], wanted, row["description"], row["created_by"], row["created_at"])
