"""Automation of a project: whether models may accept, who changed it and why. Changes are only ever added.

A project without a change runs. Routers read the state within the transaction that applies their decisions
(`routings.py`), so nothing is accepted once a pause is written.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, Conflict
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.projects import require_project
from rlhf_hitl.store.service_tables import automation
from rlhf_hitl.store.tables import raters, routings
from rlhf_hitl.types import AutomationChange, AutomationState, utc_now

#: Who stops automation by itself.
AUDITS = audit.Actor("audits")
MOST_LETTERS = 500
_ACTIONS = {
    AutomationState.PAUSED: "automation.paused",
    AutomationState.RUNNING: "automation.resumed",
    AutomationState.STOPPED: "automation.stopped",
}


def lock_automation(store: Store, conn: Connection) -> None:
    """Hold automation as it is until the transaction ends: a change waits, and so do other routers that accept."""
    store.lock(conn, "automation")


def pause_automation(store: Store, project: str, reason: str, *, by: audit.Actor = audit.CLI) -> AutomationChange:
    """Accept nothing more in a project until a lead resumes it. A stop becomes a pause by a lead only by resuming.

    Raises:
        NotFound: there is no such project.
        Conflict: it does not run.
    """
    return _change(store, project, AutomationState.PAUSED, reason, by, only_from={AutomationState.RUNNING})


def resume_automation(store: Store, project: str, reason: str, *, by: audit.Actor = audit.CLI) -> AutomationChange:
    """Let models accept again. After a stop, the audits count anew: only acceptances from now on.

    Raises:
        NotFound: there is no such project.
        Conflict: it runs.
    """
    halted = {AutomationState.PAUSED, AutomationState.STOPPED}
    return _change(store, project, AutomationState.RUNNING, reason, by, only_from=halted)


def stop_automation(
    store: Store, project: str, reason: str, *, after_decision: int, by: audit.Actor = AUDITS
) -> AutomationChange | None:
    """Stop a project whose audits say that it errs more than promised; a paused one, too.

    Returns None where it is stopped already, or was resumed after these audits: they are answered.

    Args:
        after_decision: from which decision on the audits were counted (`find_watch_start`).
    """
    with store.write() as conn:
        lock_automation(store, conn)
        current = _find_newest(conn, project)
        is_stopped = current is not None and current.state is AutomationState.STOPPED
        if is_stopped or _find_start(conn, project) != after_decision:
            return None
        return _append(conn, project, AutomationState.STOPPED, reason, by)


def read_automation(store: Store) -> dict[str, AutomationChange]:
    """Return project → the newest change of its automation; one that was never changed is not in it, and runs."""
    with store.read() as conn:
        return {row.project: row for row in map(_to_change, conn.execute(_NEWEST).mappings())}


def list_changes(store: Store, project: str, *, limit: int = 20) -> list[AutomationChange]:
    """Return the changes of a project's automation, newest first."""
    query = sa.select(automation).where(automation.c.project_id == project).order_by(automation.c.seq.desc())
    with store.read() as conn:
        require_project(conn, project)
        return [_to_change(row) for row in conn.execute(query.limit(limit)).mappings()]


def find_halted(conn: Connection) -> dict[str, AutomationChange]:
    """Return project → why nothing is accepted there, for those that are paused or stopped."""
    halted = _NEWEST.where(automation.c.state != AutomationState.RUNNING.value)
    return {change.project: change for change in map(_to_change, conn.execute(halted).mappings())}


def find_watch_start(store: Store, project: str) -> int:
    """Return the number of the decision after which acceptances are counted: the newest one when a lead resumed the
    project after its last stop; 0 where it was never stopped."""
    with store.read() as conn:
        return _find_start(conn, project)


def say_who(store: Store, by: str) -> str:
    """Return who made a change, by name."""
    if by == AUDITS.id:
        return "the audits"
    if by == audit.CLI.id:
        return "somebody with a shell"
    with store.read() as conn:
        name = conn.execute(sa.select(raters.c.name).where(raters.c.id == by)).scalar()
    return by if name is None else name


def say_state(store: Store, change: AutomationChange) -> str:
    """Return the state of a project's automation in a sentence."""
    verb = {AutomationState.RUNNING: "runs", AutomationState.PAUSED: "is paused", AutomationState.STOPPED: "is stopped"}
    by = f"by {say_who(store, change.by)}, {change.at:%Y-%m-%d %H:%M} UTC"
    because = f": {change.reason}" if change.reason else ""
    return f"automation of project {change.project} {verb[change.state]} ({by}){because}"


_newest_of_each = sa.select(sa.func.max(automation.c.seq)).group_by(automation.c.project_id)
_NEWEST = sa.select(automation).where(automation.c.seq.in_(_newest_of_each)).order_by(automation.c.project_id)


def _find_newest(conn: Connection, project: str) -> AutomationChange | None:
    row = conn.execute(_NEWEST.where(automation.c.project_id == project)).mappings().first()
    return None if row is None else _to_change(row)


def _find_start(conn: Connection, project: str) -> int:
    own = automation.c.project_id == project
    stopped = sa.select(sa.func.max(automation.c.seq)).where(own, automation.c.state == AutomationState.STOPPED.value)
    resumed = sa.select(automation.c.after_decision).where(
        own, automation.c.state == AutomationState.RUNNING.value, automation.c.seq > stopped.scalar_subquery()
    )
    return conn.execute(resumed.order_by(automation.c.seq).limit(1)).scalar() or 0


def _change(
    store: Store,
    project: str,
    state: AutomationState,
    reason: str,
    by: audit.Actor,
    *,
    only_from: set[AutomationState],
) -> AutomationChange:
    reason = " ".join(reason.split())
    if len(reason) > MOST_LETTERS:
        raise BadInput(f"a reason of {len(reason)} letters", expected=f"at most {MOST_LETTERS}", fix="shorten it")
    with store.write() as conn:
        lock_automation(store, conn)
        require_project(conn, project)
        current = _find_newest(conn, project)
        was = AutomationState.RUNNING if current is None else current.state
        if was not in only_from:
            raise Conflict(f"automation of project {project}: it is {was.value} already. Fix: look at its state again")
        return _append(conn, project, state, reason, by)


def _append(conn: Connection, project: str, state: AutomationState, reason: str, by: audit.Actor) -> AutomationChange:
    newest = conn.execute(sa.select(sa.func.coalesce(sa.func.max(routings.c.seq), 0))).scalar_one()
    row = {"project_id": project, "state": state.value, "reason": reason, "by": by.id[:80], "after_decision": newest}
    inserted = conn.execute(automation.insert().values(row | {"at": utc_now()}).returning(automation))
    change = _to_change(inserted.mappings().one())
    audit.record(conn, by, _ACTIONS[state], project, reason=reason)
    return change


def _to_change(row) -> AutomationChange:
    return AutomationChange(
        row["seq"],
        row["project_id"],
        AutomationState(row["state"]),
        row["reason"],
        row["by"],
        row["after_decision"],
        row["at"],
    )
