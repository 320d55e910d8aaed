"""What a lead demands of automation in a project: the error that is allowed, and a confidence it must have at least.

A demand is an entry of the audit log, which is only ever added to; the newest of a project holds. It outranks what
`route` and the loop are told, and no demand means that these decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, Conflict
from rlhf_hitl.store import audit
from rlhf_hitl.store.automation import lock_automation
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.projects import require_project
from rlhf_hitl.store.service_tables import audit as entries
from rlhf_hitl.types import utc_now

SET, CLEARED = "automation.target_set", "automation.target_cleared"


@dataclass(frozen=True)
class RoutingTarget:
    """What a lead demands.

    Attributes:
        max_error: the bound that is tested in place of the router's; None: the router's own.
        min_confidence: nothing is accepted below it, whatever the bound allows.
        by: a rater's id, or "cli".
    """

    project: str
    max_error: float | None
    min_confidence: float
    by: str
    at: datetime


def set_target(
    store: Store,
    project: str,
    *,
    max_error: float | None = None,
    min_confidence: float = 0.0,
    seen: str | None = None,
    by: audit.Actor = audit.CLI,
) -> RoutingTarget:
    """Demand something of automation in a project, from the next routing on.

    Args:
        seen: when what was demanded before was demanded, as `say_seen` has it, if that is to be checked.

    Raises:
        NotFound: there is no such project.
        BadInput: an error or a confidence that is no share.
        Conflict: somebody has demanded something else since.
    """
    check_shares(max_error, min_confidence)
    with store.write() as conn:
        lock_automation(store, conn)
        require_project(conn, project)
        if seen is not None and seen != say_seen(_read(conn).get(project)):
            raise Conflict("Somebody has demanded something else here since this curve was drawn. Fix: look again")
        audit.record(conn, by, SET, project, max_error=max_error, min_confidence=min_confidence)
    return RoutingTarget(project, max_error, min_confidence, by.id, utc_now())


def check_shares(max_error: float | None, min_confidence: float) -> None:
    """Check that what is demanded are shares.

    Raises:
        BadInput: an error or a confidence that is none.
    """
    if max_error is not None and not 0 < max_error < 1:
        raise BadInput(f"an error of {max_error}", expected="a share above 0 and below 1", fix="e.g. 0.1")
    if not 0 <= min_confidence <= 1:
        raise BadInput(f"a confidence of {min_confidence}", expected="0 to 1", fix="e.g. 0.9")


def clear_target(store: Store, project: str, *, by: audit.Actor = audit.CLI) -> None:
    """Demand nothing any more: `route` and the loop decide by what they are told.

    Raises:
        NotFound: there is no such project.
    """
    with store.write() as conn:
        lock_automation(store, conn)
        require_project(conn, project)
        audit.record(conn, by, CLEARED, project)


def read_targets(store: Store) -> dict[str, RoutingTarget]:
    """Return project → what is demanded there; projects without a demand are not in it."""
    with store.read() as conn:
        return _read(conn)


def say_seen(target: RoutingTarget | None) -> str:
    """Return what tells a demand from any other: when it was made; empty for none."""
    return "" if target is None else target.at.isoformat()


def _read(conn: Connection) -> dict[str, RoutingTarget]:
    newest = sa.select(sa.func.max(entries.c.seq)).where(entries.c.action.in_([SET, CLEARED]))
    query = sa.select(entries).where(entries.c.seq.in_(newest.group_by(entries.c.subject)), entries.c.action == SET)
    rows = conn.execute(query).mappings().all()
    return {
        row["subject"]: RoutingTarget(
            row["subject"], row["details"]["max_error"], row["details"]["min_confidence"], row["actor"], row["at"]
        )
        for row in rows
    }
