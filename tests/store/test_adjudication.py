"""Adjudication on either database: a lead decides, once, what raters could not settle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from handmade_golds import gold_example, rank_by_text

from rlhf_hitl.errors import BadInput, Conflict
from rlhf_hitl.store import adjudication, audit, golds, people, projects, queue
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.routings import read_routings
from rlhf_hitl.store.tables import places
from rlhf_hitl.types import Answer, OverlapRule, Role, Route, Verdict, utc_now

LEA = audit.Actor("lea")


@pytest.fixture
def split(store, add_comparisons, add_raters):
    """A store with three comparisons of two judgments each, which two raters judge the opposite way, and two leads."""
    made = add_comparisons(store, 3, overlap=2)
    raters = add_raters(store, 2)
    for i, rater in enumerate(raters):
        while (lease := queue.lease(store, rater, seconds=1800)) is not None:
            queue.submit(store, lease.id, rater, rank_by_text(lease, reverse=bool(i)))
    leads = [people.add_rater(store, name, Role.LEAD).id for name in ("lea", "leo")]
    return store, [c.id for c in made], leads


def take(store, lead, **kwargs):
    return next(iter(queue.lease_many(store, lead, 1, seconds=1800, role="lead", **kwargs)), None)


def test_a_lead_sees_the_votes_and_decides_and_the_decision_is_a_judgment_of_its_own(split):
    store, ids, (lea, leo) = split
    assert take(store, lea) is None
    sent = adjudication.send_to_adjudication(store, ids[:1], by=LEA, reason="they split")
    assert (sent.sent, sent.waiting, sent.decided, sent.refused) == (1, 0, 0, 0)
    lease = take(store, lea)
    assert lease.comparison.id == ids[0]
    assert lease.comparison.route is Route.ESCALATED
    votes = adjudication.load_votes(store, ids[0])
    assert [vote.rater for vote in votes] == ["rater 0", "rater 1"]
    assert len({vote.judgment.answer.ranking for vote in votes}) == 2
    assert adjudication.count_adjudications(store, leo) == adjudication.AdjudicationCounts(1, 0, 0), "lea holds it"
    assert queue.submit(store, lease.id, lea, rank_by_text(lease)).outcome == "counted"
    assert adjudication.count_adjudications(store, leo) == adjudication.AdjudicationCounts(0, 0, 1)
    [decision] = [j for j in read_judgments(store) if j.rater_id == lea]
    assert (decision.role, decision.surplus, decision.route) == (Role.LEAD, False, Route.ESCALATED)
    assert len(adjudication.load_votes(store, ids[0])) == 2, "the decision is no vote"
    [routing] = read_routings(store)
    assert (routing.reason, routing.decided_by, routing.proposed) == ("they split", "lea", Route.HUMAN)
    assert take(store, leo) is None


def test_what_was_sent_is_not_sent_again(split):
    store, ids, (lea, _) = split
    assert adjudication.send_to_adjudication(store, ids, by=LEA).sent == 3
    assert adjudication.send_to_adjudication(store, ids, by=LEA).waiting == 3
    lease = take(store, lea)
    queue.submit(store, lease.id, lea, rank_by_text(lease))
    again = adjudication.send_to_adjudication(store, [*ids, "x_nothing"], by=LEA)
    assert (again.sent, again.waiting, again.decided, again.refused) == (0, 2, 1, 1)


def test_golds_are_refused(split):
    store, _, _ = split
    golds.add_golds(store, "default", [gold_example("gold")])
    [gold] = golds.list_golds(store)
    assert adjudication.send_to_adjudication(store, [gold.comparison.id], by=LEA).refused == 1


def test_raters_are_asked_for_no_more_votes_and_may_finish_what_they_hold(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, overlap=3)
    ann, bob = add_raters(store, 2)
    lea = people.add_rater(store, "lea", Role.LEAD).id
    held = queue.lease(store, ann, seconds=1800)
    adjudication.send_to_adjudication(store, [comparison.id], by=LEA)
    assert queue.lease(store, bob, seconds=1800) is None
    assert queue.submit(store, held.id, ann, rank_by_text(held)).outcome == "counted"
    assert queue.lease(store, lea, seconds=1800) is None, "nor a lead who rates"
    assert take(store, lea) is not None


def test_what_a_lead_holds_to_decide_and_what_they_hold_to_rate_are_apart(split, add_comparisons):
    store, ids, (lea, _) = split
    add_comparisons(store, 1, first=50)
    adjudication.send_to_adjudication(store, ids[:1], by=LEA)
    to_rate, to_decide = queue.lease(store, lea, seconds=1800), take(store, lea)
    assert to_rate.comparison.id != to_decide.comparison.id == ids[0]
    assert (queue.lease(store, lea, seconds=1800), take(store, lea)) == (to_rate, to_decide)
    queue.submit(store, to_rate.id, lea, rank_by_text(to_rate))
    queue.submit(store, to_decide.id, lea, rank_by_text(to_decide))
    roles = {j.comparison_id: j.role for j in read_judgments(store, rater_id=lea)}
    assert roles == {to_rate.comparison.id: Role.RATER, ids[0]: Role.LEAD}


def test_a_lead_does_not_decide_what_they_voted_on(split, add_comparisons):
    store, _, (lea, leo) = split
    [comparison] = add_comparisons(store, 1, first=50)
    lease = queue.lease(store, lea, seconds=1800)
    queue.submit(store, lease.id, lea, rank_by_text(lease))
    adjudication.send_to_adjudication(store, [comparison.id], by=LEA)
    assert take(store, lea) is None
    assert adjudication.count_adjudications(store, lea) == adjudication.AdjudicationCounts(1, 0, 0)
    assert take(store, leo).comparison.id == comparison.id


def test_a_skip_leaves_the_decision_to_another_lead(split):
    store, ids, (lea, leo) = split
    adjudication.send_to_adjudication(store, ids[:1], by=LEA)
    lease = take(store, lea)
    assert queue.submit(store, lease.id, lea, Answer(Verdict.SKIPPED)).outcome == "counted"
    assert take(store, lea) is None
    lease = take(store, leo)
    assert queue.submit(store, lease.id, leo, rank_by_text(lease)).outcome == "counted"
    assert adjudication.count_adjudications(store, lea) == adjudication.AdjudicationCounts(0, 0, 1)


@pytest.mark.parametrize("adaptive", [False, True])
def test_until_a_lead_decides_the_comparison_waits_for_one(split, adaptive):
    store, ids, (lea, leo) = split
    if adaptive:
        projects.change_project(store, "default", overlap_rule=OverlapRule(2, 6, 0.001))
    adjudication.send_to_adjudication(store, ids[:1], by=LEA)
    lease = take(store, lea)
    flag = Answer(Verdict.FLAGGED, rationale="Names a person.")
    flagged = queue.submit(store, lease.id, lea, flag).judgment_id
    waits = adjudication.AdjudicationCounts(1, 0, 0)
    assert adjudication.count_adjudications(store, lea) == waits
    assert adjudication.send_to_adjudication(store, ids[:1], by=LEA).waiting == 1
    lease = take(store, leo)
    decided = queue.submit(store, lease.id, leo, rank_by_text(lease)).judgment_id
    is_decided = adjudication.AdjudicationCounts(0, 0, 1)
    assert adjudication.count_adjudications(store, lea) == is_decided
    undone = queue.correct(store, decided, leo, Answer(Verdict.SKIPPED), idempotency_key="undone").judgment_id
    assert adjudication.count_adjudications(store, lea) == waits
    queue.correct(store, flagged, lea, rank_by_text(lease), idempotency_key="decided")
    assert adjudication.count_adjudications(store, lea) == is_decided
    assert adjudication.send_to_adjudication(store, ids[:1], by=LEA).decided == 1
    queue.correct(store, undone, leo, Answer(Verdict.ALL_BAD), idempotency_key="again")
    assert adjudication.count_adjudications(store, lea) == is_decided, "once"
    with store.read() as conn:
        unfilled = sa.select(places.c.role).where(places.c.comparison_id == ids[0], places.c.judgment_id.is_(None))
        assert conn.execute(unfilled).all() == []


def test_who_is_a_lead_no_more_decides_nothing(split):
    store, ids, (lea, leo) = split
    adjudication.send_to_adjudication(store, ids[:2], by=LEA)
    first, held = queue.lease_many(store, lea, 2, seconds=1800, role="lead")
    decided = queue.submit(store, first.id, lea, rank_by_text(first)).judgment_id
    people.change_rater(store, "lea", role=Role.RATER)
    with pytest.raises(BadInput, match="correction"):
        queue.correct(store, decided, lea, rank_by_text(first, reverse=True), idempotency_key="turned")
    with pytest.raises(Conflict, match="only leads decide"):
        queue.renew(store, held.id, lea, seconds=1800)
    assert queue.renew_all(store, lea, seconds=1800) == []
    assert queue.submit(store, held.id, lea, rank_by_text(held)).outcome == "surplus"
    assert adjudication.count_adjudications(store, leo) == adjudication.AdjudicationCounts(1, 0, 1), "until it runs out"
    [other] = queue.lease_many(store, leo, 2, seconds=1800, role="lead", now=utc_now() + timedelta(hours=1))
    assert other.comparison == held.comparison


def test_a_lease_that_ran_out_goes_to_another_lead_and_the_late_decision_does_not_count(split):
    store, ids, (lea, leo) = split
    adjudication.send_to_adjudication(store, ids[:1], by=LEA)
    now = utc_now()
    first, late = take(store, lea, now=now), now + timedelta(hours=1)
    second = take(store, leo, now=late)
    assert second.comparison == first.comparison
    assert queue.submit(store, second.id, leo, rank_by_text(second), now=late).outcome == "counted"
    assert queue.submit(store, first.id, lea, rank_by_text(first), now=late).outcome == "surplus"
    counted = [j for j in read_judgments(store, comparison_ids=ids[:1]) if j.role is Role.LEAD and not j.surplus]
    assert [j.rater_id for j in counted] == [leo]


def test_a_late_decision_counts_while_nobody_else_decides_and_a_lapsed_lease_can_be_renewed(split):
    store, ids, (lea, _) = split
    adjudication.send_to_adjudication(store, ids[:2], by=LEA)
    now = utc_now()
    first, second = queue.lease_many(store, lea, 2, seconds=60, role="lead", now=now)
    late = now + timedelta(hours=1)
    assert queue.submit(store, first.id, lea, rank_by_text(first), now=late).outcome == "counted"
    assert queue.renew(store, second.id, lea, seconds=60, now=late) == late + timedelta(seconds=60)


def test_leads_decide_in_every_project_that_is_not_paused_and_may_correct_themselves(split):
    store, ids, (lea, _) = split
    adjudication.send_to_adjudication(store, ids, by=LEA)
    projects.change_project(store, "default", open=False, paused=True)
    assert take(store, lea) is None
    projects.change_project(store, "default", paused=False)
    lease = take(store, lea)
    receipt = queue.submit(store, lease.id, lea, rank_by_text(lease))
    queue.correct(store, receipt.judgment_id, lea, rank_by_text(lease, reverse=True), idempotency_key="on reflection")
    [decision] = [j for j in read_judgments(store) if j.rater_id == lea]
    assert (decision.role, decision.supersedes) == (Role.LEAD, receipt.judgment_id)


def test_each_comparison_is_decided_once_however_many_leads_decide(store, add_comparisons):
    made = add_comparisons(store, 12)
    leads = [people.add_rater(store, f"lead {i}", Role.LEAD).id for i in range(6)]

    def send(n):
        return adjudication.send_to_adjudication(store, [c.id for c in made], by=LEA).sent

    def decide(lead):
        outcomes = []
        while (lease := take(store, lead)) is not None:
            outcomes.append(queue.submit(store, lease.id, lead, rank_by_text(lease)).outcome)
        return outcomes

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(3))) == 12
        outcomes = [o for done in pool.map(decide, leads) for o in done]
    assert outcomes == ["counted"] * 12
    assert len(list(read_judgments(store))) == 12
    assert all(c.route is Route.ESCALATED for c in find_comparisons(store))
