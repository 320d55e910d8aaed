"""Adaptive overlap: after each judgment, one more place is opened if another vote is worth its price.

This runs in the transaction that stores the judgment. The row of the comparison is locked by then (`locks.py`), so one
decision is made after another and each sees all votes before it; and the judgment, the place and what is believed of
the comparison are stored together or not at all. What a vote is worth is in `stats/value_of_vote.py`, and what votes
say is in `store/beliefs.py`.

Only the places of raters are opened and closed here, and only they count towards the least and the most: places of
judges and leads are wanted for other reasons. A place that is reserved for somebody counts like any other, so that a
comparison gets no more votes than it should, and only whoever ends the assignment closes it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store import audit
from rlhf_hitl.store.beliefs import believe, save_beliefs
from rlhf_hitl.store.comparisons import compute_queue_position, find_free_numbers, measures_raters
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.queue.locks import lock_comparison
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.service_tables import promotion_draws
from rlhf_hitl.store.tables import comparisons, judgments, lanes, places, projects
from rlhf_hitl.types import Escalation, OverlapRule, Role, Route

if TYPE_CHECKING:
    from rlhf_hitl.stats.value_of_vote import VoteDecision

#: Comparisons of one transaction while a rule is applied to a project, and the seconds until the next one begins:
#: raters wait for the lock meanwhile.
COMPARISONS_AT_ONCE, PAUSE_SECONDS = 5, 0.005
#: Who sends a comparison to a lead, as the audit log names it.
OVERLAP_RULE = audit.Actor("overlap rule")


def select_overlap_rule(lane_id: sa.ColumnElement[int]) -> sa.ScalarSelect[Any]:
    """Return the overlap rule of the project that a lane is of; null where overlap is fixed."""
    query = sa.select(projects.c.overlap_rule).join(lanes, lanes.c.project_id == projects.c.id)
    return query.where(lanes.c.id == lane_id).scalar_subquery()


_OF_PROMOTION = sa.select(promotion_draws.c.n).where(promotion_draws.c.comparison_id == sa.bindparam("comparison"))


def reconsider_overlap(
    store: Store,
    conn: Connection,
    comparison_id: str,
    rule: Mapping[str, Any],
    now: datetime,
    *,
    new: Mapping[str, Any] | None = None,
) -> VoteDecision | None:
    """Decide whether a comparison gets one more vote, open or close its places accordingly, and keep what is believed.

    The caller holds the lock of the comparison. Returns None where nothing is to be decided: hidden repeats and gold
    measure raters, and what a lead has decided waits for nobody.

    Args:
        rule: `OverlapRule` as its project has it.
        new: the row of a judgment that is not in the store yet, but whose place is filled.
    """
    if conn.execute(_OF_PROMOTION, {"comparison": comparison_id}).first() is not None:
        return None  # it gets as many votes as its promotion asks for
    belief = believe(conn, comparison_id, new)
    if belief is None:
        return None
    if belief.decided:
        save_beliefs(store, conn, belief, "adjudicated", now)
        return None
    from rlhf_hitl.stats.value_of_vote import decide_on_vote  # numpy

    overlap_rule = OverlapRule.from_plain(rule)
    standing = _load_standing(conn, comparison_id)
    decision = decide_on_vote(
        [pair.next_vote for pair in belief.pairs],
        standing.filled,
        least=overlap_rule.least,
        most=overlap_rule.most,
        price=overlap_rule.vote_price,
    )
    goes_on = decision.action == "ask" or (
        decision.action == "split"
        and overlap_rule.escalate is Escalation.RATERS
        and standing.filled < overlap_rule.most
    )
    # Where nobody disagreed a lead has nothing to settle, however much the rater model expects raters to differ.
    settled = "sure" if decision.action == "sure" else "agreed" if belief.unanimous else "split"
    route, waits_for_lead = belief.route, standing.waits_for_lead
    if waits_for_lead and settled != "split":
        from rlhf_hitl.store.adjudication import withdraw_from_leads

        reason = "raters are no longer split"
        restored = withdraw_from_leads(store, conn, comparison_id, by=OVERLAP_RULE, reason=reason, now=now)
        route, waits_for_lead = restored or route, restored is None
    wanted = max(overlap_rule.least - standing.filled, int(goes_on))
    if route is Route.AUTO or waits_for_lead:
        wanted = 0
    waiting = _open_or_close_places(store, conn, comparison_id, route, standing, wanted, now)
    save_beliefs(store, conn, belief, "open" if wanted or waiting else settled, now)
    if settled == "split" and not (wanted or waiting) and overlap_rule.escalate is Escalation.ADJUDICATION:
        from rlhf_hitl.store.adjudication import escalate_to_lead  # which stands on the queue

        escalate_to_lead(store, conn, comparison_id, by=OVERLAP_RULE, reason="raters are split")
    return decision


@dataclass(frozen=True)
class _Standing:
    """The places of a comparison for raters: how many are filled or wait for somebody by name, and the numbers of
    those that wait for anybody."""

    filled: int
    reserved: int
    waiting: tuple[int, ...]
    taken: frozenset[int]  # numbers of all places, also reserved ones and those of judges and leads
    lane_id: int
    position: int | None
    overlap: int
    waits_for_lead: bool


def _load_standing(conn: Connection, comparison_id: str) -> _Standing:
    rows = [row for row in conn.execute(_PLACES, {"comparison": comparison_id}) if row.lane_id is not None]
    own = [row for row in rows if row.n is not None and row.role == ""]
    of_anybody = [row for row in own if row.reserved_for is None]
    filled = sum(row.judgment_id is not None for row in own)
    waiting = tuple(row.n for row in of_anybody if row.judgment_id is None)
    return _Standing(
        filled=filled,
        reserved=len(own) - filled - len(waiting),
        waiting=waiting,
        taken=frozenset(row.n for row in rows if row.n is not None),
        lane_id=rows[0].lane_id,
        position=min((row.position for row in of_anybody), default=None),
        overlap=rows[0].overlap,
        waits_for_lead=any(row.role == Role.LEAD and row.judgment_id is None for row in rows),
    )


_PLACES = (
    sa.select(
        comparisons.c.lane_id,
        comparisons.c.overlap,
        *(places.c[name] for name in ("n", "role", "reserved_for", "judgment_id", "position")),
    )
    .outerjoin(places, places.c.comparison_id == comparisons.c.id)
    .where(comparisons.c.id == sa.bindparam("comparison"))
    .order_by(places.c.n)
)


def _open_or_close_places(
    store: Store, conn: Connection, comparison_id: str, route: Route, standing: _Standing, wanted: int, now: datetime
) -> int:
    """Have `wanted` places wait for a judgment, as far as those that raters hold allow it. Returns how many do."""
    waiting = len(standing.waiting) + standing.reserved
    if waiting < wanted:
        position = standing.position
        if position is None:
            position = compute_queue_position(store, comparison_id, route)
        place = {"comparison_id": comparison_id, "lane_id": standing.lane_id, "position": position}
        numbers = find_free_numbers(standing.taken, wanted - waiting)
        conn.execute(places.insert(), [place | {"n": n} for n in numbers])
        waiting = wanted
    elif waiting > wanted:  # of a time before the rule, or a vote that was corrected has made the rest needless
        for n in reversed(standing.waiting):
            closed = conn.execute(_CLOSE, {"comparison": comparison_id, "place_n": n, "now": now}).rowcount
            waiting -= closed
            if waiting == wanted:
                break
    overlap = standing.filled + waiting
    if overlap != standing.overlap:
        conn.execute(comparisons.update().where(comparisons.c.id == comparison_id).values(overlap=overlap))
    return waiting


_CLOSE = places.delete().where(
    places.c.comparison_id == sa.bindparam("comparison"),
    places.c.n == sa.bindparam("place_n"),
    places.c.judgment_id.is_(None),
    is_free(),
)


def apply_overlap_rules(store: Store, judged_by: Collection[str] = ()) -> int:
    """Apply the rules of all projects that have one, once votes count otherwise than they did: after a fit, a finding,
    or one that was overruled. Returns how many comparisons were looked at.

    Args:
        judged_by: only to comparisons that these raters have judged; none: to all.
    """
    query = sa.select(projects.c.id, projects.c.overlap_rule).order_by(projects.c.id)
    with store.read() as conn:
        ruled = [row.id for row in conn.execute(query) if row.overlap_rule is not None]
    return sum(apply_overlap_rule(store, project, judged_by) for project in ruled)


def apply_overlap_rule(store: Store, project: str, judged_by: Collection[str] = ()) -> int:
    """Reconsider every comparison of a project that waits for raters or was judged by them, in short transactions.

    This is for a rule that is new, or raters that were measured anew. Whoever is stopped in between does it again.
    Returns how many comparisons were looked at; none without a rule.

    Args:
        judged_by: only those that these raters have judged; none: all.
    """
    looked_at, after = 0, ""
    chosen = _WITH_PLACES
    if judged_by:
        by_them = judgments.c.comparison_id == comparisons.c.id, judgments.c.rater_id.in_(judged_by)
        chosen = chosen.where(sa.exists().where(*by_them))
    while True:
        with store.write() as conn:
            query = sa.select(projects.c.overlap_rule).where(projects.c.id == project)
            rule = conn.execute(query).scalar_one_or_none()
            if rule is None:
                return looked_at
            ids = list(conn.execute(chosen, {"project": project, "after": after}).scalars())
            now = store.now(conn)
            for comparison_id in ids:
                lock_comparison(conn, comparison_id)
                reconsider_overlap(store, conn, comparison_id, rule, now)
        if not ids:
            return looked_at
        looked_at, after = looked_at + len(ids), ids[-1]
        time.sleep(PAUSE_SECONDS)


_WITH_PLACES = (
    sa.select(comparisons.c.id)
    .join(lanes, lanes.c.id == comparisons.c.lane_id)
    .where(
        lanes.c.project_id == sa.bindparam("project"),
        comparisons.c.id > sa.bindparam("after"),
        ~measures_raters(),  # golds are locked after places (`gold_places.py`), and here it is the other way round
        sa.exists().where(places.c.comparison_id == comparisons.c.id, places.c.role == ""),
    )
    .order_by(comparisons.c.id)
    .limit(COMPARISONS_AT_ONCE)
)
