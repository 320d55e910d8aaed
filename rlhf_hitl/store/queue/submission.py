"""An answer becomes a judgment: submit one for a lease, or correct a judgment of one's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import guidelines, webhooks
from rlhf_hitl.store.beliefs import DECISIONS
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import (
    append_judgment,
    find_repeated_correction,
    find_repeated_submission,
    has_judged_before,
    judgment_to_row,
    make_judgment_id,
)
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.queue.assignment import is_open_to, may_lease_more, may_work_at
from rlhf_hitl.store.queue.decisions import ask_until_decided, may_decide
from rlhf_hitl.store.queue.gold_places import drop_place
from rlhf_hitl.store.queue.leasing import check_lease_of, count_running_leases
from rlhf_hitl.store.queue.locks import lock_comparison, lock_rater
from rlhf_hitl.store.queue.overlap import reconsider_overlap, select_overlap_rule
from rlhf_hitl.store.queue.places import LEAD, NOW, ROLE, find_working_role, is_free
from rlhf_hitl.store.queue.qualifying import count_answer
from rlhf_hitl.store.tables import comparisons, judgments, leases, places, projects
from rlhf_hitl.types import (
    Answer,
    Event,
    GoldFeedback,
    GoldPurpose,
    Qualification,
    Receipt,
    Role,
    ShownAnswer,
    utc_now,
)
from rlhf_hitl.types.content import refuse_nul
from rlhf_hitl.types.judges import Probabilities

#: Of one judgment. Each stays in the store for good.
MAX_CORRECTIONS = 50


def submit(
    store: Store,
    lease_id: str,
    rater_id: str,
    answer: Answer | ShownAnswer,
    *,
    idempotency_key: str | None = None,
    guideline_version: str = "",
    interface_version: str = "",
    simulated: bool = False,
    probabilities: Probabilities | None = None,
    now: datetime | None = None,
) -> Receipt:
    """Store a rater's answer as a judgment. When this returns, the judgment is on disk.

    A second submit under a known idempotency key changes nothing and returns the outcome `repeated`. After the lease
    ran out, the answer takes a place that is still free if the rater would be given one now, and else is `surplus`: it
    is kept and does not count. So is the decision of somebody who is a lead no more. Where a lead decides nothing, by a
    skip or a flag, another lead is asked.

    Args:
        answer: names completions by id, or by the letters they were shown under.
        idempotency_key: the lease's id, if not given.
        guideline_version: the version the rater answered under, where it is a later one than the lease's.
        probabilities: a judge's, of (first shown better, tie, second shown better).

    Raises:
        NotFound: no such lease.
        LeaseOfAnotherRater: the lease was given to another rater.
        Conflict: this rater has judged the comparison under another key, or has used the key for another comparison.
        BadInput: the answer names a completion that was not shown, has a score outside 1 to 5, or lacks a score or the
            rationale that the guideline requires; or the version is neither the lease's nor a later one.
    """
    key = idempotency_key or lease_id
    with store.write() as conn:
        rater, clock = lock_rater(store, conn, rater_id)
        parameters = {"lease": lease_id, "rater": rater_id, "key": key}
        lease = check_lease_of(rater_id, lease_id, conn.execute(_LOAD_AND_LOCK, parameters).mappings().first())
        answer = _check_answer(answer, lease["order_shown"])
        leased_version, comparison_id = lease["guideline_version"], lease["comparison_id"]
        version = guideline_version or leased_version
        is_later = version != leased_version
        if is_later:
            guidelines.check_version(conn, comparison_id, version, leased_version)
        role = find_working_role(lease["place"])
        # A simulated rater has no reasons to give, and its time is simulated too. A judge says what its template asks.
        if not simulated and role != Role.JUDGE:
            if is_later or lease["guideline_requires"] or answer.scores:
                guidelines.check_answer(conn, comparison_id, version, answer, lease["order_shown"])
            answer = _limit_active_time(conn, answer, rater_id, lease["leased_at"], now or clock)
        if lease["judged_before"]:
            earlier_id = find_repeated_submission(conn, rater_id, key, lease["comparison_id"], answer)
            if earlier_id is not None:
                return Receipt(earlier_id, "repeated", _check_gold(conn, lease, answer))
        now = now or clock
        judgment_id = make_judgment_id()
        may_count = role != LEAD or may_decide(rater)
        filled = may_count and _fill_place(conn, _HELD_PLACE, lease, lease_id, judgment_id, now)
        # After the lease it counts where they would be given it now; otherwise it is kept, and no more.
        if may_count and not filled and rater is not None and _may_be_given(conn, rater, comparison_id, now, role):
            filled = _fill_place(conn, _FREE_PLACE, lease, lease_id, judgment_id, now)
        if not filled and (lease["is_gold"] or lease["repeat_of"] is not None):
            drop_place(conn, rater_id, comparison_id)
        row = judgment_to_row(
            answer,
            id=judgment_id,
            comparison_id=lease["comparison_id"],
            rater_id=rater_id,
            lease_id=lease_id,
            order_shown=lease["order_shown"],
            route=lease["route"],
            reward_model_id=lease["reward_model_id"],
            guideline_version=version,
            interface_version=interface_version,
            simulated=simulated,
            surplus=not filled,
            idempotency_key=key,
            created_at=now,
            role=role,
            probabilities=None if probabilities is None else list(probabilities),
        )
        if role == LEAD and filled:
            ask_until_decided(store, conn, row, now)
        if filled and lease["overlap_rule"] is not None:  # before others wait for this judgment's number
            reconsider_overlap(store, conn, comparison_id, lease["overlap_rule"], now, new=row)
        append_judgment(conn, row)
        if lease["has_webhooks"]:
            _emit_events(conn, row)
        feedback = _check_gold(conn, lease, answer)
        standing = _count_gold(conn, lease, answer, now) if filled and rater is not None else None
        return Receipt(judgment_id, "counted" if filled else "surplus", feedback, standing)


# Built once: SQLAlchemy takes longer to build a statement of the busy path than the database takes to run it. The
# rater's earlier judgments need no lock: their row is locked already, so they submit nothing else meanwhile.
_LOAD_AND_LOCK = (
    sa.select(
        *(leases.c[name] for name in ("comparison_id", "rater_id", "order_shown", "route", "reward_model_id")),
        leases.c.leased_at,
        leases.c.place,
        leases.c.guideline_version,
        comparisons.c.is_gold,
        comparisons.c.repeat_of,
        guidelines.requires_something(leases.c.guideline_version).label("guideline_requires"),
        has_judged_before(leases.c.comparison_id).label("judged_before"),
        webhooks.subscriptions_exist().label("has_webhooks"),
        select_overlap_rule(comparisons.c.lane_id).label("overlap_rule"),
    )
    .join(comparisons, comparisons.c.id == leases.c.comparison_id)
    .where(leases.c.id == sa.bindparam("lease"))
    .with_for_update(key_share=True, of=comparisons)
)


def correct(
    store: Store, judgment_id: str, rater_id: str, answer: Answer | ShownAnswer, *, idempotency_key: str
) -> Receipt:
    """Supersede a judgment of one's own. The first judgment stays in the store; only the newest counts.

    Raises:
        NotFound: no such judgment of this rater.
        Conflict: it has been superseded already, or the key was used for another comparison.
        BadInput: as for `submit`; or the rater is paused, or their project is closed to them by now, or the judgment
            is a lead's decision and they are a lead no more.
    """
    with store.write() as conn:
        query = sa.select(judgments).where(judgments.c.id == judgment_id, judgments.c.rater_id == rater_id)
        old = conn.execute(query).mappings().first()
        if old is None:
            raise NotFound(f"judgment {judgment_id!r}", expected="one of your own", fix="pick it from your history")
        rater, _ = lock_rater(store, conn, rater_id)
        is_decision = old["role"] == LEAD
        may_work = may_decide(rater) if is_decision else may_work_at(conn, rater_id, old["comparison_id"])
        if rater is None or rater.paused_at is not None or not may_work:
            raise BadInput("correction", expected="of somebody who may judge this now", fix="ask a lead")
        lock_comparison(conn, old["comparison_id"])
        answer = _check_answer(answer, old["order_shown"])
        if not old["simulated"]:
            guidelines.check_answer(conn, old["comparison_id"], old["guideline_version"], answer, old["order_shown"])
        earlier_id = find_repeated_correction(
            conn, rater_id, idempotency_key, old["comparison_id"], answer, judgment_id
        )
        if earlier_id is not None:
            return Receipt(earlier_id, "repeated")
        own = (judgments.c.comparison_id == old["comparison_id"], judgments.c.rater_id == rater_id)
        if conn.execute(sa.select(sa.func.count()).where(*own)).scalar_one() > MAX_CORRECTIONS:
            raise Conflict(f"judgment {judgment_id}: it was corrected {MAX_CORRECTIONS} times. Fix: ask a lead")
        if conn.execute(sa.select(judgments.c.id).where(judgments.c.supersedes == judgment_id)).first():
            raise Conflict(f"judgment {judgment_id}: it was corrected before. Fix: correct the newest one")
        if not old["simulated"]:
            answer = _limit_time_of_correction(conn, answer, rater_id, old["active_seconds"], store.now(conn))
        copied = ("comparison_id", "rater_id", "lease_id", "order_shown", "route", "reward_model_id", "simulated")
        versions = ("guideline_version", "interface_version", "surplus", "role")
        row = judgment_to_row(
            answer,
            **{name: old[name] for name in copied + versions},
            supersedes=judgment_id,
            idempotency_key=idempotency_key,
            created_at=utc_now(),
        )
        if is_decision and not old["surplus"]:
            ask_until_decided(store, conn, row, store.now(conn))
        rule_query = sa.select(select_overlap_rule(comparisons.c.lane_id))
        rule = conn.execute(rule_query.where(comparisons.c.id == old["comparison_id"])).scalar_one()
        if rule is not None and not old["surplus"]:
            reconsider_overlap(store, conn, old["comparison_id"], rule, store.now(conn), new=row)
        append_judgment(conn, row)
        _emit_events(conn, row)
        return Receipt(row["id"], "counted" if not old["surplus"] else "surplus")


def _check_answer(answer: Answer | ShownAnswer, order_shown: list[str]) -> Answer:
    """Return the answer in completion ids, once it is known to name only what was shown."""
    if isinstance(answer, ShownAnswer):
        answer = answer.to_answer(order_shown)
    else:
        answer.check(order_shown)
    refuse_nul("rationale", answer.rationale)
    refuse_nul("rewrite", answer.rewrite)
    refuse_nul("scores", *answer.scores)
    return answer


def _limit_active_time(conn: Connection, answer: Answer, rater_id: str, since: datetime, now: datetime) -> Answer:
    """Return the answer with no more active time than there was: it is the sender's word, and people are paid for it.

    There was the time since `since`, less what the rater's judgments since then have claimed of it. Some comparisons
    are held at a time, and answers that waited in a browser come together.
    """
    if answer.active_seconds is None:
        return answer
    most = max(0.0, (now - since).total_seconds() - _sum_claims(conn, rater_id, since))
    return replace(answer, active_seconds=min(answer.active_seconds, most))


def _sum_claims(conn: Connection, rater_id: str, since: datetime) -> float:
    """Return the seconds that a rater's judgments claim since a time. A correction claims what it adds to the judgment
    that it corrects."""
    claimed, before = 0.0, LAST_SEQUENCE_NUMBER
    while rows := conn.execute(_NEWEST_CLAIMS, {"rater": rater_id, "before": before}).all():
        claimed += sum(row.claim for row in rows if row.created_at >= since)
        before = rows[-1].seq
        if rows[-1].created_at < since:
            break
    return claimed


def _limit_time_of_correction(
    conn: Connection, answer: Answer, rater_id: str, earlier: float | None, now: datetime
) -> Answer:
    """Return a correction with no more active time than its judgment had and than the rater's newest one is old."""
    if answer.active_seconds is None:
        return answer
    newest = conn.execute(_NEWEST_CLAIMS, {"rater": rater_id, "before": LAST_SEQUENCE_NUMBER}).first()
    assert newest is not None, "at least the one that is corrected"
    most = (earlier or 0.0) + max(0.0, (now - newest.created_at).total_seconds())
    return replace(answer, active_seconds=min(answer.active_seconds, most))


