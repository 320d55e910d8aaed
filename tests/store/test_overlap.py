"""Adaptive overlap: places are opened one by one, never more than the rule allows, whoever answers when."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Literal

import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput
from rlhf_hitl.stats.value_of_vote import decide_on_vote
from rlhf_hitl.store import StoreFailure, assignments, audit, people, projects, queue
from rlhf_hitl.store.adjudication import send_to_adjudication
from rlhf_hitl.store.beliefs import believe
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.findings import FindingAction, NewFinding, add_findings, overrule_findings
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.quality_tables import labels
from rlhf_hitl.store.queue.locks import lock_comparison
from rlhf_hitl.store.queue.overlap import apply_overlap_rule
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, ask_for_votes, read_routings, send_to_raters
from rlhf_hitl.store.tables import comparisons, judgments, places
from rlhf_hitl.store.witness import PairProbabilities, insert_out_of_fold
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    Comparison,
    Completion,
    Escalation,
    Lease,
    Message,
    OverlapRule,
    Prompt,
    Role,
    Route,
    Split,
    Verdict,
    utc_now,
)

#: At this price two votes for one side are enough, and one is not.
RULE = OverlapRule(least=1, most=5, vote_price=0.006)
SKIP = Answer(Verdict.SKIPPED)


def set_rule(store, rule: OverlapRule | Literal["fixed"] = RULE) -> None:
    projects.change_project(store, DEFAULT_PROJECT, overlap_rule=rule)


def prefer(comparison: Comparison, at: int = 0) -> Answer:
    """Return the answer that prefers the completion at a position."""
    ids = [c.id for c in comparison.completions]
    return Answer(Verdict.RANKED, ((ids[at],), *((i,) for i in ids if i != ids[at])))


def take(store, rater: str, seconds: float = 1800, **kwargs) -> Lease:
    lease = queue.lease(store, rater, seconds=seconds, **kwargs)
    assert lease is not None
    return lease


def answer(store, rater: str, at: int = 0, **kwargs):
    lease = take(store, rater)
    return queue.submit(store, lease.id, rater, prefer(lease.comparison, at), **kwargs)


def count(store) -> tuple[int, int, int]:
    """Return the filled and waiting places of raters, and what the comparisons' overlaps add up to."""
    counted = queue.count_places(store)
    with store.read() as conn:
        overlap = conn.execute(sa.select(sa.func.sum(comparisons.c.overlap))).scalar_one()
    return counted["filled"], counted["leased"] + counted["free"], overlap


def read_states(store) -> set[str]:
    with store.read() as conn:
        return set(conn.execute(sa.select(labels.c.state)).scalars())


def make_comparison(n: int, split: Split, overlap: int = 1) -> Comparison:
    prompt = Prompt.create((Message("user", f"Split question {n}?"),), split=split)
    return Comparison.create(
        prompt, [Completion.create(prompt.id, (Message("assistant", f"{n}.{j}"),), "policy") for j in (0, 1)], overlap
    )


def add_to_split(store, split: Split) -> Comparison:
    made = make_comparison(0, split)
    with store.write() as conn:
        insert_comparisons(store, conn, [made])
    return made


def add_witness(store, comparison: Comparison, p_first: float) -> None:
    record = RewardModelRecord("m_1", "head", "", "backbone", "sha256:0", False, {})
    add_reward_model(store, record)
    first, second = (c.id for c in comparison.completions)
    probabilities = (p_first, 0.0, 1 - p_first)
    insert_out_of_fold(store, "m_1", [PairProbabilities(comparison.id, first, second, probabilities)])


# How many votes are asked


def test_a_comparison_begins_with_the_least_and_stops_where_raters_agree(store, add_comparisons, add_raters):
    set_rule(store)
    add_comparisons(store, 1, overlap=4)
    assert count(store) == (0, 1, 1)
    ann, bob, cat = add_raters(store, 3)
    answer(store, ann)
    assert count(store) == (1, 1, 2)
    assert read_states(store) == {"open"}
    answer(store, bob)
    assert count(store) == (2, 0, 2)
    assert read_states(store) == {"sure"}
    assert queue.lease(store, cat, seconds=1800) is None


