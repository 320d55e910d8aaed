"""Guidelines: the instructions of a project in all their versions, and which rater acknowledged which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from string import ascii_uppercase

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import acknowledgements, comparisons, guidelines, lanes, leases
from rlhf_hitl.types import DEFAULT_PROJECT, Answer, Axis, Comparison, Guideline, Messages, utc_now
from rlhf_hitl.types.messages import hide_reasoning
from rlhf_hitl.types.names import check_label

#: The version of the guideline that comes with the package.
DEFAULT_VERSION = "default-1"
_WHITE_SPACE = " \t\r\n"


def get_current_guideline(store: Store, project: str = DEFAULT_PROJECT) -> Guideline:
    """Return the guideline in force: the newest of the project, or the one that comes with the package.

    Raises:
        NotFound: there is no such project.
    """
    query = sa.select(guidelines).where(guidelines.c.project_id == project).order_by(guidelines.c.seq.desc()).limit(1)
    with store.read() as conn:
        row = conn.execute(query).mappings().first()
        if row is None:
            projects.require_project(conn, project)
    return Guideline(project, DEFAULT_VERSION, _load_default_text()) if row is None else _to_guideline(row)


def get_guideline(store: Store, project: str, version: str) -> Guideline:
    """Return one version, in force or not: judgments name the version they were made under.

    Raises:
        NotFound: the project never had this version.
    """
    query = sa.select(guidelines).where(guidelines.c.project_id == project, guidelines.c.version == version)
    with store.read() as conn:
        row = conn.execute(query).mappings().first()
        if row is None:
            projects.require_project(conn, project)
    if row is not None:
        return _to_guideline(row)
    if version == DEFAULT_VERSION:
        return Guideline(project, DEFAULT_VERSION, _load_default_text())
    raise NotFound(f"version {version!r}", expected=f"a guideline of project {project}", fix="name one it has had")


def publish_guideline(store: Store, guideline: Guideline, *, by: audit.Actor = audit.CLI) -> Guideline:
    """Put a new version in force. Earlier versions stay, and comparisons held already are judged under them.

    Raises:
        NotFound: there is no such project.
        BadInput: the project has used this version before, or a name in it holds what cannot be seen.
    """
    check_label("version", guideline.version)
    for axis in guideline.axes:
        check_label(f"title of axis {axis.id!r}", axis.title)
    published = replace(guideline, created_at=utc_now())
    row = {
        "project_id": published.project,
        "version": published.version,
        "text": published.text,
        "axes": [vars(axis) for axis in published.axes],
        "scores": published.scores,
        "rationale": published.rationale,
        "reasoning": published.reasoning,
        "created_at": published.created_at,
    }
    with store.write() as conn:
        projects.require_project(conn, published.project)
        if published.version == DEFAULT_VERSION or not store.insert_new(conn, guidelines, [row]):
            raise BadInput(
                f"version {published.version!r} of project {published.project}",
                expected="a version that was not used before: judgments name it",
                fix="give the next one, e.g. with --version",
            )
        audit.record(conn, by, "guideline.set", published.project, version=published.version)
    return published


def keep_seen(store: Store, project: str, version: str, chats: Sequence[Messages]) -> list[Messages]:
    """Return conversations with what raters see of them under a version: its guideline may hide reasoning.

    A judgment that is older than guidelines names no version: then the one in force decides.
    """
    if not any(m.reasoning_content for chat in chats for m in chat):
        return list(chats)
    try:
        guideline = get_guideline(store, project, version)
    except NotFound:
        guideline = get_current_guideline(store, project)
    return [hide_reasoning(chat) for chat in chats] if guideline.reasoning == "hidden" else list(chats)


def keep_seen_of_comparison(store: Store, comparison: Comparison, version: str) -> Comparison:
    """Return a comparison, under its ids, with what raters see of it under a version: see `keep_seen`."""
    chats = [comparison.prompt.messages, *(c.messages for c in comparison.completions)]
    asked, *answers = keep_seen(store, comparison.project, version, chats)
    completions = tuple(replace(c, messages=seen) for c, seen in zip(comparison.completions, answers))
    return replace(comparison, prompt=replace(comparison.prompt, messages=asked), completions=completions)


def record_acknowledgement(store: Store, rater_id: str, project: str, version: str) -> None:
    """Record that a rater has read a version, and so every other one with the same text.

    Doing it twice changes nothing.

    Raises:
        NotFound: the project never had this version, or is closed to this rater, who must not learn that it is there.
    """
    get_guideline(store, project, version)
    row = {"rater_id": rater_id, "project_id": project, "version": version, "at": utc_now()}
    with store.write() as conn:
        projects.require_project(conn, project, worker=rater_id)
        store.insert_new(conn, acknowledgements, [row])


def has_acknowledged(store: Store, rater_id: str, project: str, version: str) -> bool:
    """Return whether a rater acknowledged the text of this version at any time, in any project and version.

    White space at the end makes no other text: a file that is written and read again may lose or gain it.

    Raises:
        NotFound: the project never had this version.
    """
    text = get_guideline(store, project, version).text.rstrip(_WHITE_SPACE)
    is_published = (
        guidelines.c.project_id == acknowledgements.c.project_id,
        guidelines.c.version == acknowledgements.c.version,
    )
    has_text = sa.func.rtrim(guidelines.c.text, _WHITE_SPACE) == text
    if text == _load_default_text().rstrip(_WHITE_SPACE):
        has_text |= acknowledgements.c.version == DEFAULT_VERSION
    query = (
        sa.select(acknowledgements.c.at)
        .outerjoin(guidelines, sa.and_(*is_published))
        .where(acknowledgements.c.rater_id == rater_id, has_text)
    )
    with store.read() as conn:
        return conn.execute(query).first() is not None


def select_current_version(project: sa.BindParameter[str]) -> sa.ColumnElement[str]:
    """Return `get_current_guideline(...).version` as a column of a statement."""
    newest = (
        sa.select(guidelines.c.version)
        .where(guidelines.c.project_id == project)
        .order_by(guidelines.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    return sa.func.coalesce(newest, DEFAULT_VERSION)


def check_answer(conn: Connection, comparison_id: str, version: str, answer: Answer, shown: Sequence[str]) -> None:
    """Check that an answer has what its version of the guideline requires, and scores of its axes only.

    Raises:
        BadInput: a score or the rationale is missing, or an axis is unknown. The error names completions by the letters
            they were shown under.
    """
    if version == DEFAULT_VERSION:
        guideline = Guideline("", DEFAULT_VERSION, _load_default_text())
    else:
        query = sa.select(guidelines).where(_is_guideline_of_comparison(version), comparisons.c.id == comparison_id)
        row = conn.execute(query).mappings().first()
        guideline = _to_guideline(row) if row is not None else None
    if guideline is not None:  # judgments may be older than guidelines
        letters = dict(zip(shown, ascii_uppercase))
        guideline.check(answer.rename_completions(letters), list(letters.values()))


def check_version(conn: Connection, comparison_id: str, version: str, leased: str) -> None:
    """Check that a version is the one that was in force when a comparison was leased, or a later one of its project.

    Raises:
        BadInput: it is neither.
    """
    if version == leased:
        return
    project = sa.select(lanes.c.project_id).join(comparisons, comparisons.c.lane_id == lanes.c.id)
    project = project.where(comparisons.c.id == comparison_id).scalar_subquery()
    query = sa.select(guidelines.c.version).where(guidelines.c.project_id == project).order_by(guidelines.c.seq)
    versions = [DEFAULT_VERSION, *conn.execute(query).scalars()]
    later = versions[versions.index(leased) + 1 :] if leased in versions else versions
    if version not in later:
        raise BadInput(
            f"guideline_version {version!r}",
            expected=f"that of the lease, {leased!r}" + (f", or a later one: {', '.join(later)}" if later else ""),
            fix="leave it out",
        )


def requires_something(version: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Return the condition that the guideline of a statement's comparison requires scores or a rationale.

    Where it is true, `check_answer` says what is missing.
    """
    is_required = sa.or_(guidelines.c.scores == "required", guidelines.c.rationale == "required")
    return sa.exists().where(_is_guideline_of_comparison(version), is_required).correlate(comparisons, leases)


def _is_guideline_of_comparison(version: sa.Column[str] | str) -> sa.ColumnElement[bool]:
    same_project = (guidelines.c.project_id == lanes.c.project_id, lanes.c.id == comparisons.c.lane_id)
    return sa.and_(*same_project, guidelines.c.version == version)


@cache
def _load_default_text() -> str:
    return (resources.files("rlhf_hitl.bundled") / "guideline.md").read_text(encoding="utf-8")


def _to_guideline(row) -> Guideline:
    return Guideline(
        row["project_id"],
        row["version"],
        row["text"],
        tuple(Axis(**axis) for axis in row["axes"]),
        row["scores"],
        row["rationale"],
        row["reasoning"],
        row["created_at"],
    )