LAST_SEQUENCE_NUMBER = 2**31 - 1  # the column holds no larger one

_corrected = judgments.alias()
# The newest first; usually the first few are as old as the lease.
_NEWEST_CLAIMS = (
    sa.select(
        judgments.c.seq,
        judgments.c.created_at,
        (sa.func.coalesce(judgments.c.active_seconds, 0.0) - sa.func.coalesce(_corrected.c.active_seconds, 0.0)).label(
            "claim"
        ),
    )
    .outerjoin(_corrected, _corrected.c.id == judgments.c.supersedes)
    .where(judgments.c.rater_id == sa.bindparam("rater"), judgments.c.seq < sa.bindparam("before"))
    .order_by(judgments.c.seq.desc())
    .limit(50)
)


def _fill_place(
    conn: Connection, fill: sa.Update, lease: RowMapping, lease_id: str, judgment_id: str, now: datetime
) -> bool:
    """Fill the first place that `fill` finds. False if there is none."""
    role = find_working_role(lease["place"])
    parameters = {"comparison": lease["comparison_id"], "rater": lease["rater_id"], "now": now, "working_role": role}
    values = {"judgment_id": judgment_id, "rater_id": lease["rater_id"], "lease_id": lease_id, "leased_until": None}
    return conn.execute(fill, parameters | values).rowcount > 0


