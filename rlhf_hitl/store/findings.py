"""What checks say against raters: findings, what they lead to, and leads who overrule them.

A finding is never deleted, and neither is a judgment. While a finding stands, the rater's votes count less in labels,
and where it says so they are offered nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import audit
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.people import find_rater_id
from rlhf_hitl.store.quality_tables import findings
from rlhf_hitl.store.queue.overlap import apply_overlap_rules
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import utc_now

MAX_REASON_LENGTH = 1000


class FindingAction(StrEnum):
    """What a finding led to."""

    NONE = "none"
    DOWN_WEIGHTED = "down_weighted"
    PAUSED = "paused"


#: How much the votes of a rater count while a finding stands. They keep a little, so that a comparison that nobody else
#: has judged has a label, and a doubtful one.
VOTE_WEIGHTS = {FindingAction.DOWN_WEIGHTED: 0.5, FindingAction.PAUSED: 0.1}

#: Who acts where a check does.
CHECKS = audit.Actor("checks")


@dataclass(frozen=True)
class NewFinding:
    """What a check says against a rater, before it is in the store.

    `statistic` is the natural logarithm of the e-value, `false_alarm_rate` that of the check over honest raters,
    `reason` says the same in words, for leads.
    """

    rater_id: str
    project: str | None
    check: str
    statistic: float
    p_value: float
    false_alarm_rate: float
    evidence: Mapping[str, Any]
    action: FindingAction
    reason: str


@dataclass(frozen=True)
class Finding:
    """A finding as it is in the store. It stands until a lead overrules it."""

    seq: int
    rater_id: str
    project: str | None
    check: str
    statistic: float
    p_value: float | None
    false_alarm_rate: float
    evidence: Mapping[str, Any]
    action: FindingAction
    created_at: datetime
    overruled_by: str | None
    overruled_at: datetime | None
    overruled_because: str | None

    @property
    def stands(self) -> bool:
        return self.overruled_at is None


def list_findings(store: Store, rater_id: str | None = None) -> list[Finding]:
    """Return the findings in the order in which they were written, of one rater or of all."""
    query = sa.select(findings).order_by(findings.c.seq)
    if rater_id is not None:
        query = query.where(findings.c.rater_id == rater_id)
    with store.read() as conn:
        return [_to_finding(row) for row in conn.execute(query).mappings()]


def add_findings(store: Store, new: Sequence[NewFinding]) -> list[Finding]:
    """Write findings and do what they say. One of the same check and project that stands already is not written again.

    Where the raters' votes were thought to be enough, others are asked, as far as a project's overlap rule wants it.
    Returns what was written.
    """
    written = []
    with store.write() as conn:
        store.lock(conn, "findings")  # several servers may have checked at once
        for finding in new:
            row = _insert_finding(conn, finding)
            if row is None:
                continue
            written.append(row)
            if finding.action is FindingAction.PAUSED:
                is_working = raters.c.id == finding.rater_id, raters.c.paused_at.is_(None)
                paused = {"paused_at": utc_now(), "paused_reason": finding.reason}
                conn.execute(raters.update().where(*is_working).values(paused))
            _set_vote_weight(conn, finding.rater_id)
    if less := {row.rater_id for row in written if row.action is not FindingAction.NONE}:
        apply_overlap_rules(store, less)
    return written


def add_evidence(store: Store, seq: int, facts: Mapping[str, Any]) -> None:
    """Add facts to the evidence of a finding; what it says already stays."""
    with store.write() as conn:
        store.lock(conn, "findings")
        of_finding = findings.c.seq == seq
        evidence = conn.execute(sa.select(findings.c.evidence).where(of_finding)).scalar_one()
        conn.execute(findings.update().where(of_finding).values(evidence={**facts, **evidence}))


def overrule_findings(
    store: Store, name: str, because: str, *, check: str | None = None, by: audit.Actor = audit.CLI
) -> list[Finding]:
    """Overrule what stands against a rater: of one check, or all. Their votes count again, and they are offered work.

    Somebody whom a lead paused by hand stays paused. What was asked of others because of a finding, and nobody holds,
    is asked no more.

    Returns what was overruled.

    Raises:
        NotFound: no rater has this name.
        BadInput: no reason is given, it is too long, or nothing stands against them.
    """
    because = because.strip()
    if not because or len(because) > MAX_REASON_LENGTH:
        raise BadInput(
            "the reason" if not because else f"a reason of {len(because):,} characters",
            expected=f"why the finding does not hold, in up to {MAX_REASON_LENGTH:,} characters",
            fix="say what you know of it, so that others can follow it later",
        )
    with store.write() as conn:
        store.lock(conn, "findings")
        rater_id = find_rater_id(conn, name)
        wanted = [findings.c.rater_id == rater_id, findings.c.overruled_at.is_(None)]
        if check is not None:
            wanted.append(findings.c.check_name == check)
        seqs = list(conn.execute(sa.select(findings.c.seq).where(*wanted)).scalars())
        if not seqs:
            raise BadInput(
                f"rater {name!r}" + (f" and check {check!r}" if check else ""),
                expected="somebody against whom a finding stands",
                fix="see `rlhf-hitl raters findings`",
            )
        now_overruled = {"overruled_by": by.id[:80], "overruled_at": utc_now(), "overruled_because": because}
        conn.execute(findings.update().where(findings.c.seq.in_(seqs)).values(now_overruled))
        _set_vote_weight(conn, rater_id)
        is_paused = sa.select(findings.c.seq).where(
            findings.c.rater_id == rater_id,
            findings.c.overruled_at.is_(None),
            findings.c.action == FindingAction.PAUSED.value,
        )
        if conn.execute(is_paused).first() is None:
            by_check = raters.c.id == rater_id, raters.c.paused_reason.is_not(None)
            conn.execute(raters.update().where(*by_check).values(paused_at=None, paused_reason=None))
        audit.record(conn, by, "finding.overruled", name, findings=seqs, because=because[:200])
        rows = conn.execute(sa.select(findings).where(findings.c.seq.in_(seqs)).order_by(findings.c.seq)).mappings()
        overruled = [_to_finding(row) for row in rows]
    apply_overlap_rules(store, {rater_id})
    return overruled


def _insert_finding(conn: Connection, finding: NewFinding) -> Finding | None:
    """Insert a finding and return it; None where the same stands, or was overruled after this one was computed."""
    same = (
        findings.c.rater_id == finding.rater_id,
        findings.c.check_name == finding.check,
        findings.c.project_id.is_(None) if finding.project is None else findings.c.project_id == finding.project,
    )
    if conn.execute(sa.select(findings.c.seq).where(*same, findings.c.overruled_at.is_(None))).first():
        return None
    row = {
        "rater_id": finding.rater_id,
        "project_id": finding.project,
        "check_name": finding.check,
        "statistic": finding.statistic,
        "p_value": finding.p_value,
        "false_alarm_rate": finding.false_alarm_rate,
        "evidence": dict(finding.evidence),
        "action": finding.action.value,
        "created_at": utc_now(),
    }
    seq = conn.execute(findings.insert().returning(findings.c.seq), row).scalar_one()
    name = conn.execute(sa.select(raters.c.name).where(raters.c.id == finding.rater_id)).scalar_one()
    audit.record(conn, CHECKS, "finding.added", name, check=finding.check, led_to=finding.action.value)
    return _to_finding(conn.execute(sa.select(findings).where(findings.c.seq == seq)).mappings().one())


def _set_vote_weight(conn: Connection, rater_id: str) -> None:
    """Set a rater's weight to the least that a standing finding gives them; null, which is 1, where none does."""
    standing = sa.select(findings.c.action).where(findings.c.rater_id == rater_id, findings.c.overruled_at.is_(None))
    weights = [VOTE_WEIGHTS.get(FindingAction(action), 1.0) for action in conn.execute(standing).scalars()]
    least = min(weights, default=1.0)
    weight = raters.update().where(raters.c.id == rater_id).values(vote_weight=None if least == 1 else least)
    conn.execute(weight)


def _to_finding(row: Any) -> Finding:
    return Finding(
        seq=row["seq"],
        rater_id=row["rater_id"],
        project=row["project_id"],
        check=row["check_name"],
        statistic=row["statistic"],
        p_value=row["p_value"],
        false_alarm_rate=row["false_alarm_rate"],
        evidence=row["evidence"],
        action=FindingAction(row["action"]),
        created_at=row["created_at"],
        overruled_by=row["overruled_by"],
        overruled_at=row["overruled_at"],
        overruled_because=row["overruled_because"],
    )
