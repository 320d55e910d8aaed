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
from rlhf_hitl.store.queue.overlap import OVERLAP_RULE
from rlhf_hitl.store.queue.places import LEAD, is_free, open_place_for_lead
from rlhf_hitl.store.routings import SENT_TO_RATERS
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
class Cause:
    """Why a comparison was sent to adjudication, the last time.

    Attributes:
        by: the id of who sent it; that of `audit.CLI` or `OVERLAP_RULE` where it was nobody with an account.
        name: the name of whoever has that id; None where nobody has it.
    """

    by: str
    name: str | None
    reason: str


@dataclass(frozen=True)
class AdjudicationCounts:
    """Comparisons that wait for a decision, those of them that this lead may decide, and those that are decided."""

    waiting: int
    for_you: int
    decided: int


#: The reason of what leads send without giving one, and of what they send from the catalog.
SENT_BY_LEAD, SENT_FROM_CATALOG = "sent to adjudication by a lead", "sent from the catalog"


def send_to_adjudication(
    store: Store, comparison_ids: Sequence[str], *, by: audit.Actor, reason: str = SENT_BY_LEAD
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
        cause = conn.execute(_CAUSE, {"comparison": comparison_id}).first()
        if by != OVERLAP_RULE and cause is not None and cause.decided_by == OVERLAP_RULE.id:
            # The rule does not take back what somebody wants decided.
            _insert_routing(conn, comparison_id, Route.ESCALATED, cause.proposed, by, reason)
        return "waiting"
    if has_decision(conn, comparison_id):
        return "decided"
    open_place_for_lead(store, conn, comparison_id)
    _insert_routing(conn, comparison_id, Route.ESCALATED, found.route, by, reason)
    escalated = {"route": Route.ESCALATED.value, "accepted_seq": None}
    conn.execute(comparisons.update().where(comparisons.c.id == comparison_id).values(escalated))
    unfilled = (places.c.comparison_id == comparison_id, places.c.role == "", places.c.judgment_id.is_(None))
    conn.execute(places.delete().where(*unfilled, is_free()), {"now": store.now(conn)})
    audit.record(conn, by, "comparison.sent_to_adjudication", comparison_id, reason=reason[:200])
    return "sent"


def withdraw_from_leads(
    store: Store, conn: Connection, comparison_id: str, *, by: audit.Actor, reason: str, now: datetime
) -> Route | None:
    """Take a comparison that waits for a lead back from adjudication within a transaction: as if it had not been sent.

    Returns the route that it has again; None where it stays: a lead holds it, or somebody else has sent it too. The
    caller holds the lock of the comparison.
    """
    cause = conn.execute(_CAUSE, {"comparison": comparison_id}).first()
    if cause is None or cause.decided_by != by.id:
        return None
    waiting = (places.c.comparison_id == comparison_id, places.c.role == LEAD, places.c.judgment_id.is_(None))
    if not conn.execute(places.delete().where(*waiting, is_free()), {"now": now}).rowcount:
        return None
    # People have judged what a reward model had accepted: their votes are its label now.
    route = Route.HUMAN if cause.proposed == Route.AUTO else Route(cause.proposed)
    # What was proposed of it, by which model and when, stays: controls measure by that what a router would have done.
    was_sent = (routings.c.comparison_id == comparison_id, routings.c.route == route.value)
    before = (
        conn.execute(sa.select(routings).where(*was_sent).order_by(routings.c.seq.desc()).limit(1)).mappings().first()
    )
    if before is None:
        _insert_routing(conn, comparison_id, route, route.value, by, reason)
    else:
        kept = {name: value for name, value in before.items() if name != "seq"}
        again = {"reason": reason, "decided_by": by.id[:80], "created_at": utc_now()}
        conn.execute(routings.insert().values(kept | again))
    conn.execute(comparisons.update().where(comparisons.c.id == comparison_id).values(route=route.value))
    audit.record(conn, by, "comparison.withdrawn_from_adjudication", comparison_id, reason=reason)
    return route


def _insert_routing(
    conn: Connection, comparison_id: str, route: Route, proposed: str, by: audit.Actor, reason: str
) -> None:
    newest = sa.select(routings.c.reward_model_id).where(routings.c.comparison_id == comparison_id)
    routing = {
        "comparison_id": comparison_id,
        "route": route.value,
        "proposed": proposed,
        "reason": reason,
        "round": 0,
        "place_in_line": 0,
        "reward_model_id": conn.execute(newest.order_by(routings.c.seq.desc()).limit(1)).scalar(),
        "decided_by": by.id[:80],
        "created_at": utc_now(),
    }
    conn.execute(routings.insert().values(routing))


#: The newest routing that sent a comparison to adjudication, with the name of who did. Leads send some to raters, too.
_CAUSE = (
    sa.select(routings.c.decided_by, routings.c.proposed, routings.c.reason, raters.c.name)
    .outerjoin(raters, raters.c.id == routings.c.decided_by)
    .where(
        routings.c.comparison_id == sa.bindparam("comparison"),
        routings.c.route == Route.ESCALATED.value,
        routings.c.decided_by.is_not(None),
        ~routings.c.reason.startswith(SENT_TO_RATERS),
    )
    .order_by(routings.c.seq.desc())
    .limit(1)
)


def load_cause(store: Store, comparison_id: str) -> Cause | None:
    """Return why a comparison was sent to adjudication, the last time; None where it never was."""
    with store.read() as conn:
        row = conn.execute(_CAUSE, {"comparison": comparison_id}).first()
    return None if row is None else Cause(row.decided_by, row.name, row.reason)


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