def _may_be_given(conn: Connection, rater: Any, comparison_id: str, now: datetime, role: str) -> bool:
    held = count_running_leases(conn, rater.id, now)
    return may_lease_more(conn, rater, held, now) and is_open_to(conn, rater, comparison_id, now, role)


def _load_gold(conn: Connection, lease: RowMapping) -> RowMapping | None:
    """Return the right answer of a lease's comparison, where that is a gold or asks one again."""
    if not lease["is_gold"] and lease["repeat_of"] is None:
        return None
    return conn.execute(_GOLD, {"gold": lease["repeat_of"] or lease["comparison_id"]}).mappings().first()


def _check_gold(conn: Connection, lease: RowMapping, answer: Answer) -> GoldFeedback | None:
    """Return what a rater is told of their answer to a gold; None where it is none, or they are told nothing."""
    gold = _load_gold(conn, lease)
    if gold is None or not gold["gold_feedback"]:
        return None
    right = Answer.from_plain(gold)
    return GoldFeedback(right.prefers_same(answer), right, gold["explanation"])


def _count_gold(conn: Connection, lease: RowMapping, answer: Answer, now: datetime) -> Qualification | None:
    """Count an answer in a rater's attempt to qualify, where it is part of one, and return how they stand then."""
    gold = _load_gold(conn, lease)
    if gold is None or gold["purpose"] != GoldPurpose.QUALIFICATION.value:
        return None
    agreed = Answer.from_plain(gold).prefers_same(answer)
    return count_answer(conn, lease["rater_id"], gold["project_id"], agreed, now)


