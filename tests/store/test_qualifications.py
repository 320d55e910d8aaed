"""Qualification on either database: golds first, then work; retries, expiry, and what a lead decides."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from handmade_golds import gold_example, rank_by_text
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import audit, golds, people, projects, qualifications, queue, views
from rlhf_hitl.store.tables import places
from rlhf_hitl.types import Answer, GoldPurpose, QualificationRule, QualificationState, Role, Verdict, utc_now

SKIP = Answer(Verdict.SKIPPED)
START = datetime(2030, 1, 1, tzinfo=UTC)
RULE = QualificationRule(4, 0.75, retries=1, expires_days=10)


@pytest.fixture
def asking(store, add_comparisons, add_raters):
    """A store whose project asks for four golds of six, three of them right, with one retry; and two raters."""
    add_comparisons(store, 6, overlap=4)
    made = [gold_example(f"gold {i}") for i in range(6)]
    golds.add_golds(store, "default", made, purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(store, "default", qualification=RULE)
    return store, add_raters(store, 2)


def is_gold(lease) -> bool:
    return lease.comparison.prompt.messages[0].text.startswith("gold")


def answer(store, rater, *, right: bool = True, now=START):
    lease = queue.lease(store, rater, seconds=1800, now=now)
    assert is_gold(lease)
    return lease, queue.submit(store, lease.id, rater, rank_by_text(lease, reverse=not right), now=now)


def standing(store, rater, now=START):
    [found] = qualifications.list_standings(store, rater, now)
    return found.state, found.answered, found.attempts_left


def attempt(store, rater, rights, now=START):
    for right in rights:
        _, receipt = answer(store, rater, right=right, now=now)
    return receipt.qualification.state


def test_a_rater_gets_golds_until_they_have_passed_and_then_works(asking):
    store, (ann, bob) = asking
    assert standing(store, ann) == (QualificationState.ASKED, 0, 2)
    seen = set()
    for i, right in enumerate((True, False, True, True), 1):
        lease, receipt = answer(store, ann, right=right)
        seen.add(lease.comparison.id)
        assert receipt.qualification.answered == i
    assert len(seen) == 4
    assert receipt.qualification.state is QualificationState.QUALIFIED
    assert standing(store, ann)[0] is QualificationState.QUALIFIED
    work = queue.lease_many(store, ann, 9, seconds=1800, now=START)
    assert len(work) == 6
    assert not any(map(is_gold, work))
    assert is_gold(queue.lease(store, bob, seconds=1800, now=START))


def test_who_fails_may_try_again_on_golds_they_have_not_seen_and_then_on_others_again(asking):
    store, (ann, _) = asking
    first = {answer(store, ann, right=False)[0].comparison.id for _ in range(4)}
    assert standing(store, ann) == (QualificationState.ASKED, 0, 1)
    second = [answer(store, ann)[0].comparison for _ in range(4)]
    assert len({c.id for c in second}) == 4
    assert [c.repeat_of is None for c in second[:2]] == [True, True], "two of six were not seen"
    assert {c.id for c in second[:2]}.isdisjoint(first)
    assert {c.repeat_of for c in second[2:]} <= first, "asked again, as comparisons of their own"
    assert standing(store, ann)[0] is QualificationState.QUALIFIED
    results = list(golds.read_gold_results(store, rater_id=ann))
    assert [r.agreed for r in results] == [False] * 4 + [True] * 4
    assert [r.repeated for r in results] == [False] * 6 + [True] * 2


def test_who_has_no_attempt_left_gets_nothing_and_a_lead_may_grant_it(asking):
    store, (ann, _) = asking
    assert attempt(store, ann, [False] * 4) is QualificationState.ASKED
    assert attempt(store, ann, [True, True, False, False]) is QualificationState.FAILED
    assert queue.lease(store, ann, seconds=1800, now=START) is None
    assert standing(store, ann) == (QualificationState.FAILED, 4, 0)
    granted = qualifications.grant_qualification(store, "rater 0", "default", by=audit.Actor("lea"), now=START)
    assert (granted.state, granted.expires_at) == (QualificationState.QUALIFIED, START + timedelta(days=10))
    assert not is_gold(queue.lease(store, ann, seconds=1800, now=START))
    [entry] = audit.list_entries(store, actions=["qualification.granted"])
    assert (entry.actor, entry.subject, entry.details) == ("lea", "rater 0", {"project": "default"})


def test_a_pass_expires_and_the_rater_is_asked_again(asking):
    store, (ann, _) = asking
    attempt(store, ann, [True] * 4)
    later = START + timedelta(days=10)
    assert not is_gold(queue.lease(store, ann, seconds=60, now=later - timedelta(hours=1)))
    assert standing(store, ann, later) == (QualificationState.ASKED, 0, 2)
    assert attempt(store, ann, [True] * 4, now=later) is QualificationState.QUALIFIED


def test_a_lead_withdraws_a_qualification_and_all_begins_anew(asking):
    store, (ann, _) = asking
    with pytest.raises(NotFound, match="nothing is to be done"):
        qualifications.withdraw_qualification(store, "rater 0", "default", now=START)
    attempt(store, ann, [True] * 4)
    now = START + timedelta(hours=1)
    assert qualifications.withdraw_qualification(store, "rater 0", "default", now=now).state is QualificationState.ASKED
    assert standing(store, ann, now) == (QualificationState.ASKED, 0, 2)
    assert is_gold(queue.lease(store, ann, seconds=1800, now=now))


def test_a_grant_in_the_middle_takes_back_the_golds_that_were_asked(asking):
    store, (ann, _) = asking
    answer(store, ann)
    held = queue.lease(store, ann, seconds=60, now=START)
    late = START + timedelta(minutes=5)  # the lease has run out
    qualifications.grant_qualification(store, "rater 0", "default", now=late)
    assert not any(is_gold(x) for x in queue.lease_many(store, ann, 9, seconds=1800, now=late))
    receipt = queue.submit(store, held.id, ann, rank_by_text(held), now=late)
    assert (receipt.outcome, receipt.qualification) == ("surplus", None)


def test_no_more_golds_are_held_than_are_still_asked(asking):
    store, (ann, _) = asking
    held = queue.lease_many(store, ann, 9, seconds=1800, now=START)
    assert len(held) == len({lease.comparison.id for lease in held}) == 4
    for lease in held[:3]:
        queue.submit(store, lease.id, ann, rank_by_text(lease), now=START)
    assert queue.lease_many(store, ann, 9, seconds=1800, now=START) == held[3:]
    receipt = queue.submit(store, held[3].id, ann, rank_by_text(held[3], reverse=True), now=START)
    assert receipt.qualification.state is QualificationState.QUALIFIED
    with store.read() as conn:
        unfilled = sa.select(places).where(places.c.reserved_for == ann, places.c.judgment_id.is_(None))
        assert conn.execute(unfilled).all() == []


def test_a_gold_whose_lease_ran_out_is_asked_again_in_the_attempt_and_a_late_answer_counts(asking):
    store, (ann, _) = asking
    first = queue.lease(store, ann, seconds=60, now=START)
    late = START + timedelta(minutes=5)
    again = queue.lease(store, ann, seconds=60, now=late)
    assert again.comparison == first.comparison
    much_later = late + timedelta(minutes=5)
    assert queue.submit(store, again.id, ann, rank_by_text(again), now=much_later).outcome == "counted"
    assert standing(store, ann, much_later) == (QualificationState.ASKED, 1, 1)
    with pytest.raises(Conflict):
        queue.submit(store, first.id, ann, rank_by_text(first), now=much_later)


@pytest.mark.parametrize("asked_for", [4, 6])
def test_an_answer_that_came_too_late_to_count_ends_no_attempt(asking, asked_for):
    store, (ann, _) = asking
    projects.change_project(store, "default", qualification=QualificationRule(asked_for, 0.5))
    now, seen = START, set()
    for _ in range(2):  # the second time may be a gold that is asked again
        late = queue.lease(store, ann, seconds=60, now=now)
        now += timedelta(hours=1)
        people.change_rater(store, "rater 0", paused=True)
        assert queue.submit(store, late.id, ann, rank_by_text(late), now=now).outcome == "surplus"
        people.change_rater(store, "rater 0", paused=False)
        seen.add(late.comparison.id)
    for _ in range(asked_for):
        lease, receipt = answer(store, ann, now=now)
        assert (receipt.outcome, lease.comparison.id in seen) == ("counted", False)
    assert receipt.qualification.state is QualificationState.QUALIFIED
    assert not is_gold(queue.lease(store, ann, seconds=60, now=now))


def test_the_same_gold_is_asked_again_as_often_as_its_answers_come_too_late(store, add_raters):
    golds.add_golds(store, "default", [gold_example("gold")], purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(store, "default", qualification=QualificationRule(1))
    [ann] = add_raters(store, 1)
    now, asked = START, set()
    for _ in range(3):
        late = queue.lease(store, ann, seconds=60, now=now)
        now += timedelta(hours=1)
        people.change_rater(store, "rater 0", paused=True)
        assert queue.submit(store, late.id, ann, rank_by_text(late), now=now).outcome == "surplus"
        people.change_rater(store, "rater 0", paused=False)
        asked.add(late.comparison.id)
    assert len(asked) == 3
    assert answer(store, ann, now=now)[1].qualification.state is QualificationState.QUALIFIED


def test_a_skip_is_no_way_round(asking):
    store, (ann, _) = asking
    for _ in range(4):
        lease = queue.lease(store, ann, seconds=1800, now=START)
        queue.submit(store, lease.id, ann, SKIP, now=START)
    assert standing(store, ann) == (QualificationState.ASKED, 0, 1)


def test_work_that_is_held_when_a_qualification_is_set_may_be_finished_and_counts_while_it_is_held(
    store, add_comparisons, add_raters
):
    add_comparisons(store, 2, overlap=2)
    [ann] = add_raters(store, 1)
    held = queue.lease_many(store, ann, 2, seconds=600, now=START)
    golds.add_golds(store, "default", [gold_example("gold")], purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(store, "default", qualification=QualificationRule(1, retries=0))
    assert queue.submit(store, held[0].id, ann, rank_by_text(held[0]), now=START).outcome == "counted"
    late = START + timedelta(hours=1)
    with pytest.raises(Conflict, match="over"):
        queue.renew(store, held[1].id, ann, seconds=600, now=late)
    assert queue.submit(store, held[1].id, ann, rank_by_text(held[1]), now=late).outcome == "surplus"


def test_leads_and_simulated_raters_need_none_and_other_projects_go_on(asking, add_comparisons):
    store, (ann, _) = asking
    lea, sim = people.add_rater(store, "lea", Role.LEAD), people.add_rater(store, "sim", Role.RATER, simulated=True)
    for person in (lea, sim):
        assert not is_gold(queue.lease(store, person.id, seconds=1800, now=START))
        assert qualifications.list_standings(store, person.id) == []
    with pytest.raises(BadInput, match="need no qualification"):
        qualifications.grant_qualification(store, "lea", "default")
    projects.add_project(store, "second")
    with pytest.raises(BadInput, match="asks for a qualification"):
        qualifications.grant_qualification(store, "rater 0", "second")
    attempt(store, ann, [False] * 4)
    attempt(store, ann, [False] * 4)
    from rlhf_hitl.store.comparisons import insert_comparisons
    from rlhf_hitl.types import Comparison, Completion, Message, Prompt

    prompt = Prompt.create((Message("user", "Elsewhere?"),))
    sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("yes", "no")]
    with store.write() as conn:
        insert_comparisons(store, conn, [Comparison.create(prompt, sides, project="second")])
    assert queue.lease(store, ann, seconds=1800, now=START).comparison.project == "second"


def test_progress_counts_the_golds_that_are_asked_and_not_the_work_behind_them(asking):
    store, (ann, _) = asking
    assert views.load_progress(store, ann, utc_now() - timedelta(hours=1)).left == 1, "fewer than ten"
    attempt(store, ann, [False] * 4, now=utc_now())
    attempt(store, ann, [False] * 4, now=utc_now())
    assert views.load_progress(store, ann, utc_now() - timedelta(hours=1)) == views.RaterProgress(8, 0)


def test_a_qualification_has_the_golds_it_asks_for(asking):
    store, _ = asking
    ids = [g.comparison.id for g in golds.list_golds(store)]
    with pytest.raises(BadInput, match=r"6 golds.*at least 7"):
        projects.change_project(store, "default", qualification=QualificationRule(7))
    with pytest.raises(BadInput, match=r"3 golds.*at least 4"):
        golds.end_golds(store, "default", ids[:3])
    with pytest.raises(BadInput, match=r"3 golds.*at least 4"):
        golds.add_golds(store, "default", [gold_example(f"gold {i}") for i in range(3)])
    assert golds.end_golds(store, "default", ids[:2]) == 2
    changed = projects.change_project(store, "default", qualification="off")
    assert changed.qualification is None
    assert golds.end_golds(store, "default", ids) == 4


def test_answers_that_come_at_once_are_counted_one_by_one(asking):
    store, raters = asking
    held = {rater: queue.lease_many(store, rater, 4, seconds=1800, now=START) for rater in raters}
    jobs = [(rater, lease) for rater, leases in held.items() for lease in leases]

    def submit(job):
        rater, lease = job
        return queue.submit(store, lease.id, rater, rank_by_text(lease), now=START).qualification

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(submit, jobs))
    for rater in raters:
        own = sorted(t.answered for (who, _), t in zip(jobs, told) if who == rater)
        assert own == [1, 2, 3, 4]
        assert standing(store, rater)[:2] == (QualificationState.QUALIFIED, 4)


def test_golds_come_in_random_order(sqlite_store, add_raters):
    made = [gold_example(f"gold {i}") for i in range(8)]
    golds.add_golds(sqlite_store, "default", made, purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(sqlite_store, "default", qualification=QualificationRule(8))
    orders = set()
    for rater in add_raters(sqlite_store, 4):
        held = queue.lease_many(sqlite_store, rater, 8, seconds=1800)
        assert len({lease.comparison.id for lease in held}) == 8
        orders.add(tuple(lease.comparison.id for lease in held))
    assert len(orders) > 1


# The rule


@given(
    golds_=st.integers(1, 1000), mark=st.decimals("0.01", "1", places=2), retries=st.integers(0, 9),
    days=st.one_of(st.none(), st.integers(1, 999)),
)  # fmt: skip
def test_a_rule_is_read_as_it_is_written(golds_, mark, retries, days):
    text = f"golds={golds_}, pass-mark={mark} ,retries={retries}" + (f",expires={days}d" if days else "")
    rule = QualificationRule.parse(text)
    assert rule == QualificationRule(golds_, float(mark), retries, days)
    assert QualificationRule.from_plain(vars(rule)) == rule
    assert rule.right_wanted - 1 < float(mark) * golds_ + 1e-9
    assert rule.right_wanted >= float(mark) * golds_ - 1e-6


@given(st.text(max_size=40).filter(lambda text: "golds" not in text))
def test_any_other_text_is_refused_in_words(text):
    with pytest.raises(BadInput, match="qualification"):
        QualificationRule.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "golds", "golds=0", "golds=1.5", "golds=8,golds=9", "golds=8,expires=180", "retries=1d,golds=1",
     "golds=8,pass-mark=1.1", "golds=8,pass-mark=0", "golds=8,retries=-1", "golds=8,expires=0d", "golds=8;retries=1",
     "golds=٣"],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(text):
    with pytest.raises(BadInput, match="qualification"):
        QualificationRule.parse(text)
