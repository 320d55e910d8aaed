"""Audits: accepted comparisons that raters judge all the same, and what that says of the acceptances.

An audit is drawn with the decision that accepts (`routings.py`). Once raters have filled its places, its outcome is
written, once: figures that hold whenever one looks need observations that do not change afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import audits
from rlhf_hitl.store.tables import comparisons, judgments, lanes, places, routings, scores
from rlhf_hitl.types import AuditOutcome, ErrorBound, Role


@dataclass(frozen=True)
class JudgedAudit:
    """An audit that raters have judged and whose outcome is not written: `chosen` is what the model had accepted."""

    seq: int
    comparison_id: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class DecidedAudit:
    """The outcome of an audit, under the bound that held when the model accepted. `number` counts them all."""

    number: int
    outcome: AuditOutcome
    bound: ErrorBound


def draw_audit(conn: Connection, seq: int, comparison_id: str, bound: ErrorBound) -> None:
    """Write that the decision `seq`, which accepts a comparison, is audited."""
    row = {"seq": seq, "comparison_id": comparison_id, "max_error": bound.max_error, "delta": bound.delta}
    conn.execute(audits.insert().values(row))


def forget_undecided(conn: Connection, comparison_ids: Sequence[str]) -> None:
    """Forget audits of decisions that others replace before raters have judged them."""
    conn.execute(audits.delete().where(audits.c.comparison_id.in_(comparison_ids), audits.c.number.is_(None)))


def list_judged_audits(store: Store) -> list[JudgedAudit]:
    """Return the audits of which no place is open, and that have no outcome yet, in order of their acceptance."""
    of_comparison = places.c.comparison_id == audits.c.comparison_id
    waits = sa.exists().where(of_comparison, places.c.judgment_id.is_(None), places.c.role != Role.JUDGE.value)
    judged = sa.exists().where(judgments.c.comparison_id == audits.c.comparison_id, judgments.c.surplus.is_(sa.false()))
    same_model = sa.and_(
        scores.c.comparison_id == audits.c.comparison_id, scores.c.reward_model_id == routings.c.reward_model_id
    )
    query = (
        sa.select(audits.c.seq, audits.c.comparison_id, scores.c.chosen, scores.c.rejected)
        .join(routings, routings.c.seq == audits.c.seq)
        .join(scores, same_model)
        .where(audits.c.number.is_(None), ~waits, judged)
        .order_by(audits.c.seq)
    )
    with store.read() as conn:
        return [JudgedAudit(*row) for row in conn.execute(query)]


def write_outcomes(store: Store, outcomes: Mapping[int, AuditOutcome]) -> int:
    """Write the outcomes of audits, by their `seq`, in this order; returns how many were not written before."""
    written = 0
    with store.write() as conn:
        store.lock(conn, "audits")
        number = conn.execute(sa.select(sa.func.coalesce(sa.func.max(audits.c.number), 0))).scalar_one()
        for seq, outcome in outcomes.items():
            values = {"number": number + written + 1, "outcome": outcome.value, "decided_at": store.now(conn)}
            undecided = audits.update().where(audits.c.seq == seq, audits.c.number.is_(None))
            written += conn.execute(undecided.values(values)).rowcount
    return written


def read_outcomes(store: Store, project: str, *, after_decision: int = 0) -> list[DecidedAudit]:
    """Return the outcomes of a project's audits in the order in which raters decided them.

    Args:
        after_decision: only of acceptances after the decision of this number.
    """
    columns = (audits.c.number, audits.c.outcome, audits.c.max_error, audits.c.delta)
    query = _of_project(sa.select(*columns), project).where(audits.c.number.is_not(None))
    query = query.where(audits.c.seq > after_decision).order_by(audits.c.number)
    with store.read() as conn:
        return [DecidedAudit(n, AuditOutcome(outcome), ErrorBound(*b)) for n, outcome, *b in conn.execute(query)]


def count_undecided(store: Store, project: str, *, after_decision: int = 0) -> int:
    """Return how many audits of a project wait for raters."""
    query = _of_project(sa.select(sa.func.count()).select_from(audits), project)
    with store.read() as conn:
        return conn.execute(query.where(audits.c.number.is_(None), audits.c.seq > after_decision)).scalar_one()


def _of_project(query: sa.Select, project: str) -> sa.Select:
    query = query.join(comparisons, comparisons.c.id == audits.c.comparison_id)
    return query.join(lanes, lanes.c.id == comparisons.c.lane_id).where(lanes.c.project_id == project)
