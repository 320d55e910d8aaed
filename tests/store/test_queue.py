"""The queue keeps its promises on either database, whoever asks for what, when and how often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store, guidelines, people, queue, tables
from rlhf_hitl.store.comparisons import ROWS_PER_QUERY, find_comparisons
from rlhf_hitl.store.judgments import insert_imported_judgments, read_judgments, read_store_revision
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings
from rlhf_hitl.types import Answer, Guideline, Reason, Role, Route, Verdict, utc_now

SKIP = Answer(Verdict.SKIPPED)
HOUR = timedelta(hours=1)


def prefer_first_shown(lease) -> Answer:
    return Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown), strength=2)


def take(store, rater, seconds=1800, **kwargs):
    lease = queue.lease(store, rater, seconds=seconds, **kwargs)
    assert lease is not None
    return lease


def judge(store, rater, **kwargs):
    lease = take(store, rater)
    return queue.submit(store, lease.id, rater, prefer_first_shown(lease), **kwargs)


def judgments(store, **kwargs):
    return list(read_judgments(store, **kwargs))


def route(store, comparison, to: Route):
    apply_routings(store, [Routing(comparison.id, to, to, "test")])


# Leasing


def test_an_empty_queue_has_nothing_to_lease(store, add_raters):
    assert queue.lease(store, add_raters(store, 1)[0], seconds=1800) is None


def test_a_lease_brings_the_comparison_whole_and_lasts_as_long_as_asked(store, add_comparisons, add_raters):
    [comparison], [rater] = add_comparisons(store, 1, k=3), add_raters(store, 1)
    now = utc_now()
    lease = take(store, rater, seconds=60, now=now)
    assert lease.comparison == comparison
    assert lease.rater_id == rater
    assert lease.expires_at == now + timedelta(seconds=60)
    assert set(lease.order_shown) == {c.id for c in comparison.completions}


def test_a_rater_who_asks_again_gets_the_lease_they_hold(store, add_comparisons, add_raters):
    add_comparisons(store, 3)
    [rater] = add_raters(store, 1)
    assert take(store, rater) == take(store, rater)


def test_a_leased_place_is_given_to_nobody_else(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    take(store, ann)
    assert queue.lease(store, bob, seconds=1800) is None


def test_a_lease_that_ran_out_returns_the_comparison(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    now = utc_now()
    first = take(store, ann, seconds=60, now=now)
    assert queue.lease(store, bob, now=now + timedelta(seconds=59), seconds=1800) is None
    second = take(store, bob, now=now + timedelta(seconds=60))
    assert second.comparison == first.comparison
    assert second.id != first.id


def test_a_released_comparison_goes_back_to_the_queue(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    held = take(store, ann)
    queue.release(store, held.id, ann)
    assert take(store, bob).comparison == held.comparison


def test_a_rater_cannot_release_what_another_holds(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    with pytest.raises(NotFound):
        queue.release(store, take(store, ann).id, bob)
    assert queue.lease(store, bob, seconds=1800) is None


def test_a_release_after_the_submit_changes_nothing(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    lease = take(store, ann)
    queue.submit(store, lease.id, ann, SKIP)
    queue.release(store, lease.id, ann)
    assert queue.lease(store, bob, seconds=1800) is None
    assert queue.count_places(store) == {"filled": 1, "leased": 0, "free": 0}


def test_a_rater_never_gets_a_comparison_they_have_judged(store, add_comparisons, add_raters):
    add_comparisons(store, 2, overlap=3)
    [rater] = add_raters(store, 1)
    judge(store, rater)
    judge(store, rater)
    assert queue.lease(store, rater, seconds=1800) is None


@pytest.mark.parametrize("k", [2, 3, 4])
def test_across_the_places_of_a_comparison_each_completion_stands_once_in_each_position(
    store, add_comparisons, add_raters, k
):
    [comparison] = add_comparisons(store, 1, overlap=k, k=k)
    orders = [take(store, rater).order_shown for rater in add_raters(store, k)]
    for position in zip(*orders):
        assert sorted(position) == [c.id for c in comparison.completions]


def test_with_one_place_each_the_first_completion_stands_first_about_half_the_time(
    sqlite_store, add_comparisons, add_raters
):
    added = add_comparisons(sqlite_store, 100)
    canonical = 0
    for rater in add_raters(sqlite_store, len(added)):
        lease = take(sqlite_store, rater)
        canonical += lease.order_shown[0] == lease.comparison.completions[0].id
    assert 35 <= canonical <= 65


def test_an_unknown_rater_gets_nothing(store, add_comparisons):
    add_comparisons(store, 1)
    with pytest.raises(NotFound, match="r_nobody"):
        queue.lease(store, "r_nobody", seconds=1800)


def test_a_disabled_rater_gets_nothing_but_what_they_send_is_kept(store, add_comparisons, add_raters):
    add_comparisons(store, 2)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    people.change_rater(store, "rater 0", disabled=True)
    assert queue.submit(store, lease.id, rater, SKIP).outcome == "counted"
    with pytest.raises(NotFound, match="may rate"):
        queue.lease(store, rater, seconds=1800)


# Priority


def test_what_is_escalated_comes_first_and_checks_on_the_model_among_what_it_was_unsure_of(
    store, add_comparisons, add_raters
):
    routes = [Route.AUDIT, Route.CONTROL, Route.HUMAN, Route.ESCALATED]
    for i, to in enumerate(routes):
        add_comparisons(store, 1, route=to, first=i)
    [rater] = add_raters(store, 1)
    seen = []
    for _ in routes:
        seen.append(take(store, rater).comparison.route)
        judge(store, rater)
    assert seen[0] is Route.ESCALATED
    assert sorted(seen) == sorted(routes)


def test_the_model_accepts_what_is_routed_auto_so_no_rater_sees_it(store, add_comparisons, add_raters):
    add_comparisons(store, 1, route=Route.AUTO)
    [rater] = add_raters(store, 1)
    assert queue.lease(store, rater, seconds=1800) is None
    assert queue.count_places(store) == {"filled": 0, "leased": 0, "free": 0}


# Submitting


def test_a_judgment_is_kept_whole(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, k=3)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    guidelines.publish_guideline(store, Guideline("default", "g2", "Be fair."))
    a, b, c = lease.order_shown
    answer = Answer(
        Verdict.RANKED,
        ((c,), (a, b)),
        strength=3,
        scores={"helpful": {a: 2, b: 5}},
        rationale="Ünïcode 🙂\nand lines",
        rewrite="better",
        active_seconds=12.5,
    )
    receipt = queue.submit(
        store, lease.id, rater, answer, idempotency_key="k1", guideline_version="g2", interface_version="i3",
        now=utc_now() + timedelta(seconds=20),
    )  # fmt: skip
    [kept] = judgments(store)
    assert receipt.judgment_id == kept.id
    assert receipt.outcome == "counted"
    assert kept.answer == answer
    assert kept.order_shown == lease.order_shown
    assert (kept.comparison_id, kept.rater_id, kept.route) == (comparison.id, rater, Route.HUMAN)
    assert (kept.idempotency_key, kept.guideline_version, kept.interface_version) == ("k1", "g2", "i3")
    assert (kept.surplus, kept.simulated, kept.supersedes, kept.source) == (False, False, None, "")
    assert abs(utc_now() - kept.created_at) < timedelta(minutes=1)


def test_a_skip_and_a_flag_say_why_and_the_reason_is_part_of_the_answer(store, add_comparisons, add_raters):
    add_comparisons(store, 2)
    [rater] = add_raters(store, 1)
    for verdict, reason in ((Verdict.SKIPPED, Reason.SUBJECT), (Verdict.FLAGGED, Reason.PRIVATE)):
        lease = take(store, rater)
        receipt = queue.submit(store, lease.id, rater, Answer(verdict, reason=reason))
        assert queue.submit(store, lease.id, rater, Answer(verdict, reason=reason)).outcome == "repeated"
        with pytest.raises(Conflict, match=receipt.judgment_id):
            queue.submit(store, lease.id, rater, Answer(verdict))
    assert [j.answer.reason for j in judgments(store)] == [Reason.SUBJECT, Reason.PRIVATE]


@pytest.mark.parametrize(
    ("verdict", "ranking", "reason"),
    [
        (Verdict.SKIPPED, (), Reason.UNSAFE),
        (Verdict.FLAGGED, (), Reason.OTHER),
        (Verdict.ALL_BAD, (), Reason.BROKEN),
        (Verdict.RANKED, (("a",), ("b",)), Reason.UNCLEAR),
    ],
)
def test_a_reason_that_does_not_go_with_the_verdict_is_refused(verdict, ranking, reason):
    with pytest.raises(BadInput, match=f"reason {reason.value} with the verdict '{verdict.value}'"):
        Answer(verdict, ranking, reason=reason)


@pytest.mark.parametrize("bad", [3, {"c_not_shown": 3}, 0, 6, 2.5, True, "4", None])
def test_a_score_is_of_a_completion_that_was_shown_and_from_1_to_5(store, add_comparisons, add_raters, bad):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    given = bad if isinstance(bad, dict) or bad == 3 else {lease.order_shown[1]: bad}
    with pytest.raises(BadInput, match="'honest'"):
        queue.submit(store, lease.id, rater, Answer(Verdict.ALL_BAD, scores={"honest": given}))
    scores = {"honest": dict.fromkeys(lease.order_shown, 1), "helpful": {lease.order_shown[0]: 5}}
    receipt = queue.submit(store, lease.id, rater, Answer(Verdict.ALL_BAD, scores=scores))
    with pytest.raises(BadInput, match="'honest'"):
        queue.correct(
            store, receipt.judgment_id, rater, Answer(Verdict.SKIPPED, scores={"honest": given}), idempotency_key="k"
        )
    assert [j.answer.scores for j in judgments(store)] == [scores]


def test_a_judgment_names_the_route_and_the_reward_model_that_put_it_there(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, route=Route.AUTO)
    [rater] = add_raters(store, 1)
    model = RewardModelRecord("m1", "head", "models/m1", "backbone", "hash", simulated=False)
    add_reward_model(store, model)
    apply_routings(store, [Routing(comparison.id, Route.CONTROL, Route.AUTO, "control draw", "m1")])
    judge(store, rater)
    [kept] = judgments(store)
    assert (kept.route, kept.reward_model_id) == (Route.CONTROL, "m1")


def test_sending_an_answer_twice_keeps_it_once(store, add_comparisons, add_raters):
    add_comparisons(store, 2, overlap=2)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    first = queue.submit(store, lease.id, rater, SKIP, idempotency_key="same")
    again = queue.submit(store, lease.id, rater, SKIP, idempotency_key="same")
    assert (again.judgment_id, again.outcome) == (first.judgment_id, "repeated")
    assert len(judgments(store)) == 1


def test_a_key_used_for_another_comparison_is_refused_rather_than_the_answer_lost(store, add_comparisons, add_raters):
    add_comparisons(store, 2)
    [rater] = add_raters(store, 1)
    judge(store, rater, idempotency_key="same")
    with pytest.raises(Conflict, match="another comparison"):
        judge(store, rater, idempotency_key="same")


def test_a_second_answer_to_a_judged_comparison_is_refused(store, add_comparisons, add_raters):
    add_comparisons(store, 1, overlap=2)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    queue.submit(store, lease.id, rater, SKIP, idempotency_key="a")
    with pytest.raises(Conflict, match="correct that judgment"):
        queue.submit(store, lease.id, rater, SKIP, idempotency_key="b")


def test_an_answer_on_another_raters_lease_is_refused(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    lease = take(store, ann)
    with pytest.raises(Conflict, match="another rater's"):
        queue.submit(store, lease.id, bob, SKIP)
    assert queue.submit(store, lease.id, ann, SKIP).outcome == "counted"


def test_an_answer_on_a_lease_the_store_never_gave_is_refused(store, add_raters):
    with pytest.raises(NotFound, match="l_none"):
        queue.submit(store, "l_none", add_raters(store, 1)[0], SKIP)


def test_a_ranking_of_completions_that_were_not_shown_is_refused_and_the_lease_stays(
    store, add_comparisons, add_raters
):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    with pytest.raises(BadInput, match="c_other"):
        queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((lease.order_shown[0],), ("c_other",))))
    assert take(store, rater) == lease
    assert judgments(store) == []


# Late answers


def test_a_late_answer_counts_while_its_place_is_free(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    lease = take(store, rater, seconds=1, now=utc_now() - HOUR)
    assert queue.submit(store, lease.id, rater, SKIP).outcome == "counted"
    assert queue.count_places(store) == {"filled": 1, "leased": 0, "free": 0}


def test_a_late_answer_takes_another_free_place(store, add_comparisons, add_raters):
    add_comparisons(store, 1, overlap=2)
    ann, bob = add_raters(store, 2)
    late = take(store, ann, seconds=1, now=utc_now() - HOUR)
    judge(store, bob)
    assert queue.submit(store, late.id, ann, SKIP).outcome == "counted"
    assert queue.count_places(store) == {"filled": 2, "leased": 0, "free": 0}


def test_a_late_answer_is_kept_as_surplus_when_another_has_the_place(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    late = take(store, ann, seconds=1, now=utc_now() - HOUR)
    held = take(store, bob)
    assert queue.submit(store, late.id, ann, SKIP).outcome == "surplus"
    assert queue.submit(store, held.id, bob, SKIP).outcome == "counted"
    assert [(j.rater_id, j.surplus) for j in judgments(store)] == [(ann, True), (bob, False)]
    assert queue.count_places(store) == {"filled": 1, "leased": 0, "free": 0}


def test_all_that_a_rater_holds_is_renewed_at_once_and_nothing_else(store, add_comparisons, add_raters):
    add_comparisons(store, 5)
    ann, bob = add_raters(store, 2)
    now = utc_now()
    over = take(store, ann, seconds=60, now=now)
    later = now + timedelta(seconds=61)
    first, second = queue.lease_many(store, ann, 2, seconds=120, now=later)
    queue.submit(store, second.id, ann, SKIP, now=later)
    _, third = queue.lease_many(store, ann, 2, seconds=60, now=later)
    other = take(store, bob, seconds=120, now=later)
    assert over.id not in (first.id, third.id), "what ran out is no longer held"
    ids = queue.renew_all(store, ann, seconds=600, now=later)
    assert set(ids) == {first.id, third.id}
    ends = {i: queue.load_lease(store, i, r).expires_at for i, r in ((first.id, ann), (third.id, ann), (other.id, bob))}
    assert ends == {
        first.id: later + timedelta(seconds=600),
        third.id: later + timedelta(seconds=600),
        other.id: later + timedelta(seconds=120),
    }
    held = queue.lease_many(store, ann, 2, now=later + timedelta(seconds=599), seconds=1800)
    assert {lease.id for lease in held} == {first.id, third.id}
    assert queue.renew_all(store, ann, now=later + timedelta(seconds=601), seconds=1800) == []


def test_an_answer_from_an_old_tab_fills_the_place_the_rater_holds_again(store, add_comparisons, add_raters):
    add_comparisons(store, 2)
    [rater] = add_raters(store, 1)
    old = take(store, rater, seconds=1, now=utc_now() - HOUR)
    new = take(store, rater)
    assert new.comparison == old.comparison
    assert new.id != old.id
    assert queue.submit(store, old.id, rater, SKIP).outcome == "counted"
    assert take(store, rater).comparison != old.comparison


# Corrections


def test_a_correction_supersedes_and_the_first_stays(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    first = judge(store, rater)
    second = queue.correct(store, first.judgment_id, rater, Answer(Verdict.ALL_BAD), idempotency_key="fix")
    assert second.outcome == "counted"
    assert [j.id for j in judgments(store)] == [second.judgment_id]
    assert [j.id for j in judgments(store, current=False)] == [first.judgment_id, second.judgment_id]
    [now] = judgments(store)
    assert (now.supersedes, now.answer.verdict) == (first.judgment_id, Verdict.ALL_BAD)
    assert queue.count_places(store) == {"filled": 1, "leased": 0, "free": 0}


def test_a_correction_can_be_corrected_and_only_the_newest_can(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    first = judge(store, rater).judgment_id
    second = queue.correct(store, first, rater, SKIP, idempotency_key="2").judgment_id
    third = queue.correct(store, second, rater, SKIP, idempotency_key="3").judgment_id
    assert [j.id for j in judgments(store)] == [third]
    with pytest.raises(Conflict, match="corrected before"):
        queue.correct(store, first, rater, SKIP, idempotency_key="4")


def test_sending_a_correction_twice_keeps_it_once(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    first = judge(store, rater).judgment_id
    once = queue.correct(store, first, rater, SKIP, idempotency_key="fix")
    twice = queue.correct(store, first, rater, SKIP, idempotency_key="fix")
    assert (twice.judgment_id, twice.outcome) == (once.judgment_id, "repeated")


def test_nobody_corrects_another_raters_judgment(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    first = judge(store, ann).judgment_id
    with pytest.raises(NotFound, match="one of your own"):
        queue.correct(store, first, bob, SKIP, idempotency_key="fix")


# Routing


def test_auto_closes_free_places_and_human_opens_them_again(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, overlap=2)
    route(store, comparison, Route.AUTO)
    assert queue.count_places(store) == {"filled": 0, "leased": 0, "free": 0}
    route(store, comparison, Route.HUMAN)
    assert queue.count_places(store) == {"filled": 0, "leased": 0, "free": 2}
    assert take(store, add_raters(store, 1)[0]).comparison == comparison


def test_auto_leaves_what_is_filled_and_what_is_held(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, overlap=3)
    ann, bob = add_raters(store, 2)
    judge(store, ann)
    held = take(store, bob)
    route(store, comparison, Route.AUTO)
    assert queue.count_places(store) == {"filled": 1, "leased": 1, "free": 0}
    assert queue.submit(store, held.id, bob, SKIP).outcome == "counted"


def test_a_place_held_when_its_comparison_became_auto_is_not_given_on(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    held = take(store, ann)
    route(store, comparison, Route.AUTO)
    queue.release(store, held.id, ann)
    assert queue.lease(store, bob, seconds=1800) is None
    assert queue.count_places(store)["free"] == 0
    route(store, comparison, Route.HUMAN)
    assert take(store, bob).comparison == comparison


def test_an_escalation_wants_one_judgment_more_than_there_is(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    ann, bob, eve = add_raters(store, 3)
    judge(store, ann)
    route(store, comparison, Route.ESCALATED)
    assert [c.overlap for c in find_comparisons(store)] == [2]
    judge(store, bob)
    assert queue.lease(store, eve, seconds=1800) is None


def test_an_escalation_of_what_the_model_accepted_opens_a_place(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, route=Route.AUTO)
    route(store, comparison, Route.ESCALATED)
    lease = take(store, add_raters(store, 1)[0])
    assert (lease.comparison.id, lease.comparison.route) == (comparison.id, Route.ESCALATED)


def test_routing_again_changes_the_order_of_the_queue(store, add_comparisons, add_raters):
    added = add_comparisons(store, 10, route=Route.AUDIT)
    route(store, added[7], Route.ESCALATED)
    assert take(store, add_raters(store, 1)[0]).comparison.id == added[7].id


def test_every_decision_is_kept_and_the_newest_holds(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    for to in (Route.AUTO, Route.HUMAN, Route.AUDIT):
        route(store, comparison, to)
    assert [r.route for r in read_routings(store, newest=False)] == [Route.AUTO, Route.HUMAN, Route.AUDIT]
    assert [r.route for r in read_routings(store)] == [Route.AUDIT]
    assert [c.route for c in find_comparisons(store)] == [Route.AUDIT]


def test_a_decision_on_an_unknown_comparison_is_refused_with_all_that_came_with_it(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    decisions = [Routing(i, Route.AUTO, Route.AUTO, "test") for i in (comparison.id, "x_none")]
    with pytest.raises(NotFound, match="x_none"):
        apply_routings(store, decisions)
    assert [c.route for c in find_comparisons(store)] == [Route.HUMAN]


# Many at once


def work_off(store: Store, rater: str) -> int:
    """Judge until nothing is left. Returns how many answers counted."""
    done = 0
    while (lease := queue.lease(store, rater, seconds=1800)) is not None:
        done += queue.submit(store, lease.id, rater, prefer_first_shown(lease)).outcome == "counted"
    return done


def test_overlap_is_exact_when_eight_raters_work_at_once(store, add_comparisons, add_raters):
    added = add_comparisons(store, 40, overlap=3)
    raters = add_raters(store, 8)
    with ThreadPoolExecutor(len(raters)) as pool:
        counted = sum(pool.map(lambda r: work_off(store, r), raters))
    # On PostgreSQL a rater may find the last places locked for a moment and stop; nobody may be left with work.
    counted += sum(work_off(store, r) for r in raters)
    kept = judgments(store)
    assert counted == len(kept) == 120
    assert not any(j.surplus for j in kept)
    assert Counter(j.comparison_id for j in kept) == {c.id: 3 for c in added}
    assert max(Counter((j.comparison_id, j.rater_id) for j in kept).values()) == 1
    assert queue.count_places(store) == {"filled": 120, "leased": 0, "free": 0}


def at_once(n: int, action) -> list:
    """What `action(i)` returned or raised, started together in n threads."""
    barrier = threading.Barrier(n)

    def run(i):
        barrier.wait()
        try:
            return action(i)
        except Exception as e:
            return e

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def test_a_rater_with_many_tabs_open_holds_one_comparison(store, add_comparisons, add_raters):
    [rater] = add_raters(store, 1)
    add_comparisons(store, 5, overlap=2)
    leases = at_once(8, lambda i: queue.lease(store, rater, seconds=1800))
    assert len({lease.id for lease in leases}) == 1
    assert queue.count_places(store)["leased"] == 1


def test_an_answer_sent_many_times_at_once_is_kept_once(store, add_comparisons, add_raters):
    add_comparisons(store, 1, overlap=2)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    receipts = at_once(8, lambda i: queue.submit(store, lease.id, rater, SKIP))
    assert Counter(r.outcome for r in receipts) == {"counted": 1, "repeated": 7}
    assert len(judgments(store)) == 1


def test_late_answers_sent_at_once_never_fill_more_places_than_there_are(store, add_comparisons, add_raters):
    add_comparisons(store, 1, overlap=2)
    raters = add_raters(store, 8)
    long_ago = utc_now() - 100 * HOUR
    late = [take(store, r, seconds=1, now=long_ago + i * HOUR) for i, r in enumerate(raters)]
    receipts = at_once(8, lambda i: queue.submit(store, late[i].id, raters[i], SKIP))
    assert Counter(r.outcome for r in receipts) == {"counted": 2, "surplus": 6}
    assert Counter(j.surplus for j in judgments(store)) == {False: 2, True: 6}


def wait_for_a_blocked_statement(conn, answer) -> None:
    while not conn.execute(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
        assert not answer.done(), "it should have waited"


def test_a_late_answer_does_not_take_a_place_that_is_being_leased(postgres_url, add_comparisons, add_raters):
    store = Store.open(postgres_url)
    add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    late = take(store, ann, seconds=1, now=utc_now() - HOUR)
    with ThreadPoolExecutor(1) as pool:
        with store.write() as conn:  # bob's lease, up to its commit
            hold = {"rater_id": bob, "lease_id": "l_bob", "leased_until": utc_now() + HOUR}
            conn.execute(tables.places.update().values(hold))
            answer = pool.submit(queue.submit, store, late.id, ann, SKIP)
            wait_for_a_blocked_statement(conn, answer)
        assert answer.result().outcome == "surplus"
    store.close()


def test_a_judgment_is_corrected_by_one_of_many_at_once(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    first = judge(store, rater).judgment_id
    results = at_once(6, lambda i: queue.correct(store, first, rater, SKIP, idempotency_key=f"fix {i}"))
    assert sum(isinstance(r, Conflict) for r in results) == 5
    assert len(judgments(store)) == 1


def test_routers_and_raters_at_once_neither_block_each_other_nor_lose_a_judgment(store, add_comparisons, add_raters):
    added = add_comparisons(store, 12, overlap=2)
    raters = add_raters(store, 4)

    def act(i):
        if i < len(raters):
            return work_off(store, raters[i])
        for to in (Route.AUTO, Route.AUDIT, Route.ESCALATED, Route.AUTO):
            order = added if i % 2 else added[::-1]
            apply_routings(store, [Routing(c.id, to, to, "test") for c in order])
        return 0

    results = at_once(6, act)
    assert all(isinstance(r, int) for r in results), results
    kept = judgments(store)
    wanted = {c.id: c.overlap for c in find_comparisons(store)}
    assert sum(results) == sum(not j.surplus for j in kept)
    assert all(n <= wanted[i] for i, n in Counter(j.comparison_id for j in kept if not j.surplus).items())


def test_a_reader_that_goes_on_after_the_last_number_misses_no_judgment(postgres_url, add_comparisons, add_raters):
    # A judgment with a lower number must never be committed after one with a higher.
    store = Store.open(postgres_url)
    added = add_comparisons(store, 2, overlap=2)
    [rater] = add_raters(store, 1)
    lease = take(store, rater)
    with ThreadPoolExecutor(1) as pool:
        with store.write() as conn:
            add_outside_vote(store, conn, added[0], "ann", "1")
            answer = pool.submit(queue.submit, store, lease.id, rater, SKIP)
            wait_for_a_blocked_statement(conn, answer)
        answer.result()
    assert [j.source for j in judgments(store)] == ["elsewhere", ""]
    store.close()


def test_an_acknowledged_judgment_survives_kill_9(sqlite_url, sqlite_store, add_comparisons, add_raters):
    add_comparisons(sqlite_store, 1)
    [rater] = add_raters(sqlite_store, 1)
    lease = take(sqlite_store, rater)
    program = f"""
