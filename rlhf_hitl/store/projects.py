"""Projects: which comparisons are judged together, by which members, and whether they are paused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import FIRST_PLACE
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.people import find_rater_id
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.tables import lanes, members, places, projects
from rlhf_hitl.types import GoldPurpose, OverlapRule, Project, QualificationRule, Role, utc_now
from rlhf_hitl.types.names import find_look_alike, make_look_alike_error
from rlhf_hitl.types.overlap_rules import FIXED_OVERLAP
from rlhf_hitl.wording import say_count

MOST_JUDGES = 100


def add_project(
    store: Store,
    id: str,
    *,
    open: bool = True,
    repeat_every: int = 0,
    rater_filters: Sequence[str] = (),
    overlap_rule: OverlapRule | None = None,
    gold_every: int = 0,
    gold_feedback: bool = False,
    by: audit.Actor = audit.CLI,
) -> Project:
    """Create a project.

    Raises:
        BadInput: the name is taken, looks like another (`l1` and `11`) or cannot be part of a URL, `repeat_every` or
            `gold_every` is negative or 1, or there is no such filter.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", id):
        raise BadInput(
            f"project {id!r}", expected="up to 80 small letters, digits, dots and dashes", fix="choose another name"
        )
    _check_interval("repeat", repeat_every)
    _check_interval("gold", gold_every)
    row = {"id": id, "open": open, "repeat_every": repeat_every, "paused_at": None, "created_at": utc_now()}
    row |= {"rater_filters": _check_filters(rater_filters), "gold_every": gold_every, "gold_feedback": gold_feedback}
    row["overlap_rule"] = None if overlap_rule is None else overlap_rule.to_plain()
    row |= {"qualification": None, "judge_overlap": 0}  # a qualification needs golds, which need the project
    with store.write() as conn:
        store.lock(conn, "names of projects")  # two that look alike may be added at once
        other = find_look_alike(id, conn.execute(sa.select(projects.c.id)).scalars())
        if other is not None:
            raise make_look_alike_error("project", id, other)
        if not store.insert_new(conn, projects, [row]):
            raise BadInput(f"project {id!r}", expected="a name that is free", fix="choose another name")
        shown = ("open", "repeat_every", "rater_filters", "overlap_rule", "gold_every", "gold_feedback")
        details = {name: row[name] for name in shown}
        audit.record(conn, by, "project.added", id, **details)
    return _to_project(row)


def list_projects(store: Store) -> list[Project]:
    """Return every project, by id."""
    with store.read() as conn:
        return [_to_project(row) for row in conn.execute(sa.select(projects).order_by(projects.c.id)).mappings()]


def change_project(
    store: Store,
    id: str,
    *,
    open: bool | None = None,
    repeat_every: int | None = None,
    paused: bool | None = None,
    rater_filters: Sequence[str] | None = None,
    judge_overlap: int | None = None,
    overlap_rule: OverlapRule | Literal["fixed"] | None = None,
    gold_every: int | None = None,
    gold_feedback: bool | None = None,
    qualification: QualificationRule | Literal["off"] | None = None,
    by: audit.Actor = audit.CLI,
) -> Project:
    """Change the given settings. A paused project gives out no comparisons; those held already may be answered.

    A new overlap rule holds for the judgments that come, and `queue.apply_overlap_rule` for those there are. With
    `fixed` again, comparisons keep the places they have.

    Args:
        judge_overlap: judgments wanted of models; their places are opened when a judge is run.

    Raises:
        NotFound: there is no such project.
        BadInput: `repeat_every` or `gold_every` is negative or 1, there is no such filter, or the project has fewer
            golds for qualification than it would ask for; or `judge_overlap` is out of range.
    """
    new: dict = {"open": open, "repeat_every": repeat_every, "gold_every": gold_every, "gold_feedback": gold_feedback}
    new["judge_overlap"] = judge_overlap
    if judge_overlap is not None and not 0 <= judge_overlap <= MOST_JUDGES:
        raise BadInput(f"judge overlap {judge_overlap}", expected=f"0 to {MOST_JUDGES}", fix="give such a number")
    if rater_filters is not None:
        new["rater_filters"] = _check_filters(rater_filters)
    _check_interval("repeat", repeat_every or 0)
    _check_interval("gold", gold_every or 0)
    if paused is not None:
        new["paused_at"] = utc_now() if paused else None
    new = {k: v for k, v in new.items() if v is not None or k == "paused_at"}
    if overlap_rule is not None:
        new["overlap_rule"] = None if overlap_rule == FIXED_OVERLAP else overlap_rule.to_plain()
    if isinstance(qualification, QualificationRule):
        new["qualification"] = vars(qualification)
    elif qualification is not None:
        new["qualification"] = None
    with store.write() as conn:
        # Locked, so that nobody ends golds meanwhile that a new qualification needs.
        conn.execute(sa.select(projects.c.id).where(projects.c.id == id).with_for_update(key_share=True))
        require_project(conn, id)
        if judge_overlap is not None:
            _close_judge_places(store, conn, id, judge_overlap)
        if isinstance(qualification, QualificationRule):
            check_enough_golds(conn, id, qualification)
        if new:
            conn.execute(projects.update().where(projects.c.id == id).values(new))
            details = {"open": open, "repeat_every": repeat_every, "paused": paused, "rater_filters": rater_filters}
            details["overlap_rule"] = None if overlap_rule is None else str(overlap_rule)
            details |= {"gold_every": gold_every, "gold_feedback": gold_feedback, "judge_overlap": judge_overlap}
            details["qualification"] = "off" if qualification == "off" else new.get("qualification")
            audit.record(conn, by, "project.changed", id, **{k: v for k, v in details.items() if v is not None})
        return _to_project(require_project(conn, id))


