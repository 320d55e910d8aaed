"""What raters go by: the guideline of a project in all its versions, and who has read which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import acknowledgements, comparisons, guidelines, lanes, leases
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Axis, Guideline, utc_now

#: The version of the guideline that comes with the package.
DEFAULT_VERSION = "default-1"


def get_current_guideline(store: Store, project: str = DEFAULT_PROJECT) -> Guideline:
    """The guideline in force: the newest of the project, or the one that comes with the package.

    Raises:
        NotFound: no such project.
    """
    query = sa.select(guidelines).where(guidelines.c.project_id == project).order_by(guidelines.c.seq.desc()).limit(1)
    with store.read() as conn:
        row = conn.execute(query).mappings().first()
        if row is None:
            projects.require_project(conn, project)
    return Guideline(project, DEFAULT_VERSION, _default_text()) if row is None else _guideline(row)


def get_guideline(store: Store, project: str, version: str) -> Guideline:
    """One version, in force or not: what judgments that name it were made under.

    Raises:
        NotFound: the project never had it.
    """
    query = sa.select(guidelines).where(guidelines.c.project_id == project, guidelines.c.version == version)
    with store.read() as conn:
        row = conn.execute(query).mappings().first()
        if row is None:
            projects.require_project(conn, project)
    if row is not None:
        return _guideline(row)
    if version == DEFAULT_VERSION:
        return Guideline(project, DEFAULT_VERSION, _default_text())
    raise NotFound(f"version {version!r}", expected=f"a guideline of project {project}", fix="name one it has had")


def publish_guideline(store: Store, guideline: Guideline, *, by: audit.Actor = audit.CLI) -> Guideline:
    """Put a new version in force. Those before it stay, and what is held already is judged under them.

    Raises:
        NotFound: no such project.
        BadInput: the project has had this version.
    """
    new = replace(guideline, created_at=utc_now())
    row = {
        "project_id": new.project,
        "version": new.version,
        "text": new.text,
        "axes": [vars(axis) for axis in new.axes],
        "scores": new.scores,
        "rationale": new.rationale,
        "created_at": new.created_at,
    }
    with store.write() as conn:
        projects.require_project(conn, new.project)
        if new.version == DEFAULT_VERSION or not store.insert_new(conn, guidelines, [row]):
            raise BadInput(
                f"version {new.version!r} of project {new.project}",
                expected="a version that was not used before: judgments name it",
                fix="give the next one, e.g. with --version",
            )
        audit.record(conn, by, "guideline.set", new.project, version=new.version)
    return new


def record_acknowledgement(store: Store, rater_id: str, project: str, version: str) -> None:
    """Write down that a rater has read a version. Doing it twice changes nothing.

    Raises:
        NotFound: the project never had this version.
    """
    get_guideline(store, project, version)
    row = {"rater_id": rater_id, "project_id": project, "version": version, "at": utc_now()}
    with store.write() as conn:
        store.insert_new(conn, acknowledgements, [row])


def has_acknowledged(store: Store, rater_id: str, project: str, version: str) -> bool:
    """Whether a rater acknowledged this version, at any time."""
    mine = (acknowledgements.c.rater_id == rater_id, acknowledgements.c.project_id == project)
    query = sa.select(acknowledgements.c.at).where(*mine, acknowledgements.c.version == version)
    with store.read() as conn:
        return conn.execute(query).first() is not None


def current_version_column(project: sa.BindParameter[str]) -> sa.ColumnElement[str]:
    """`current(...).version` as part of a statement."""
    newest = (
        sa.select(guidelines.c.version)
        .where(guidelines.c.project_id == project)
        .order_by(guidelines.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    return sa.func.coalesce(newest, DEFAULT_VERSION)


def check_answer(conn: Connection, comparison_id: str, version: str, answer: Answer, shown: Sequence[str]) -> None:
    """That an answer has what the guideline it was given under requires.

    Raises:
        BadInput: a score or the rationale is missing.
    """
    query = sa.select(guidelines).where(_of(version), comparisons.c.id == comparison_id)
    row = conn.execute(query).mappings().first()
    if row is not None:
        _guideline(row).check(answer, shown)


def requires_something(version: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Whether the guideline of a statement's comparison requires anything: then `check` tells what."""
    wants = sa.or_(guidelines.c.scores == "required", guidelines.c.rationale == "required")
    return sa.exists().where(_of(version), wants).correlate(comparisons, leases)


def _of(version: sa.Column[str] | str) -> sa.ColumnElement[bool]:
    project = (guidelines.c.project_id == lanes.c.project_id, lanes.c.id == comparisons.c.lane_id)
    return sa.and_(*project, guidelines.c.version == version)


@cache
def _default_text() -> str:
    return (resources.files("rlhf_hitl.bundled") / "guideline.md").read_text(encoding="utf-8")


def _guideline(row) -> Guideline:
    return Guideline(
        row["project_id"],
        row["version"],
        row["text"],
        tuple(Axis(**axis) for axis in row["axes"]),
        row["scores"],
        row["rationale"],
        row["created_at"],
    )