def test_it_goes_on_where_raters_differ_and_never_beyond_the_most(store, add_comparisons, add_raters):
    set_rule(store, OverlapRule(1, 5, 0.0005))
    add_comparisons(store, 1)
    for n, rater in enumerate(add_raters(store, 5)):
        assert count(store) == (n, 1, n + 1)
        answer(store, rater, at=n % 2)
    assert count(store) == (5, 0, 5)
    assert read_states(store) == {"split"}


def test_where_raters_split_and_a_vote_is_dear_it_stops_and_stays_soft(store, add_comparisons, add_raters):
    set_rule(store, OverlapRule(2, 9, 0.2))
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    answer(store, ann, at=0)
    answer(store, bob, at=1)
    assert count(store) == (2, 0, 2)
    assert read_states(store) == {"split"}
    with store.read() as conn:
        label = conn.execute(sa.select(labels)).one()
    assert label.p_first == pytest.approx(label.p_second, rel=0.3)


def test_what_splits_raters_goes_on_to_more_of_them_if_the_rule_says_so(store, add_comparisons, add_raters):
    set_rule(store, OverlapRule(2, 4, 0.2, Escalation.RATERS))
    add_comparisons(store, 1)
    for n, rater in enumerate(add_raters(store, 4)):
        answer(store, rater, at=n % 2)
    assert count(store) == (4, 0, 4)


def test_what_splits_raters_goes_to_a_lead_if_the_rule_says_so_and_is_settled_by_the_decision(
    store, add_comparisons, add_raters
):
    set_rule(store, OverlapRule(2, 9, 0.2, Escalation.ADJUDICATION))
    [comparison] = add_comparisons(store, 1)
    ann, bob, cat = add_raters(store, 3)
    answer(store, ann, at=0)
    answer(store, bob, at=1)
    assert count(store) == (2, 0, 2)
    lead = people.add_rater(store, "lead", Role.LEAD).id
    [lease] = queue.lease_many(store, lead, 1, seconds=1800, role="lead")
    assert lease.comparison.id == comparison.id
    queue.submit(store, lease.id, lead, prefer(comparison))
    assert read_states(store) == {"adjudicated"}
    assert count(store) == (2, 0, 2)
    assert queue.lease(store, cat, seconds=1800) is None


@pytest.mark.parametrize("rule", ["least=2,most=9,price=0.2", "least=2,most=2,price=0.0001"])
def test_what_nobody_disagreed_on_goes_to_no_lead_however_much_raters_are_expected_to_differ(
    store, add_comparisons, add_raters, rule
):
    parsed = OverlapRule.parse(f"{rule},escalate=adjudication")
    assert parsed is not None
    set_rule(store, parsed)
    keep_fit(store, random_share=0.5, difference_scale=0.3)  # of raters who hardly ever agree
    [comparison] = add_comparisons(store, 1)
    for rater in add_raters(store, 2):
        answer(store, rater, at=0)
    assert count(store) == (2, 0, 2)
    with store.read() as conn:
        belief = believe(conn, comparison.id)
    assert belief is not None
    assert belief.unanimous
    assert read_states(store) == {"agreed"}, "the label is in doubt: nobody is sure of it"
    lead = people.add_rater(store, "lead", Role.LEAD).id
    assert queue.lease_many(store, lead, 1, seconds=1800, role="lead") == []


def test_a_skip_fills_a_place_and_says_nothing_so_another_is_asked(store, add_comparisons, add_raters):
    set_rule(store)
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    queue.submit(store, lease.id, rater, SKIP)
    assert count(store) == (1, 1, 2)


def test_a_ranking_of_four_is_decided_as_one(store, add_comparisons, add_raters):
    set_rule(store)
    add_comparisons(store, 1, k=4)
    for rater in add_raters(store, 2):
        answer(store, rater)
    with store.read() as conn:
        assert len(conn.execute(sa.select(labels)).all()) == 6
    filled, waiting, overlap = count(store)
    assert (filled, overlap) == (2, 2 + waiting)


def test_a_project_without_a_rule_keeps_its_overlap_and_has_no_labels_made(store, add_comparisons, add_raters):
    add_comparisons(store, 2, overlap=2)
    for rater in add_raters(store, 2):
        answer(store, rater, at=0)
    assert count(store) == (2, 2, 4)
    assert read_states(store) == set()


# What comes late, twice or from elsewhere


