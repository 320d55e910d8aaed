"""Attempts to qualify for a project: how a rater stands with it, and what an answer to a gold changes.

Leads' decisions are in `store/qualifications.py`. The rater is locked whenever something is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.quality_tables import golds, qualifications
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.tables import comparisons, places, projects
from rlhf_hitl.types import GoldPurpose, Qualification, QualificationRule, QualificationState, Role


def must_qualify(rater: Any) -> bool:
    """Return whether qualifications apply to somebody, given as a row of `raters`."""
    return rater.role == Role.RATER.value and not rater.simulated


def load_standing(
    conn: Connection, rater_id: str, project: str, rule: QualificationRule, now: datetime
) -> Qualification:
    """Return how a rater stands with the qualification of a project."""
    return _judge_standing(project, rule, list_attempts(conn, rater_id, project), now)


def list_attempts(conn: Connection, rater_id: str, project: str) -> Sequence[Any]:
    """Return the rows of a rater's attempts to qualify for a project, oldest first."""
    return conn.execute(_ATTEMPTS, {"rater": rater_id, "project": project}).all()


_ATTEMPTS = (
    sa.select(qualifications)
    .where(qualifications.c.rater_id == sa.bindparam("rater"), qualifications.c.project_id == sa.bindparam("project"))
    .order_by(qualifications.c.attempt)
)


def _judge_standing(project: str, rule: QualificationRule, attempts: Sequence[Any], now: datetime) -> Qualification:
    """Return what a rater's attempts, oldest first, come to. Those that expired, by time or by a lead, are over."""
    latest, failed = None, 0
    for attempt in attempts:
        if attempt.expires_at is not None and attempt.expires_at <= now:
            latest, failed = None, 0
        else:
            latest, failed = attempt, failed + 1 if attempt.passed is False else 0 if attempt.passed else failed
    left = max(0, rule.retries + 1 - failed)
    if latest is not None and latest.passed:
        state = QualificationState.QUALIFIED
    elif latest is not None and latest.passed is None:
        state, left = QualificationState.ASKED, max(0, left - 1)
    else:
        state = QualificationState.ASKED if left else QualificationState.FAILED
    if latest is None or (state is QualificationState.ASKED and latest.passed is not None):
        return Qualification(project, state, 0, rule.golds, left)
    return Qualification(project, state, latest.answered, rule.golds, left, latest.expires_at)


def begin_attempt(conn: Connection, rater_id: str, project: str, now: datetime) -> Any:
    """Return the row of the attempt that goes on; one begins where none does. The rater is locked."""
    attempts = list_attempts(conn, rater_id, project)
    if attempts and attempts[-1].passed is None:
        return attempts[-1]
    row = {"rater_id": rater_id, "project_id": project, "attempt": attempts[-1].attempt + 1 if attempts else 1}
    counts = {"answered": 0, "right": 0, "passed": None, "decided_by": "", "began_at": now}
    conn.execute(qualifications.insert().values(row | counts))
    return list_attempts(conn, rater_id, project)[-1]


def count_answer(conn: Connection, rater_id: str, project: str, agreed: bool, now: datetime) -> Qualification | None:
    """Count the answer to a gold of the attempt that goes on, and decide the attempt where it was the last one.

    Returns how the rater stands with it now; None where no attempt goes on. The rater is locked.
    """
    rule = QualificationRule.from_plain(
        conn.execute(sa.select(projects.c.qualification).where(projects.c.id == project)).scalar()
    )
    attempts = list_attempts(conn, rater_id, project)
    if rule is None or not attempts or attempts[-1].passed is not None:
        return None
    attempt = attempts[-1]
    values: dict[str, Any] = {"answered": attempt.answered + 1, "right": attempt.right + agreed}
    if values["answered"] >= rule.golds:
        passed = values["right"] >= rule.right_wanted
        values |= {"passed": passed, "decided_at": now, "expires_at": rule.expire(now) if passed else None}
    conn.execute(qualifications.update().where(*is_attempt(attempt)).values(values))
    return load_standing(conn, rater_id, project, rule, now)


def close_free_places(conn: Connection, rater_id: str, project: str, now: datetime) -> None:
    """Remove a rater's places on golds for qualification that they do not hold: the attempt is over."""
    of_project = sa.select(golds.c.comparison_id).where(
        golds.c.project_id == project, golds.c.purpose == GoldPurpose.QUALIFICATION.value
    )
    gold_id = sa.func.coalesce(comparisons.c.repeat_of, comparisons.c.id)
    ids = sa.select(comparisons.c.id).where(
        gold_id.in_(of_project), sa.or_(comparisons.c.is_gold.is_(True), comparisons.c.repeat_of.is_not(None))
    )
    conn.execute(
        places.delete().where(
            places.c.reserved_for == rater_id,
            places.c.judgment_id.is_(None),
            is_free(),
            places.c.comparison_id.in_(ids),
        ),
        {"now": now},
    )


def is_attempt(attempt: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        qualifications.c.rater_id == attempt.rater_id,
        qualifications.c.project_id == attempt.project_id,
        qualifications.c.attempt == attempt.attempt,
    )
