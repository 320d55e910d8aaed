"""Qualification: whether a rater may work in a project, by their answers to its golds or by a lead's word.

Raters are asked again once a pass has expired. Leads, admins, judges (models) and simulated raters need none: leads
write the golds, judges are measured against people, and simulated raters answer by numbers and not by reading.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.people import find_rater_id
from rlhf_hitl.store.projects import require_project
from rlhf_hitl.store.quality_tables import qualifications
from rlhf_hitl.store.queue.locks import lock_rater
from rlhf_hitl.store.queue.qualifying import (
    begin_attempt,
    close_free_places,
    is_attempt,
    list_attempts,
    load_standing,
    must_qualify,
)
from rlhf_hitl.store.tables import members, projects, raters
from rlhf_hitl.types import Qualification, QualificationRule


def list_standings(store: Store, rater_id: str, now: datetime | None = None) -> list[Qualification]:
    """Return how a rater stands with each qualification of the projects that are open to them, by project."""
    is_member = sa.exists().where(members.c.project_id == projects.c.id, members.c.rater_id == rater_id)
    query = sa.select(projects.c.id, projects.c.qualification).order_by(projects.c.id)
    query = query.where(projects.c.qualification.is_not(None), sa.or_(projects.c.open, is_member))
    with store.read() as conn:
        rater = conn.execute(sa.select(raters).where(raters.c.id == rater_id)).first()
        if rater is None or not must_qualify(rater):
            return []
        now = now or store.now(conn)
        return [load_standing(conn, rater_id, id, QualificationRule(**rule), now) for id, rule in conn.execute(query)]


def grant_qualification(
    store: Store, name: str, project: str, *, by: audit.Actor = audit.CLI, now: datetime | None = None
) -> Qualification:
    """Let a rater, given by name, work in a project as if they had passed now.

    Raises:
        NotFound: there is no such rater or project.
        BadInput: the project asks for no qualification, or it does not apply to this person.
    """
    with store.write() as conn:
        rater_id, rule, clock = _prepare_decision(store, conn, name, project)
        now = now or clock
        attempt = begin_attempt(conn, rater_id, project, now)
        values = {"passed": True, "decided_by": by.id[:80], "decided_at": now, "expires_at": rule.expire(now)}
        conn.execute(qualifications.update().where(*is_attempt(attempt)).values(values))
        close_free_places(conn, rater_id, project, now)
        audit.record(conn, by, "qualification.granted", name, project=project)
        return load_standing(conn, rater_id, project, rule, now)


def withdraw_qualification(
    store: Store, name: str, project: str, *, by: audit.Actor = audit.CLI, now: datetime | None = None
) -> Qualification:
    """End what a rater, given by name, has passed or failed until now: they are asked again, from the first attempt on.

    Raises:
        NotFound: there is no such rater or project, or the rater has no attempt there that counts.
        BadInput: the project asks for no qualification, or it does not apply to this person.
    """
    with store.write() as conn:
        rater_id, rule, clock = _prepare_decision(store, conn, name, project)
        now = now or clock
        attempts = list_attempts(conn, rater_id, project)
        if not attempts or (attempts[-1].expires_at is not None and attempts[-1].expires_at <= now):
            raise NotFound(
                f"qualification of {name!r} for {project}", expected="one that was passed or failed",
                fix="nothing is to be done: they are asked anyway",
            )  # fmt: skip
        latest = attempts[-1]
        values = {"decided_by": by.id[:80], "expires_at": now}
        if latest.passed is None:
            values |= {"passed": False, "decided_at": now}
        conn.execute(qualifications.update().where(*is_attempt(latest)).values(values))
        close_free_places(conn, rater_id, project, now)
        audit.record(conn, by, "qualification.withdrawn", name, project=project)
        return load_standing(conn, rater_id, project, rule, now)


def _prepare_decision(
    store: Store, conn: Connection, name: str, project: str
) -> tuple[str, QualificationRule, datetime]:
    """Lock a rater; return their id, the rule of the project, and the time."""
    rule = QualificationRule.from_plain(require_project(conn, project)["qualification"])
    if rule is None:
        raise BadInput(
            f"project {project}", expected="one that asks for a qualification",
            fix=f"set one with `rlhf-hitl projects set {project} --qualification golds=8`",
        )  # fmt: skip
    rater_id = find_rater_id(conn, name)
    rater, clock = lock_rater(store, conn, rater_id)
    if rater is None or not must_qualify(rater):
        raise BadInput(
            f"rater {name!r}", expected="a rater who signs in and is not disabled",
            fix="leads, admins, judges and simulated raters need no qualification",
        )  # fmt: skip
    return rater_id, rule, clock