def test_an_answer_sent_twice_opens_one_place(store, add_comparisons, add_raters):
    set_rule(store)
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    for outcome in ("counted", "repeated"):
        assert queue.submit(store, lease.id, rater, prefer(lease.comparison)).outcome == outcome
        assert count(store) == (1, 1, 2)


def test_a_late_answer_whose_place_went_to_another_is_surplus_and_opens_nothing(store, add_comparisons, add_raters):
    set_rule(store)
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    now = utc_now()
    late = take(store, ann, seconds=60, now=now)
    held = take(store, bob, now=now + timedelta(seconds=61))
    receipt = queue.submit(store, late.id, ann, prefer(late.comparison), now=now + timedelta(seconds=62))
    assert receipt.outcome == "surplus"
    assert count(store) == (0, 1, 1)
    queue.submit(store, held.id, bob, prefer(held.comparison), now=now + timedelta(seconds=63))
    assert count(store) == (1, 1, 2)  # by one vote, not two


def test_a_late_answer_after_the_comparison_was_accepted_opens_nothing(store, add_comparisons, add_raters):
    set_rule(store)
    [comparison] = add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    apply_routings(store, [Routing(comparison.id, Route.AUTO, Route.AUTO, "test")])
    assert queue.submit(store, lease.id, rater, prefer(comparison)).outcome == "counted"
    assert count(store) == (1, 0, 1)


def test_a_lead_may_still_send_a_decided_comparison_to_one_more_rater(store, add_comparisons, add_raters):
    set_rule(store)
    [comparison] = add_comparisons(store, 1)
    ann, bob, cat = add_raters(store, 3)
    answer(store, ann)
    answer(store, bob)
    apply_routings(store, [Routing(comparison.id, Route.AUTO, Route.AUTO, "test")])
    lead = people.add_rater(store, "lead", Role.LEAD)
    assert send_to_raters(store, comparison.id, by=audit.Actor(lead.id, lead.name))
    assert count(store) == (2, 1, 3)
    answer(store, cat)
    assert count(store) == (3, 0, 3)


def test_a_correction_that_makes_raters_differ_opens_a_place(store, add_comparisons, add_raters):
    set_rule(store)
    [comparison] = add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    receipt = answer(store, ann)
    answer(store, bob)
    assert count(store) == (2, 0, 2)
    queue.correct(store, receipt.judgment_id, ann, prefer(comparison, 1), idempotency_key="again")
    assert count(store) == (2, 1, 3)


def test_a_correction_that_makes_raters_agree_closes_the_place_unless_somebody_holds_it(
    store, add_comparisons, add_raters
):
    set_rule(store)
    [comparison] = add_comparisons(store, 1)
    ann, bob, cat = add_raters(store, 3)
    receipt = answer(store, ann, at=1)
    answer(store, bob)
    assert count(store) == (2, 1, 3)
    second = queue.correct(store, receipt.judgment_id, ann, prefer(comparison, 0), idempotency_key="1")
    assert count(store) == (2, 0, 2)
    third = queue.correct(store, second.judgment_id, ann, prefer(comparison, 1), idempotency_key="2")
    held = take(store, cat)
    queue.correct(store, third.judgment_id, ann, prefer(comparison, 0), idempotency_key="3")
    assert count(store) == (2, 1, 3)
    assert queue.submit(store, held.id, cat, prefer(comparison)).outcome == "counted"
    assert count(store) == (3, 0, 3)


def test_places_of_judges_are_not_counted_but_their_votes_inform(store, add_raters):
    set_rule(store)
    comparison = add_to_split(store, Split.TRAIN)
    ann, judge = add_raters(store, 2)
    with store.write() as conn:
        lane = conn.execute(sa.select(comparisons.c.lane_id)).scalar_one()
        common = {"comparison_id": comparison.id, "lane_id": lane, "position": 0}
        conn.execute(places.insert().values(common | {"n": 1_000_000, "role": "judge", "judgment_id": "j_judge"}))
        conn.execute(judgments.insert().values(make_judge_row(comparison, judge)))
    answer(store, ann)
    with store.read() as conn:
        waiting = sa.select(places.c.n).where(places.c.judgment_id.is_(None))
        assert conn.execute(waiting).all() == []  # the judge agrees, and one rater is enough
        assert conn.execute(sa.select(comparisons.c.overlap)).scalar_one() == 1