def _close_judge_places(store: Store, conn: Connection, id: str, overlap: int) -> None:
    """Close the places of judges beyond an overlap that nobody holds."""
    own_lanes = sa.select(lanes.c.id).where(lanes.c.project_id == id)
    beyond = sa.and_(places.c.role == Role.JUDGE.value, places.c.n >= FIRST_PLACE[Role.JUDGE.value] + overlap)
    is_free = sa.or_(places.c.leased_until.is_(None), places.c.leased_until <= store.now(conn))
    unfilled = places.c.judgment_id.is_(None)
    conn.execute(places.delete().where(beyond, places.c.lane_id.in_(own_lanes), unfilled, is_free))


def add_member(store: Store, id: str, rater: str, *, by: audit.Actor = audit.CLI) -> None:
    """Make a rater, given by name, a member of a project. Doing it twice changes nothing.

    Raises:
        NotFound: there is no such project or rater.
    """
    with store.write() as conn:
        require_project(conn, id)
        insert_member(store, conn, id, find_rater_id(conn, rater))
        audit.record(conn, by, "project.admitted", id, rater=rater)


def insert_member(store: Store, conn: Connection, id: str, rater_id: str) -> None:
    """Insert a membership within a transaction of the caller."""
    store.insert_new(conn, members, [{"project_id": id, "rater_id": rater_id}])


def remove_member(store: Store, id: str, rater: str, *, by: audit.Actor = audit.CLI) -> None:
    """Remove a rater, given by name, from the members of a project.

    Raises:
        NotFound: there is no such project or rater, or the rater is not a member.
    """
    with store.write() as conn:
        require_project(conn, id)
        membership = (members.c.project_id == id, members.c.rater_id == find_rater_id(conn, rater))
        if not conn.execute(members.delete().where(*membership)).rowcount:
            raise NotFound(
                f"rater {rater!r}", expected=f"a member of project {id}", fix="see `rlhf-hitl projects list`"
            )
        audit.record(conn, by, "project.dismissed", id, rater=rater)


def list_members(store: Store) -> dict[str, list[str]]:
    """Return project id → ids of its members."""
    members_by_project: dict[str, list[str]] = {}
    with store.read() as conn:
        for project, rater in conn.execute(sa.select(members.c.project_id, members.c.rater_id)):
            members_by_project.setdefault(project, []).append(rater)
    return members_by_project


def require_project(conn: Connection, id: str, *, worker: str | None = None):
    """Return the row of a project; raise NotFound if there is none, or it is closed to the rater `worker`."""
    query = sa.select(projects).where(projects.c.id == id)
    if worker is not None:
        is_member = sa.exists().where(members.c.project_id == projects.c.id, members.c.rater_id == worker)
        query = query.where(sa.or_(projects.c.open, is_member))
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"project {id!r}", expected="a known project", fix="see `rlhf-hitl projects list`")
    return row


def check_enough_golds(conn: Connection, id: str, rule: QualificationRule) -> None:
    """Check that a project has as many golds for qualification as a rule asks for.

    Raises:
        BadInput: it has fewer.
    """
    query = sa.select(sa.func.count()).select_from(golds)
    is_used = (golds.c.project_id == id, golds.c.purpose == GoldPurpose.QUALIFICATION.value, golds.c.ended_at.is_(None))
    if (found := conn.execute(query.where(*is_used)).scalar_one()) < rule.golds:
        raise BadInput(
            f"{say_count(found, 'gold')} for the qualification of project {id}",
            expected=f"at least {rule.golds}, as the qualification asks for",
            fix=f"add some with `rlhf-hitl gold add FILE --project {id} --purpose qualification`",
        )


def _check_interval(noun: str, every: int) -> None:
    if every < 0 or every == 1:
        raise BadInput(
            f"{noun} every {every}",
            expected="0 (never) or 2 and more",
            fix=f"give the number of comparisons that hold one {noun}",
        )


def _check_filters(names: Sequence[str]) -> list[str]:
    for name in names:
        if name != "batch" and not re.fullmatch(r"tags\.[^\x00-\x1f]{1,200}", name):
            raise BadInput(f"rater filter {name!r}", expected="batch, or tags.NAME of a tag", fix="e.g. tags.category")
    return sorted(set(names))


def _to_project(row) -> Project:
    filters = tuple(row["rater_filters"] or ())
    return Project(
        row["id"],
        row["open"],
        row["repeat_every"],
        row["paused_at"] is not None,
        filters,
        None if row["overlap_rule"] is None else OverlapRule.from_plain(row["overlap_rule"]),
        row["gold_every"],
        row["gold_feedback"],
        QualificationRule.from_plain(row["qualification"]),
        row["judge_overlap"],
    )