_GOLD = (
    sa.select(golds, projects.c.gold_feedback)
    .join(projects, projects.c.id == golds.c.project_id)
    .where(golds.c.comparison_id == sa.bindparam("gold"))
)


def _make_fill(condition: sa.ColumnElement[bool]) -> sa.Update:
    """Return the statement that fills the first unfilled place of a comparison for which a condition holds."""
    first = (
        sa.select(places.c.n)
        .where(
            places.c.comparison_id == sa.bindparam("comparison"),
            places.c.judgment_id.is_(None),
            sa.or_(places.c.reserved_for.is_(None), places.c.reserved_for == sa.bindparam("rater")),
            condition,
        )
        # One that is reserved for the rater first: nobody else could fill it.
        .order_by(sa.case((places.c.reserved_for.is_(None), 1), else_=0), places.c.n)
        .limit(1)
        .with_for_update()
    )
    return places.update().where(
        places.c.comparison_id == sa.bindparam("comparison"), places.c.n == first.correlate(None).scalar_subquery()
    )


# A place that the rater holds, under this lease or a later one, and one that nobody holds.
_HELD_PLACE = _make_fill(sa.and_(places.c.rater_id == sa.bindparam("rater"), places.c.leased_until > NOW))
_FREE_PLACE = _make_fill(sa.and_(is_free(), places.c.role == ROLE))


def _emit_events(conn: Connection, row: dict) -> None:
    """Put events of a judgment in the outbox, and of its comparison if this was the last judgment wanted."""
    hooks = webhooks.list_subscriptions(conn)
    if not hooks:
        return
    data = {"comparison_id": row["comparison_id"], "judgment_id": row["id"]}
    data |= {name: row[name] for name in ("rater_id", "verdict", "surplus", "supersedes", "simulated")}
    webhooks.enqueue_event(conn, Event.JUDGMENT_CREATED, data, hooks)
    if row["surplus"] or row["supersedes"]:
        return
    if row["role"] == LEAD:
        is_resolved = row["verdict"] in DECISIONS
    else:
        wanted = (places.c.comparison_id == row["comparison_id"], places.c.role.in_(["", LEAD]))
        unfilled = sa.select(places.c.n).where(*wanted, places.c.judgment_id.is_(None)).limit(1)
        is_resolved = row["role"] is None and conn.execute(unfilled).first() is None
    if is_resolved:
        resolved = {"comparison_id": row["comparison_id"], "by": "lead" if row["role"] == LEAD else "raters"}
        webhooks.enqueue_event(conn, Event.COMPARISON_RESOLVED, resolved, hooks)