def test_reserved_places_count_towards_the_most_and_are_never_closed(store, add_comparisons, add_raters):
    set_rule(store, OverlapRule(1, 3, 0.0001))
    [comparison] = add_comparisons(store, 1)
    raters = add_raters(store, 6)
    for n in range(3):
        assert assignments.assign(store, f"rater {n}", [comparison.id]).assigned == 1
    assert count(store) == (0, 3, 3)
    for n, rater in enumerate(raters[:3]):
        answer(store, rater, at=n % 2)  # they differ, and a vote is cheap
        assert count(store) == (n + 1, 2 - n, 3)
    assert all(queue.lease(store, rater, seconds=1800) is None for rater in raters[3:])
    assert {judgment.surplus for judgment in read_judgments(store)} == {False}


def test_a_reserved_place_is_the_vote_that_was_wanted_and_stays_where_none_is(store, add_comparisons, add_raters):
    set_rule(store)
    [comparison] = add_comparisons(store, 1)
    ann, bob, cat = add_raters(store, 3)
    answer(store, ann, at=1)
    assignments.assign(store, "rater 2", [comparison.id])  # takes the place that was opened
    assert apply_overlap_rule(store, DEFAULT_PROJECT) == 1
    assert count(store) == (1, 1, 2)
    assert queue.lease(store, bob, seconds=1800) is None
    projects.change_project(store, DEFAULT_PROJECT, overlap_rule=OverlapRule(1, 1, 0.9))
    apply_overlap_rule(store, DEFAULT_PROJECT)
    assert count(store) == (1, 1, 2)
    answer(store, cat)
    assert assignments.list_assignments(store)[0].state == "judged"
    # A lead's route asks for no second place beside one that is reserved.
    assert ask_for_votes(store, [comparison.id], by=audit.Actor("lea")).sent == 1
    assert count(store) == (2, 1, 3)
    assignments.assign(store, "rater 1", [comparison.id])
    apply_routings(store, [Routing(comparison.id, Route.ESCALATED, Route.ESCALATED, "test")])
    assert count(store) == (2, 1, 3)


def make_judge_row(comparison: Comparison, judge: str) -> dict:
    from rlhf_hitl.store.judgments import judgment_to_row

    return judgment_to_row(
        prefer(comparison),
        id="j_judge",
        comparison_id=comparison.id,
        rater_id=judge,
        order_shown=[c.id for c in comparison.completions],
        route="human",
        simulated=False,
        idempotency_key="judge",
        created_at=utc_now(),
        role="judge",
    )


# The witness


def test_a_witness_that_agrees_saves_a_vote(store, add_raters):
    set_rule(store)
    comparison = add_to_split(store, Split.TRAIN)
    add_witness(store, comparison, 0.99)
    set_witness_reliability(store)
    answer(store, add_raters(store, 1)[0])
    assert count(store) == (1, 0, 1)


@pytest.mark.parametrize("split", [Split.CALIBRATION, Split.HELDOUT])
def test_where_votes_measure_the_model_it_has_no_say_in_how_many_there_are(store, add_raters, split):
    set_rule(store)
    comparison = add_to_split(store, split)
    add_witness(store, comparison, 0.99)
    set_witness_reliability(store)
    judge = people.add_rater(store, "judge", Role.RATER).id
    with store.write() as conn:
        conn.execute(judgments.insert().values(make_judge_row(comparison, judge)))
    answer(store, add_raters(store, 1)[0])
    assert count(store) == (1, 1, 2)


@pytest.mark.parametrize("route", [Route.CONTROL, Route.AUDIT])
def test_nor_in_controls_and_audits(store, add_raters, route):
    set_rule(store)
    comparison = add_to_split(store, Split.TRAIN)
    add_witness(store, comparison, 0.99)
    set_witness_reliability(store)
    apply_routings(store, [Routing(comparison.id, route, Route.AUTO, "test", "m_1")])
    answer(store, add_raters(store, 1)[0])
    assert count(store) == (1, 1, 2)


def set_witness_reliability(store) -> None:
    """Keep a fit by which a witness counts as much as a rater."""
    keep_fit(store, witness=(3.0, 0.0, 0.0))


