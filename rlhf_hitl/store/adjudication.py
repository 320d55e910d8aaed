"""Adjudication: what raters cannot settle is decided by a lead, who sees their votes and reasons.

A comparison that is sent to adjudication gets one place for a lead, and no more votes are asked for. The decision is a
judgment in the role `lead`, which the lead gives by the same queue: leased, submitted once, corrected if need be. Leads
do not decide what they have voted on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.queue.decisions import has_decision, is_decision
from rlhf_hitl.store.queue.places import LEAD, is_free, open_place_for_lead
from rlhf_hitl.store.tables import comparisons, judgments, lanes, places, raters, routings
from rlhf_hitl.types import Judgment, Route, utc_now

SENT_AT_ONCE = 20


@dataclass(frozen=True)
class SentToAdjudication:
    """How many comparisons were sent, and of how many not: they wait already, are decided, or cannot be decided."""

    sent: int
    waiting: int = 0
    decided: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Vote:
    """One vote that a lead sees beside a comparison to decide: the newest judgment of a rater or a judge."""

    judgment: Judgment
    rater: str


@dataclass(frozen=True)
class AdjudicationCounts:
    """Comparisons that wait for a decision, those of them that this lead may decide, and those that are decided."""

    waiting: int
    for_you: int
    decided: int


def send_to_adjudication(
    store: Store, comparison_ids: Sequence[str], *, by: audit.Actor, reason: str = "sent to adjudication by a lead"
) -> SentToAdjudication:
    """Have leads decide comparisons. Raters are asked for no more votes on them; those who hold one may answer it.

    A comparison that was decided before is decided only once. Golds and hidden repeats are refused, and so is what is
    not in the store.
    """
    counts: Counter[str] = Counter()
    remaining = iter(sorted(set(comparison_ids)))  # in order of id, as everybody locks comparisons
    while chunk := list(islice(remaining, SENT_AT_ONCE)):
        with store.write() as conn:
            for comparison_id in chunk:
                counts[escalate_to_lead(store, conn, comparison_id, by=by, reason=reason)] += 1
    return SentToAdjudication(counts["sent"], counts["waiting"], counts["decided"], counts["refused"])


def escalate_to_lead(store: Store, conn: Connection, comparison_id: str, *, by: audit.Actor, reason: str) -> str:
    """Send one comparison to adjudication within a transaction; return `sent`, `waiting`, `decided` or `refused`.

    This is for whoever finds that raters are split, in the transaction of the vote that shows it.
    """
    # What measures raters is not even locked: golds are locked after places (`gold_places.py`).
    query = sa.select(comparisons.c.route).where(comparisons.c.id == comparison_id, ~measures_raters())
    found = conn.execute(query.with_for_update(key_share=True)).first()
    if found is None:
        return "refused"
    of_leads = (places.c.comparison_id == comparison_id, places.c.role == LEAD)
    if conn.execute(sa.select(places.c.n).where(*of_leads, places.c.judgment_id.is_(None))).first() is not None:
        return "waiting"
    if has_decision(conn, comparison_id):
        return "decided"
    open_place_for_lead(store, conn, comparison_id)
    newest = sa.select(routings.c.reward_model_id).where(routings.c.comparison_id == comparison_id)
    routing = {
        "comparison_id": comparison_id,
        "route": Route.ESCALATED.value,
        "proposed": found.route,
        "reason": reason,
        "round": 0,
        "place_in_line": 0,
        "reward_model_id": conn.execute(newest.order_by(routings.c.seq.desc()).limit(1)).scalar(),
        "decided_by": by.id[:80],
        "created_at": utc_now(),
    }
    conn.execute(routings.insert().values(routing))
    escalated = {"route": Route.ESCALATED.value, "accepted_seq": None}
    conn.execute(comparisons.update().where(comparisons.c.id == comparison_id).values(escalated))
    unfilled = (places.c.comparison_id == comparison_id, places.c.role == "", places.c.judgment_id.is_(None))
    conn.execute(places.delete().where(*unfilled, is_free()), {"now": store.now(conn)})
    audit.record(conn, by, "comparison.sent_to_adjudication", comparison_id, reason=reason[:200])
    return "sent"


def load_votes(store: Store, comparison_id: str) -> list[Vote]:
    """Return the newest judgment of each rater and judge on a comparison, in the order of their first ones.

    Decisions of leads are not among them, nor is what does not count.
    """
    newer = judgments.alias()
    query = (
        sa.select(judgments, raters.c.name)
        .join(raters, raters.c.id == judgments.c.rater_id)
        .where(
            judgments.c.comparison_id == comparison_id,
            sa.func.coalesce(judgments.c.role, "") != LEAD,
            judgments.c.surplus.is_(False),
            ~sa.exists().where(newer.c.supersedes == judgments.c.id),
        )
        .order_by(judgments.c.seq)
    )
    with store.read() as conn:
        return [Vote(Judgment.from_plain(row), row["name"]) for row in conn.execute(query).mappings()]


def count_adjudications(
    store: Store, lead_id: str, *, project: str | None = None, now: datetime | None = None
) -> AdjudicationCounts:
    """Count the comparisons that were sent to adjudication."""
    own = sa.exists().where(judgments.c.comparison_id == places.c.comparison_id, judgments.c.rater_id == lead_id)
    waits = places.c.judgment_id.is_(None)
    held_by_another = sa.and_(~is_free(), places.c.rater_id != lead_id)
    decisions = judgments.alias()
    is_decided = sa.exists().where(decisions.c.comparison_id == places.c.comparison_id, is_decision(decisions))
    conditions = (waits, sa.and_(waits, ~own, ~held_by_another), is_decided)
    # A comparison has more than one place for leads where the first one did not decide it.
    each = (sa.case((condition, places.c.comparison_id)) for condition in conditions)
    query = sa.select(*(sa.func.count(sa.distinct(comparison_id)) for comparison_id in each))
    query = query.select_from(places.join(lanes, lanes.c.id == places.c.lane_id)).where(_IS_FOR_LEADS)
    if project is not None:
        query = query.where(lanes.c.project_id == project)
    with store.read() as conn:
        return AdjudicationCounts(*conn.execute(query, {"now": now or store.now(conn)}).one())


#: Written out, so that databases see that the index of these places will do.
_IS_FOR_LEADS = places.c.role == sa.literal_column(f"'{LEAD}'")