import os, signal
from rlhf_hitl.store import Store, queue
from rlhf_hitl.types import Answer, Verdict
receipt = queue.submit(Store.open({sqlite_url!r}), {lease.id!r}, {rater!r}, Answer(Verdict.SKIPPED))
os.write(1, receipt.judgment_id.encode())
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [j.id for j in judgments(sqlite_store)] == [process.stdout]


def test_a_key_is_for_one_answer_and_a_second_one_is_never_taken_for_it(store, add_comparisons, add_raters):
    add_comparisons(store, 1)
    [ann] = add_raters(store, 1)
    lease = take(store, ann)
    answer = prefer_first_shown(lease)
    first = queue.submit(store, lease.id, ann, replace(answer, active_seconds=3.0))
    assert queue.submit(store, lease.id, ann, replace(answer, active_seconds=9.0)).outcome == "repeated"
    scored = replace(answer, scores={"helpful": {lease.order_shown[0]: 1}})
    for other in (SKIP, replace(answer, strength=3), replace(answer, rationale="well"), scored):
        with pytest.raises(Conflict, match=first.judgment_id):
            queue.submit(store, lease.id, ann, other)
    with pytest.raises(BadInput):
        queue.submit(store, lease.id, ann, Answer(Verdict.RANKED, (("c_1",), ("c_2",))))