def keep_fit(store, **population) -> None:
    """Keep a fit of the rater model with such a population, which has measured no rater."""
    from dataclasses import asdict

    from rlhf_hitl.stats.rater_population import RaterPopulation
    from rlhf_hitl.store.quality_tables import label_fits

    model = "m_1" if "witness" in population else None
    row = {"id": "f_1", "label_model": "raters", "reward_model_id": model, "revision": 0, "figures": {}}
    row |= {"parameters": asdict(RaterPopulation(**population)), "simulated": False, "created_at": utc_now()}
    with store.write() as conn:
        conn.execute(label_fits.insert().values(row))


# Concurrency and crashes


@pytest.mark.parametrize("least", [1, 2])
def test_with_64_raters_at_once_each_decision_opens_what_it_wants_and_no_more(
    store, add_comparisons, add_raters, least
):
    rule = OverlapRule(least, 5, 0.006)
    set_rule(store, rule)
    added = add_comparisons(store, 12, overlap=5)
    raters, start = add_raters(store, 64), threading.Barrier(64)

    def work(rater: str) -> None:
        chance = random.Random(rater)
        while (lease := queue.lease(store, rater, seconds=1800)) is not None:
            reply = prefer(lease.comparison, int(chance.random() < 0.3))
            assert queue.submit(store, lease.id, rater, reply).outcome == "counted"

    def work_with_others(rater: str) -> None:
        start.wait()
        work(rater)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(work_with_others, raters))
    for rater in raters:  # the places that were opened after all others had left
        work(rater)
    by_comparison = defaultdict(list)
    for judgment in read_judgments(store):
        assert not judgment.surplus
        by_comparison[judgment.comparison_id].append(judgment)
    assert len(by_comparison) == len(added)
    with store.read() as conn:
        overlaps = dict(conn.execute(sa.select(comparisons.c.id, comparisons.c.overlap)).tuples().all())
        filled = dict(
            conn.execute(sa.select(places.c.comparison_id, sa.func.count()).group_by(places.c.comparison_id))
            .tuples()
            .all()
        )
    given = {id: len(own) for id, own in by_comparison.items()}
    assert overlaps == filled == given
    assert all(least <= n <= rule.most for n in given.values())
    # Each comparison stopped where the rule stops whoever looks at its votes one by one.
    with store.read() as conn:
        for id, n in given.items():
            belief = believe(conn, id)
            assert belief is not None
            bounds = {"least": least, "most": rule.most, "price": rule.vote_price}
            assert decide_on_vote([pair.next_vote for pair in belief.pairs], n, **bounds).action != "ask"


def test_an_answer_that_cannot_be_stored_opens_nothing(sqlite_store, add_comparisons, add_raters):
    store = sqlite_store
    set_rule(store)
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    with store.write() as conn:  # the last write of a submit fails
        conn.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON judgments BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    with pytest.raises(StoreFailure):
        queue.submit(store, lease.id, rater, prefer(lease.comparison))
    assert count(store) == (0, 1, 1)
    assert read_states(store) == set()
    with store.write() as conn:
        conn.exec_driver_sql("DROP TRIGGER full")
    assert queue.submit(store, lease.id, rater, prefer(lease.comparison)).outcome == "counted"
    assert count(store) == (1, 1, 2)


# Changing the rule


def test_a_new_rule_closes_what_nobody_holds_and_opens_what_is_missing(store, add_comparisons, add_raters):
    add_comparisons(store, 3, overlap=3)
    ann, bob = add_raters(store, 2)
    answer(store, ann)
    held = take(store, bob)
    assert count(store) == (1, 8, 9)
    set_rule(store)
    assert apply_overlap_rule(store, DEFAULT_PROJECT) == 3
    filled, waiting, overlap = count(store)
    assert (filled, overlap) == (1, 1 + waiting)
    # One wait each, and what is held stays.
    assert waiting == 3
    assert queue.submit(store, held.id, bob, prefer(held.comparison)).outcome == "counted"


def test_a_rule_for_a_finished_comparison_asks_on_where_its_raters_differ(store, add_comparisons, add_raters):
    add_comparisons(store, 1, overlap=2)
    ann, bob = add_raters(store, 2)
    answer(store, ann, at=0)
    answer(store, bob, at=1)
    set_rule(store)
    apply_overlap_rule(store, DEFAULT_PROJECT)
    assert count(store) == (2, 1, 3)


