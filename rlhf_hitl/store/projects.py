"""Projects: what is judged together, by whom, and whether it goes on."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.people import find_id
from rlhf_hitl.store.tables import members, projects
from rlhf_hitl.types import Project, utc_now


def add_project(
    store: Store, id: str, *, open: bool = True, repeat_every: int = 0, by: audit.Actor = audit.CLI
) -> Project:
    """Make a project.

    Raises:
        BadInput: a name that is taken or cannot stand in an address, or a negative `repeat_every`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", id):
        raise BadInput(
            f"project {id!r}", expected="up to 80 small letters, digits, dots and dashes", fix="choose another name"
        )
    _check_repeats(repeat_every)
    row = {"id": id, "open": open, "repeat_every": repeat_every, "paused_at": None, "created_at": utc_now()}
    with store.write() as conn:
        if not store.insert_new(conn, projects, [row]):
            raise BadInput(f"project {id!r}", expected="a name that is free", fix="choose another name")
        audit.record(conn, by, "project.added", id, open=open, repeat_every=repeat_every)
    return _project(row)


def list_projects(store: Store) -> list[Project]:
    with store.read() as conn:
        return [_project(row) for row in conn.execute(sa.select(projects).order_by(projects.c.id)).mappings()]


def change_project(
    store: Store,
    id: str,
    *,
    open: bool | None = None,
    repeat_every: int | None = None,
    paused: bool | None = None,
    by: audit.Actor = audit.CLI,
) -> Project:
    """Change what is given. A paused project hands out nothing; what is held may still be answered.

    Raises:
        NotFound: no such project.
        BadInput: a negative `repeat_every`.
    """
    new: dict = {"open": open, "repeat_every": repeat_every}
    if repeat_every is not None:
        _check_repeats(repeat_every)
    if paused is not None:
        new["paused_at"] = utc_now() if paused else None
    new = {k: v for k, v in new.items() if v is not None or k == "paused_at"}
    with store.write() as conn:
        require_project(conn, id)
        if new:
            conn.execute(projects.update().where(projects.c.id == id).values(new))
            told = {"open": open, "repeat_every": repeat_every, "paused": paused}
            audit.record(conn, by, "project.changed", id, **{k: v for k, v in told.items() if v is not None})
        return _project(require_project(conn, id))


def add_member(store: Store, id: str, rater: str, *, by: audit.Actor = audit.CLI) -> None:
    """Let a rater, by name, work in a project that is not open to all. Doing it twice changes nothing.

    Raises:
        NotFound: no such project or rater.
    """
    with store.write() as conn:
        require_project(conn, id)
        insert_member(store, conn, id, find_id(conn, rater))
        audit.record(conn, by, "project.admitted", id, rater=rater)


def insert_member(store: Store, conn: Connection, id: str, rater_id: str) -> None:
    store.insert_new(conn, members, [{"project_id": id, "rater_id": rater_id}])


def remove_member(store: Store, id: str, rater: str, *, by: audit.Actor = audit.CLI) -> None:
    """Take a rater, by name, out of a project's members.

    Raises:
        NotFound: no such project or rater, or they were no member.
    """
    with store.write() as conn:
        require_project(conn, id)
        same = (members.c.project_id == id, members.c.rater_id == find_id(conn, rater))
        if not conn.execute(members.delete().where(*same)).rowcount:
            raise NotFound(
                f"rater {rater!r}", expected=f"a member of project {id}", fix="see `rlhf-hitl projects list`"
            )
        audit.record(conn, by, "project.dismissed", id, rater=rater)


def list_members(store: Store) -> dict[str, list[str]]:
    """Project → ids of its members."""
    out: dict[str, list[str]] = {}
    with store.read() as conn:
        for project, rater in conn.execute(sa.select(members.c.project_id, members.c.rater_id)):
            out.setdefault(project, []).append(rater)
    return out


def require_project(conn: Connection, id: str):
    row = conn.execute(sa.select(projects).where(projects.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"project {id!r}", expected="a known project", fix="see `rlhf-hitl projects list`")
    return row


def _check_repeats(every: int) -> None:
    if every < 0 or every == 1:
        raise BadInput(
            f"repeat every {every}", expected="0 (never) or 2 and more", fix="say how many comparisons hold one repeat"
        )


def _project(row) -> Project:
    return Project(row["id"], row["open"], row["repeat_every"], row["paused_at"] is not None)
