"""Routings: every decision on a comparison's route, and its effect on the places for raters."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import audit, audits, webhooks
from rlhf_hitl.store.accepted import find_export
from rlhf_hitl.store.automation import find_halted, lock_automation
from rlhf_hitl.store.comparisons import (
    compute_queue_position,
    find_free_numbers,
    measures_raters,
    restrict_comparisons,
)
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.tables import comparisons, lanes, places, routings
from rlhf_hitl.types import ErrorBound, Event, Route, Split, utc_now

#: Decisions of one transaction, which takes some twenty milliseconds, and the seconds until the next one begins: raters
#: wait for the lock meanwhile.
DECISIONS_AT_ONCE, PAUSE_SECONDS = 10, 0.005
#: The reason of what a lead sends to raters.
SENT_TO_RATERS = "sent to raters by a lead"


@dataclass(frozen=True)
class Routing:
    """One decision: where a comparison goes, where it would have gone without the draws, and why.

    `place_in_line` orders the comparisons of one route for raters, 0 first. `bound` is what an audit measures: the
    promise under which the model's choice is accepted.
    """

    comparison_id: str
    route: Route
    proposed: Route
    reason: str
    reward_model_id: str | None = None
    round: int = 0
    place_in_line: int = 0
    decided_by: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    bound: ErrorBound | None = None

    @property
    def accepts(self) -> bool:
        """Whether the model's choice is accepted, audited or not."""
        return self.route in (Route.AUTO, Route.AUDIT)


def apply_routings(store: Store, decisions: Sequence[Routing], *, now: datetime | None = None) -> list[Routing]:
    """Store decisions and carry them out: open places for raters, or close the free places of accepted comparisons.

    A place that a rater holds or has filled stays. Each decision is stored and carried out as a whole; many of them
    take several transactions, between which raters submit. Whoever is stopped in between routes again. What a model
    accepts in a project whose automation was paused or stopped meanwhile goes to raters.

    Returns:
        The decisions as they were stored.

    Raises:
        NotFound: a decision names a comparison the store does not have; then no decision is stored.
    """
    ids = {d.comparison_id for d in decisions}
    with store.read() as conn:
        existing = set(conn.execute(sa.select(comparisons.c.id).where(store.among(comparisons.c.id, ids))).scalars())
    if missing := sorted(ids - existing):
        raise NotFound(f"comparison {missing[0]!r}", expected="one in the store", fix="import it before routing it")
    applied: list[Routing] = []
    for start in range(0, len(decisions), DECISIONS_AT_ONCE):
        if start:
            time.sleep(PAUSE_SECONDS)
        with store.write() as conn:
            some = _withhold_acceptances(store, conn, decisions[start : start + DECISIONS_AT_ONCE])
            _apply_some(store, conn, some, now or store.now(conn))
        applied += some
    return applied


@dataclass(frozen=True)
class Override:
    """What became of a lead's override; it is true where this one sent the comparison to raters.

    `exported_at` is when the acceptance that it overrides was exported: who took that data does not hear of it.
    """

    sent: bool
    exported_at: datetime | None = None

    def __bool__(self) -> bool:
        return self.sent


def send_to_raters(store: Store, comparison_id: str, *, by: audit.Actor) -> Override:
    """Have an accepted comparison judged by people after all, before all others: a lead's override.

    It is sent once, by this lead or another. The decision says where the acceptance was exported before.

    Args:
        by: the lead.

    Raises:
        NotFound: the store has no such comparison.
        Conflict: it is not accepted, or no longer.
    """
    with store.write() as conn:
        # Locked, so that of two leads who send it at once one sends it.
        query = sa.select(comparisons.c.route).where(comparisons.c.id == comparison_id)
        route = conn.execute(query.with_for_update(key_share=True)).scalar()
        if route == Route.ESCALATED.value:
            return Override(False)
        if route is None:
            raise NotFound(f"comparison {comparison_id!r}", expected="one in the store", fix="reload the page")
        if route != Route.AUTO.value:
            raise Conflict("This comparison is not accepted any more: raters judge it. Fix: reload the page")
        newest = sa.select(routings.c.reward_model_id).where(routings.c.comparison_id == comparison_id)
        model = conn.execute(newest.order_by(routings.c.seq.desc()).limit(1)).scalar()
        exported_at = find_export(conn, comparison_id)
        reason = SENT_TO_RATERS
        if exported_at is not None:
            reason += f", after the acceptance was exported on {exported_at:%Y-%m-%d %H:%M} UTC"
        facts = {"reason": reason, "reward_model_id": model, "decided_by": by.id}
        decision = Routing(comparison_id, Route.ESCALATED, Route.AUTO, **facts)
        _apply_some(store, conn, [decision], store.now(conn))
        details = {} if exported_at is None else {"exported_at": exported_at.isoformat()}
        audit.record(conn, by, "comparison.sent_to_raters", comparison_id, **details)
    return Override(True, exported_at)