def find_against(*raters: str) -> list[NewFinding]:
    facts = {"statistic": 9.0, "p_value": 0.0001, "false_alarm_rate": 0.001, "evidence": {}, "reason": "test"}
    return [NewFinding(rater, None, "gold", action=FindingAction.PAUSED, **facts) for rater in raters]


def test_what_was_settled_by_raters_who_are_found_unreliable_is_asked_of_others_until_it_is_overruled(
    store, add_comparisons, add_raters
):
    set_rule(store)
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    answer(store, ann)
    answer(store, bob)
    assert count(store) == (2, 0, 2)
    add_findings(store, find_against(ann, bob))
    assert count(store) == (2, 1, 3)
    for n in range(2):
        overrule_findings(store, f"rater {n}", "They are right.")
    assert count(store) == (2, 0, 2)
    assert read_states(store) == {"sure"}


def wait_for_lead(store) -> int:
    with store.read() as conn:
        waiting = sa.select(sa.func.count()).where(places.c.role == "lead", places.c.judgment_id.is_(None))
        return conn.execute(waiting).scalar_one()


def split_raters(store, add_comparisons, add_raters) -> tuple[Comparison, list[str]]:
    """A comparison on which two raters disagree, and which the rule has sent to a lead for that."""
    set_rule(store, OverlapRule(2, 9, 0.2, Escalation.ADJUDICATION))
    [comparison] = add_comparisons(store, 1)
    both = add_raters(store, 2)
    for at, rater in enumerate(both):
        answer(store, rater, at=at)
    assert (wait_for_lead(store), read_states(store)) == (1, {"split"})
    return comparison, both


def read_actions(store) -> list[str]:
    return [entry.action.rpartition(".")[2] for entry in audit.list_entries(store) if "adjudication" in entry.action]


def test_the_rule_takes_back_from_leads_what_split_raters_once_one_of_them_counts_for_little(
    store, add_comparisons, add_raters
):
    comparison, (_, bob) = split_raters(store, add_comparisons, add_raters)
    add_findings(store, find_against(bob))
    assert (wait_for_lead(store), read_states(store), count(store)) == (0, {"sure"}, (2, 0, 2))
    assert [c.route for c in find_comparisons(store)] == [Route.HUMAN]
    [entry] = audit.list_entries(store, actions=["comparison.withdrawn_from_adjudication"])
    assert (entry.actor, entry.subject) == ("overlap rule", comparison.id)
    assert entry.details == {"reason": "raters are no longer split"}
    apply_overlap_rule(store, DEFAULT_PROJECT)
    assert read_actions(store) == ["sent_to_adjudication", "withdrawn_from_adjudication"], "once"
    overrule_findings(store, "rater 1", "They are right.")
    assert (wait_for_lead(store), read_states(store)) == (1, {"split"}), "they are split again"


def test_a_control_that_is_taken_back_from_leads_is_the_control_that_it_was(store, add_raters):
    set_rule(store, OverlapRule(2, 9, 0.2, Escalation.ADJUDICATION))
    comparison = add_to_split(store, Split.TRAIN)
    apply_routings(store, [Routing(comparison.id, Route.CONTROL, Route.AUTO, "drawn", round=3)])
    ann, bob = add_raters(store, 2)
    answer(store, ann, at=0)
    answer(store, bob, at=1)
    add_findings(store, find_against(bob))
    decisions = read_routings(store, newest=False)
    assert [d.route for d in decisions] == [Route.CONTROL, Route.ESCALATED, Route.CONTROL]
    assert (decisions[2].proposed, decisions[2].round) == (Route.AUTO, 3), "what it measures is unchanged"
    assert [c.route for c in find_comparisons(store)] == [Route.CONTROL]


def test_what_a_lead_holds_or_has_sent_too_is_not_taken_back(store, add_comparisons, add_raters):
    comparison, (_, bob) = split_raters(store, add_comparisons, add_raters)
    lead = people.add_rater(store, "lead", Role.LEAD).id
    [held] = queue.lease_many(store, lead, 1, seconds=1800, role="lead")
    add_findings(store, find_against(bob))
    assert wait_for_lead(store) == 1
    overrule_findings(store, "rater 1", "They are right.")
    queue.release(store, held.id, lead)
    assert send_to_adjudication(store, [comparison.id], by=audit.Actor(lead)).waiting == 1
    add_findings(store, find_against(bob))
    assert wait_for_lead(store) == 1
    assert read_actions(store) == ["sent_to_adjudication"]


