"""Assignments on either database: a place for a named rater, first in their line, and overlap stays exact."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from handmade_golds import gold_example, rank_by_text

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import assignments, audit, golds, people, projects, queue, views
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.tables import places
from rlhf_hitl.types import GoldPurpose, QualificationRule, Role, Route, utc_now


def take(store, rater, **kwargs):
    return queue.lease(store, rater, seconds=1800, **kwargs)


def judge(store, rater, **kwargs):
    lease = take(store, rater, **kwargs)
    return lease.comparison.id, queue.submit(store, lease.id, rater, rank_by_text(lease)).outcome


def overlap_of(store, comparison_id: str) -> tuple[int, int]:
    """The overlap of a comparison, and how many places it has."""
    [comparison] = find_comparisons(store, ids=[comparison_id])
    with store.read() as conn:
        count = sa.select(sa.func.count()).select_from(places).where(places.c.comparison_id == comparison_id)
        return comparison.overlap, conn.execute(count).scalar_one()


def test_what_is_assigned_comes_first_for_one_rater_and_for_nobody_else(store, add_comparisons, add_raters):
    made = add_comparisons(store, 8)
    ann, bob = add_raters(store, 2)
    order = [lease.comparison.id for lease in queue.lease_many(store, bob, 8, seconds=1800)]
    for lease in queue.lease_many(store, bob, 8, seconds=1800):
        queue.release(store, lease.id, bob)
    wanted = set(order[-2:])  # the last in line
    done = assignments.assign(store, "rater 0", sorted(wanted), by=audit.Actor("lea"))
    assert (done.assigned, done.refused) == (2, {})
    assert {c.comparison.id for c in queue.lease_many(store, bob, 8, seconds=1800)} == {c.id for c in made} - wanted
    assert {lease.comparison.id for lease in queue.lease_many(store, ann, 2, seconds=1800)} == wanted
    assert all(overlap_of(store, id) == (1, 1) for id in wanted)
    [entry] = audit.list_entries(store, actions=["comparisons.assigned"])
    assert (entry.actor, entry.subject, entry.details) == ("lea", "rater 0", {"comparisons": 2})


def test_an_assignment_does_not_show_by_any_count(store, add_comparisons, add_raters):
    made = add_comparisons(store, 12, overlap=2)
    [ann] = add_raters(store, 1)
    since = utc_now() - timedelta(hours=1)
    before = views.load_progress(store, ann, since), queue.count_places(store)
    assignments.assign(store, "rater 0", [c.id for c in made[:3]])
    assert (views.load_progress(store, ann, since), queue.count_places(store)) == before
    held, other = queue.lease_many(store, ann, 2, seconds=1800), queue.lease_many(store, ann, 5, seconds=1800)[-1]
    assert (held[0].comparison.overlap, held[0].comparison.route) == (other.comparison.overlap, other.comparison.route)
    assert views.load_progress(store, ann, since) == before[0]


def test_where_every_place_is_taken_one_more_is_opened_and_removed_with_the_assignment(
    store, add_comparisons, add_raters
):
    [comparison] = add_comparisons(store, 1)
    ann, bob, cy = add_raters(store, 3)
    judge(store, bob)
    assert assignments.assign(store, "rater 0", [comparison.id]).assigned == 1
    assert overlap_of(store, comparison.id) == (2, 2)
    assert take(store, cy) is None
    assert assignments.end_assignments(store, "rater 0") == 1
    assert overlap_of(store, comparison.id) == (1, 1)
    assert take(store, ann) is None
    assignments.assign(store, "rater 0", [comparison.id])
    assert judge(store, ann) == (comparison.id, "counted")
    assert assignments.end_assignments(store, "rater 0", [comparison.id]) == 1
    assert overlap_of(store, comparison.id) == (2, 2)


def test_an_ended_assignment_frees_the_place_for_all_where_it_stood(store, add_comparisons, add_raters):
    made = add_comparisons(store, 6)
    ann, bob = add_raters(store, 2)
    order = [lease.comparison.id for lease in queue.lease_many(store, bob, 6, seconds=1800)]
    for lease in queue.lease_many(store, bob, 6, seconds=1800):
        queue.release(store, lease.id, bob)
    assignments.assign(store, "rater 0", [c.id for c in made], slice="hard ones")
    assert take(store, bob) is None
    assert [a.state for a in assignments.list_assignments(store, rater_id=ann)] == ["waiting"] * 6
    assert assignments.end_assignments(store, "rater 0", slice="other") == 0
    assert assignments.end_assignments(store, "rater 0", slice="hard ones", by=audit.Actor("lea")) == 6
    assert assignments.list_assignments(store) == []
    assert {a.state for a in assignments.list_assignments(store, ended=True)} == {"ended"}
    assert [lease.comparison.id for lease in queue.lease_many(store, bob, 6, seconds=1800)] == order


def test_what_cannot_be_assigned_is_counted_by_reason(store, add_comparisons, add_raters):
    made = add_comparisons(store, 5, overlap=2)
    ann, _ = add_raters(store, 2)
    judged, _ = judge(store, ann)
    rest = [c.id for c in made if c.id != judged]
    apply_routings(store, [Routing(rest[0], Route.AUTO, Route.AUTO, "test")])
    golds.add_golds(store, "default", [gold_example("gold")])
    [gold] = golds.list_golds(store)
    assignments.assign(store, "rater 0", [rest[1]])
    asked = [judged, rest[0], rest[1], rest[2], gold.comparison.id, "x_nothing"]
    done = assignments.assign(store, "rater 0", asked)
    assert done.assigned == 1
    assert done.refused == {"judged": 1, "accepted": 1, "assigned": 1, "measuring": 1, "unknown": 1}
    assert set(done.refused) <= set(assignments.REFUSALS)
    projects.change_project(store, "default", open=False)
    assert assignments.assign(store, "rater 1", [rest[3]]).refused == {"closed": 1}
    with pytest.raises(NotFound):
        assignments.assign(store, "nobody", rest)
    people.add_rater(store, "eve", Role.EVALUATOR)
    with pytest.raises(BadInput, match="may rate"):
        assignments.assign(store, "eve", rest)


def test_a_rater_who_holds_the_comparison_keeps_it_and_the_place_is_theirs(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    ann, bob = add_raters(store, 2)
    now = utc_now()
    held = queue.lease(store, ann, seconds=60, now=now)
    assert assignments.assign(store, "rater 0", [comparison.id]).assigned == 1
    late = now + timedelta(minutes=5)
    assert queue.lease(store, bob, seconds=60, now=late) is None, "the lease ran out, and the place waits"
    assert queue.submit(store, held.id, ann, rank_by_text(held), now=late).outcome == "counted"
    assert overlap_of(store, comparison.id) == (1, 1)
    assert [a.state for a in assignments.list_assignments(store)] == ["judged"]


def test_a_late_answer_fills_the_place_that_nobody_else_could_fill(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1, overlap=2)
    ann, bob = add_raters(store, 2)
    now = utc_now()
    held = queue.lease(store, ann, seconds=60, now=now)
    queue.release(store, held.id, ann)
    assignments.assign(store, "rater 0", [comparison.id])
    assert queue.submit(store, held.id, ann, rank_by_text(held), now=now).outcome == "counted"
    assert judge(store, bob) == (comparison.id, "counted")


def test_overlap_stays_exact_while_raters_work_and_leads_assign_and_end(store, add_comparisons, add_raters):
    made = add_comparisons(store, 12, overlap=2)
    rater_ids = add_raters(store, 6)

    def work(rater):
        while (lease := take(store, rater)) is not None:
            queue.submit(store, lease.id, rater, rank_by_text(lease))

    def lead(n):
        chosen = [c.id for c in made[n::3]]
        for _ in range(3):
            assignments.assign(store, f"rater {n}", chosen)
            assignments.end_assignments(store, f"rater {n}", chosen[:2])

    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(work, rater) for rater in rater_ids] + [pool.submit(lead, n) for n in range(3)]
        for job in jobs:
            job.result()
    for rater in rater_ids:
        work(rater)
    judgments = list(read_judgments(store))
    assert not any(j.surplus for j in judgments)
    assert max(Counter((j.comparison_id, j.rater_id) for j in judgments).values()) == 1
    counted = Counter(j.comparison_id for j in judgments)
    for comparison in find_comparisons(store):
        assert counted[comparison.id] == comparison.overlap == overlap_of(store, comparison.id)[1] >= 2


def test_who_has_not_qualified_is_assigned_nothing_that_they_would_not_get(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    [ann] = add_raters(store, 1)
    golds.add_golds(store, "default", [gold_example("gold")], purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(store, "default", qualification=QualificationRule(1))
    assert assignments.assign(store, "rater 0", [comparison.id]).refused == {"unqualified": 1}
    assert overlap_of(store, comparison.id) == (1, 1)
    people.add_rater(store, "lea", Role.LEAD)
    assert assignments.assign(store, "lea", [comparison.id]).assigned == 1, "leads need no qualification"
    gold, _ = judge(store, ann)
    assert gold != comparison.id
    assert assignments.assign(store, "rater 0", [comparison.id]).assigned == 1
    assert take(store, ann).comparison.id == comparison.id