@dataclass(frozen=True)
class SentToRaters:
    """How many comparisons were sent to raters, and of how many not: they are first in line already, or cannot be."""

    sent: int
    waiting: int = 0
    refused: int = 0


def ask_for_votes(store: Store, comparison_ids: Sequence[str], *, by: audit.Actor) -> SentToRaters:
    """Have each of some comparisons judged by one more rater, before all others: whatever was decided of it so far.

    One that waits for a rater as an escalation already is left as it is, so that who sends it twice pays once. Golds,
    hidden repeats and what is not in the store are refused.

    Args:
        by: the lead.
    """
    counts: Counter[str] = Counter()
    ids = sorted(set(comparison_ids))  # in order of id, as everybody locks comparisons
    waits = sa.exists().where(
        places.c.comparison_id == comparisons.c.id, places.c.role == "", places.c.judgment_id.is_(None)
    )
    # What measures raters is left alone, and not locked: golds are locked after places (`gold_places.py`).
    query = sa.select(comparisons.c.id, comparisons.c.route, waits.label("waits")).where(~measures_raters())
    for start in range(0, len(ids), DECISIONS_AT_ONCE):
        if start:
            time.sleep(PAUSE_SECONDS)
        some = ids[start : start + DECISIONS_AT_ONCE]
        with store.write() as conn:
            chosen = query.where(store.among(comparisons.c.id, some)).order_by(comparisons.c.id)
            rows = conn.execute(chosen.with_for_update(key_share=True, of=comparisons)).all()
            counts["refused"] += len(some) - len(rows)
            new = [row for row in rows if not (row.waits and row.route == Route.ESCALATED.value)]
            counts["waiting"] += len(rows) - len(new)
            counts["sent"] += len(new)
            decisions = [Routing(r.id, Route.ESCALATED, Route(r.route), SENT_TO_RATERS, decided_by=by.id) for r in new]
            if decisions:
                _apply_some(store, conn, decisions, store.now(conn))
                for decision in decisions:
                    audit.record(conn, by, "comparison.sent_to_raters", decision.comparison_id)
    return SentToRaters(counts["sent"], counts["waiting"], counts["refused"])


def _withhold_acceptances(store: Store, conn: Connection, decisions: Sequence[Routing]) -> list[Routing]:
    """Return the decisions; those that accept where automation does not run send the comparison to raters instead."""
    if not any(d.accepts for d in decisions):
        return list(decisions)
    lock_automation(store, conn)
    if not (halted := find_halted(conn)):
        return list(decisions)
    query = sa.select(comparisons.c.id, lanes.c.project_id).join(lanes, lanes.c.id == comparisons.c.lane_id)
    rows = conn.execute(query.where(comparisons.c.id.in_([d.comparison_id for d in decisions])))
    projects = dict(rows.tuples().all())
    withheld = {"route": Route.HUMAN, "proposed": Route.HUMAN, "bound": None}
    return [
        replace(d, **withheld, reason=f"automation is {halted[project].state.value}: raters judge everything")
        if d.accepts and (project := projects[d.comparison_id]) in halted
        else d
        for d in decisions
    ]