def test_a_fit_by_which_a_witness_is_reliable_closes_places_where_it_agrees_with_the_first_rater(store, add_raters):
    from rlhf_hitl.labels.kept_fits import fit_and_keep_labels

    set_rule(store)
    made = {comparison.id: comparison for comparison in (make_comparison(n, Split.TRAIN) for n in range(40))}
    with store.write() as conn:
        insert_comparisons(store, conn, list(made.values()))
    [ann] = add_raters(store, 1)
    for n in range(40):
        answer(store, ann, at=n % 2)
    assert count(store) == (40, 40, 80)
    record = RewardModelRecord("m_1", "head", "", "backbone", "sha256:0", False, {})
    add_reward_model(store, record)
    words = []
    for judgment in read_judgments(store):
        first, second = sorted(c.id for c in made[judgment.comparison_id].completions)
        p = 0.97 if judgment.answer.ranking[0] == (first,) else 0.03
        words.append(PairProbabilities(judgment.comparison_id, first, second, (p, 0.0, 1 - p)))
    insert_out_of_fold(store, "m_1", words)
    fit_and_keep_labels(store, "raters")
    assert count(store) == (40, 0, 40)
    assert read_states(store) == {"sure"}


def test_what_measures_raters_is_not_locked_by_whoever_asks_for_votes(postgres_url, add_comparisons):
    """Leasing a gold locks it after a place; whoever asks for votes locks comparisons before places."""
    from rlhf_hitl.store import Store

    with Store.open(postgres_url) as store, ThreadPoolExecutor(1) as pool:
        set_rule(store)
        gold, work = add_comparisons(store, 2)
        with store.write() as conn:
            conn.execute(comparisons.update().where(comparisons.c.id == gold.id).values(is_gold=True))
        with store.write() as conn:
            lock_comparison(conn, gold.id)
            lea = audit.Actor("lea")
            looked_at = pool.submit(apply_overlap_rule, store, DEFAULT_PROJECT).result(timeout=60)
            asked = pool.submit(ask_for_votes, store, [gold.id, work.id], by=lea).result(timeout=60)
            sent = pool.submit(send_to_adjudication, store, [gold.id, work.id], by=lea).result(timeout=60)
    assert (looked_at, asked.sent, asked.refused, sent.sent, sent.refused) == (1, 1, 1, 1, 1)


def test_fixed_overlap_again_leaves_places_as_they_are(store, add_comparisons, add_raters):
    set_rule(store)
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    answer(store, ann)
    set_rule(store, "fixed")
    answer(store, bob, at=1)
    assert count(store) == (2, 0, 2)
    assert apply_overlap_rule(store, DEFAULT_PROJECT) == 0


def test_a_route_back_to_raters_opens_as_many_places_as_are_missing(store, add_comparisons, add_raters):
    set_rule(store)
    [comparison] = add_comparisons(store, 1)
    answer(store, add_raters(store, 1)[0])
    for route in (Route.AUTO, Route.HUMAN, Route.HUMAN):
        apply_routings(store, [Routing(comparison.id, route, route, "test")])
    assert count(store) == (1, 1, 2)
    assert next(find_comparisons(store)).overlap == 2


# The rule itself


def test_a_rule_is_read_as_it_is_written():
    for text in ("least=1,most=5,price=0.01", "least=2,most=9,price=0.003,escalate=adjudication"):
        rule = OverlapRule.parse(text)
        assert rule is not None
        assert str(rule) == text
        assert OverlapRule.from_plain(rule.to_plain()) == rule
    assert OverlapRule.parse("fixed") is None
    assert OverlapRule.parse("least=7") == OverlapRule(7, 7)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("adaptive", "least, most, price, escalate"),
        ("least=0", "expected 1 to 1000"),
        ("least=3,most=2", "expected 3 to 1000"),
        ("price=nan", "0 to 1"),
        ("price=-1", "0 to 1"),
        ("price=cheap", "a number"),
        ("most=2.5", "a number"),
        ("escalate=nobody", "adjudication, raters, none"),
        ("", "with values"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_what_would(text, complaint):
    with pytest.raises(BadInput, match=complaint):
        OverlapRule.parse(text)