def test_a_correction_is_never_taken_for_what_it_corrects_nor_for_another_correction(
    store, add_comparisons, add_raters
):
    add_comparisons(store, 1)
    [ann] = add_raters(store, 1)
    lease = take(store, ann)
    first = queue.submit(store, lease.id, ann, SKIP)
    with pytest.raises(Conflict):
        queue.correct(store, first.judgment_id, ann, SKIP, idempotency_key=lease.id)
    flag = Answer(Verdict.FLAGGED)
    assert queue.correct(store, first.judgment_id, ann, flag, idempotency_key="k").outcome == "counted"
    assert queue.correct(store, first.judgment_id, ann, flag, idempotency_key="k").outcome == "repeated"
    with pytest.raises(Conflict):
        queue.correct(store, first.judgment_id, ann, Answer(Verdict.ALL_BAD), idempotency_key="k")
    assert [j.answer.verdict for j in judgments(store)] == [Verdict.FLAGGED]


# Votes from elsewhere, and reading


def add_outside_vote(store, conn, comparison, name: str, key: str) -> int:
    row = people.make_imported_rater_row(name, "elsewhere")
    vote = {
        "comparison_id": comparison.id,
        "rater_id": row["id"],
        "answer": SKIP,
        "order_shown": [c.id for c in comparison.completions],
        "source": "elsewhere",
        "idempotency_key": key,
    }
    store.insert_new(conn, tables.raters, [row])
    return insert_imported_judgments(store, conn, [vote])