def _apply_some(store: Store, conn: Connection, decisions: Sequence[Routing], now: datetime) -> None:
    # Locked in order of id, so that two routers cannot deadlock.
    query = sa.select(comparisons.c.id).where(store.among(comparisons.c.id, {d.comparison_id for d in decisions}))
    conn.execute(query.order_by(comparisons.c.id).with_for_update(key_share=True))
    hooks = webhooks.list_subscriptions(conn)
    # What is sent on, because raters are split or a lead wants one more vote, stays an audit.
    if replaced := [d.comparison_id for d in decisions if d.route is not Route.ESCALATED]:
        audits.forget_undecided(conn, replaced)
    for d in decisions:
        row = vars(d) | {"route": d.route.value, "proposed": d.proposed.value}
        del row["bound"]
        seq = conn.execute(routings.insert().values(row).returning(routings.c.seq)).scalar_one()
        if d.route is Route.AUDIT and d.bound is not None:
            audits.draw_audit(conn, seq, d.comparison_id, d.bound)
        decided = {"route": d.route.value, "accepted_seq": seq if d.route is Route.AUTO else None}
        conn.execute(comparisons.update().where(comparisons.c.id == d.comparison_id).values(decided))
        if d.route is Route.AUTO:
            webhooks.enqueue_event(
                conn, Event.COMPARISON_RESOLVED, {"comparison_id": d.comparison_id, "by": "model"}, hooks
            )
            unfilled = sa.and_(places.c.comparison_id == d.comparison_id, places.c.judgment_id.is_(None))
            conn.execute(places.delete().where(unfilled, is_free()), {"now": now})
        else:
            position = compute_queue_position(store, d.comparison_id, d.route, d.round, d.place_in_line)
            _open_wanted_places(conn, d, position)
            own = places.c.comparison_id == d.comparison_id, places.c.role == ""
            conn.execute(places.update().where(*own).values(position=position))


def _open_wanted_places(conn: Connection, decision: Routing, position: int) -> None:
    """Open as many places as are missing: a comparison wants at least one, an escalated one more than are filled."""
    query = sa.select(comparisons.c.lane_id, comparisons.c.overlap).where(comparisons.c.id == decision.comparison_id)
    lane, wanted = conn.execute(query).one()
    query = sa.select(places.c.n, places.c.role, places.c.judgment_id)
    rows = conn.execute(query.where(places.c.comparison_id == decision.comparison_id)).all()
    own = [row for row in rows if row.role == ""]
    filled = sum(row.judgment_id is not None for row in own)
    wanted = max(wanted, filled + 1 if decision.route is Route.ESCALATED else 1)
    conn.execute(comparisons.update().where(comparisons.c.id == decision.comparison_id).values(overlap=wanted))
    place = {"comparison_id": decision.comparison_id, "lane_id": lane, "position": position}
    if numbers := find_free_numbers([row.n for row in rows], wanted - len(own)):
        conn.execute(places.insert(), [place | {"n": n} for n in numbers])


def find_sent_by_leads(store: Store) -> frozenset[str]:
    """Return the comparisons of which a lead decided last that people judge them."""
    newest = sa.select(sa.func.max(routings.c.seq)).group_by(routings.c.comparison_id)
    query = sa.select(routings.c.comparison_id).where(
        routings.c.seq.in_(newest), routings.c.decided_by.is_not(None), routings.c.route == Route.ESCALATED.value
    )
    with store.read() as conn:
        return frozenset(conn.execute(query).scalars())


def read_routings(
    store: Store, *, round: int | None = None, split: Split | None = None, newest: bool = True
) -> list[Routing]:
    """Return decisions in the order they were made; with `newest`, only the last of each comparison."""
    query = sa.select(routings).order_by(routings.c.seq)
    if round is not None:
        query = query.where(routings.c.round == round)
    if split is not None:
        query = query.join(comparisons, comparisons.c.id == routings.c.comparison_id)
        query = restrict_comparisons(query, project=None, split=split, repeats=True)
    with store.read() as conn:
        rows = conn.execute(query).mappings().all()
    decisions = [
        Routing(
            r["comparison_id"],
            Route(r["route"]),
            Route(r["proposed"]),
            r["reason"],
            r["reward_model_id"],
            r["round"],
            r["place_in_line"],
            r["decided_by"],
            r["created_at"],
        )
        for r in rows
    ]
    return list({r.comparison_id: r for r in decisions}.values()) if newest else decisions