def test_votes_made_elsewhere_fill_no_place_and_come_in_once(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    for new in (1, 0):
        with store.write() as conn:
            assert add_outside_vote(store, conn, comparison, "ann", "1") == new
    assert [j.source for j in judgments(store)] == ["elsewhere"]
    assert queue.count_places(store) == {"filled": 0, "leased": 0, "free": 1}


def test_raters_of_one_name_from_two_sources_are_two_raters(store):
    assert people.make_imported_rater_row("ann", "here")["id"] != people.make_imported_rater_row("ann", "there")["id"]
    assert people.add_rater(store, "ann", Role.RATER).id not in {
        people.make_imported_rater_row("ann", s)["id"] for s in ("", "here")
    }


def test_history_comes_in_order_across_pages(sqlite_store, add_comparisons):
    added = add_comparisons(sqlite_store, ROWS_PER_QUERY + 50)
    with sqlite_store.write() as conn:
        for c in added:
            add_outside_vote(sqlite_store, conn, c, "ann", c.id)
    assert [j.comparison_id for j in judgments(sqlite_store)] == [c.id for c in added]
    assert read_store_revision(sqlite_store) == len(added)
    rest = judgments(sqlite_store, after=len(added) - 3)
    assert [j.comparison_id for j in rest] == [c.id for c in added[-3:]]


def test_history_answers_for_one_rater_for_some_comparisons_and_for_a_split(store, add_comparisons, add_raters):
    added = add_comparisons(store, 12)
    ann, bob = add_raters(store, 2)
    for _ in range(6):
        judge(store, ann)
        judge(store, bob)
    assert {j.rater_id for j in judgments(store, rater_id=ann)} == {ann}
    assert len(judgments(store, rater_id=ann)) == 6
    some = [c.id for c in added[:4]]
    assert sorted(j.comparison_id for j in judgments(store, comparison_ids=some)) == sorted(some)
    split = added[0].prompt.split
    expected = {c.id for c in added if c.prompt.split is split}
    assert {j.comparison_id for j in judgments(store, split=split)} == expected


def test_history_takes_more_comparisons_than_a_query_takes_parameters(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    judge(store, add_raters(store, 1)[0])
    many = [f"x_{i}" for i in range(70_000)] + [comparison.id]
    assert len(judgments(store, comparison_ids=many)) == 1
