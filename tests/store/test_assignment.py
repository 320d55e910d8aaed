"""What a rater is offered, on either database: projects, languages, batches, tags, quotas, pauses, repeats."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import audit, people, projects, queue, views
from rlhf_hitl.store.comparisons import compute_queue_position, count_rows, find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.queue import assignment
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.tables import places
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Route, Verdict, utc_now

SKIP = Answer(Verdict.SKIPPED)
NEVER, ALWAYS = (lambda: 0.999), (lambda: 0.0)


def put(store, *questions: str, project="default", batch="", overlap=1, **tags) -> list[Comparison]:
    made = []
    for question in questions:
        prompt = Prompt.create((Message("user", question),), tags)
        sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("yes", "no", "maybe")]
        made.append(Comparison.create(prompt, sides, overlap, project=project, batch=batch))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    return made


def offered(store, rater, **kwargs) -> str | None:
    """The question of what a rater is offered; it is given back."""
    lease = queue.lease(store, rater, seconds=1800, **kwargs)
    if lease is None:
        return None
    queue.release(store, lease.id, rater)
    return lease.comparison.prompt.messages[0].content


def everything(store, rater, **kwargs) -> set[str]:
    """The questions a rater is offered until nothing is left; each is skipped."""
    out = set()
    while (lease := queue.lease(store, rater, seconds=1800, **kwargs)) is not None:
        queue.submit(store, lease.id, rater, SKIP)
        out.add(lease.comparison.prompt.messages[0].content)
    return out


def rank(store, lease, **kwargs):
    answer = Answer(Verdict.RANKED, tuple((i,) for i in lease.order_shown))
    return queue.submit(store, lease.id, lease.rater_id, answer, **kwargs)


# Projects


def test_a_comparison_in_two_projects_is_judged_in_both(store, add_raters):
    projects.add_project(store, "second")
    [first], [second] = put(store, "Tea?"), put(store, "Tea?", project="second")
    assert first.id != second.id
    [ann] = add_raters(store, 1)
    got = [queue.lease_many(store, ann, 2, seconds=1800)[i].comparison for i in range(2)]
    assert {c.id for c in got} == {first.id, second.id}
    assert {c.project for c in got} == {"default", "second"}


def test_a_comparison_of_an_unknown_project_is_refused_and_nothing_is_kept(store):
    with pytest.raises(NotFound, match=r"nowhere.*default"):
        put(store, "Tea?", project="nowhere")
    assert count_rows(store)["prompts"] == 0


def test_a_paused_project_hands_out_nothing_and_takes_what_is_held(store, add_raters):
    put(store, "Tea?", "Milk?")
    ann, bob = add_raters(store, 2)
    held = queue.lease(store, ann, seconds=1800)
    projects.change_project(store, "default", paused=True)
    assert queue.lease(store, bob, seconds=1800) is None
    assert queue.lease(store, ann, seconds=1800) == held
    assert rank(store, held).outcome == "counted"
    assert queue.lease(store, ann, seconds=1800) is None
    projects.change_project(store, "default", paused=False)
    assert queue.lease(store, bob, seconds=1800) is not None


def test_a_project_for_members_is_offered_to_members(store, add_raters):
    projects.add_project(store, "closed", open=False)
    put(store, "Tea?", project="closed")
    ann, bob = add_raters(store, 2)
    projects.add_member(store, "closed", "rater 0")
    projects.add_member(store, "closed", "rater 0")
    assert (offered(store, ann), offered(store, bob)) == ("Tea?", None)
    projects.remove_member(store, "closed", "rater 0")
    assert offered(store, ann) is None
    with pytest.raises(NotFound):
        projects.remove_member(store, "closed", "rater 0")
    projects.change_project(store, "closed", open=True)
    assert offered(store, bob) == "Tea?"


@pytest.mark.parametrize("name", ["", "Über", "a b", "../x", "x" * 81, "default"])
def test_a_projects_name_is_free_and_can_stand_in_an_address(store, name):
    with pytest.raises(BadInput):
        projects.add_project(store, name)


def test_progress_counts_only_what_a_rater_may_be_offered(store, add_raters):
    projects.add_project(store, "closed", open=False)
    put(store, "Tea?", "Milk?", "Ink?", language="en")
    put(store, "¿Té?", language="es")
    put(store, "Secret?", project="closed")
    [ann] = add_raters(store, 1)
    assert views.load_progress(store, ann, utc_now()).left == 1, "fewer than ten"
    many = put(store, *(f"Cup {i}?" for i in range(15)), language="en")
    assert views.load_progress(store, ann, utc_now()).left == 10, "19, in tens"
    people.change_rater(store, "rater 0", languages=["en"])
    held = queue.lease(store, ann, seconds=1800)
    assert len(many) == 15
    assert views.load_progress(store, ann, utc_now()).left == 10
    rank(store, held)
    assert views.load_progress(store, ann, utc_now() - timedelta(hours=1)) == views.RaterProgress(1, 10)
    with store.read() as conn:
        assert assignment.count_available(conn, ann, utc_now(), 1000) == 17
    people.change_rater(store, "rater 0", paused=True)
    assert views.load_progress(store, ann, utc_now()).left == 0


# Languages, batches, tags


def test_raters_are_offered_the_languages_they_read_and_those_nobody_named(store, add_raters):
    put(store, "Tea?", language="EN")
    put(store, "¿Té?", language="es")
    put(store, "?")
    ann, bob = add_raters(store, 2)
    people.change_rater(store, "rater 0", languages=["Es", " fr "])
    assert everything(store, ann) == {"¿Té?", "?"}
    assert everything(store, bob) == {"Tea?"}
    people.change_rater(store, "rater 0", languages=[])
    assert people.get_rater(store, ann).languages is None


def test_a_task_filter_is_kept_to(store, add_raters):
    projects.add_project(store, "second")
    put(store, "first batch", batch="1")
    put(store, "second batch", batch="2", category="code")
    put(store, "tagged", **{"category": "code", 'a "b" [0] $.c': "hard"})
    put(store, "spanish", language="es")
    put(store, "elsewhere", project="second")
    [ann] = add_raters(store, 1)
    for task_filter, wanted in [
        (assignment.TaskFilter(project="second"), {"elsewhere"}),
        (assignment.TaskFilter(batch="2"), {"second batch"}),
        (assignment.TaskFilter(batch=""), {"tagged", "spanish", "elsewhere"}),
        (assignment.TaskFilter(language="ES"), {"spanish"}),
        (assignment.TaskFilter(tags={"category": "code"}), {"second batch", "tagged"}),
        (assignment.TaskFilter(tags={"category": "code", 'a "b" [0] $.c': "hard"}), {"tagged"}),
        (assignment.TaskFilter(project="nowhere"), set()),
    ]:
        seen = {
            c.comparison.prompt.messages[0].content
            for c in queue.lease_many(store, ann, 9, task_filter=task_filter, seconds=1800)
        }
        for held in queue.lease_many(store, ann, 9, task_filter=assignment.TaskFilter(project="nowhere"), seconds=1800):
            queue.release(store, held.id, ann)
        assert seen == wanted, task_filter


def test_the_first_in_line_comes_first_whatever_lane_it_stands_in(store, add_raters):
    made = [c for i in range(4) for c in put(store, f"{i}", batch=str(i), language="en" if i % 2 else "es")]
    [ann] = add_raters(store, 1)
    for comparison, route in zip(made, (Route.HUMAN, Route.AUDIT, Route.CONTROL, Route.ESCALATED)):
        apply_routings(store, [Routing(comparison.id, route, route, "test")])
    order = []
    while lease := queue.lease(store, ann, seconds=1800):
        rank(store, lease)
        order.append(lease.comparison.prompt.messages[0].content)
    assert order[0] == "3"
    assert sorted(order) == ["0", "1", "2", "3"]


def test_the_newest_round_comes_first_and_in_it_the_routers_order(store, add_raters):
    made = put(store, *"abcd")
    [ann] = add_raters(store, 1)
    for comparison, (round, line) in zip(made, ((1, 0), (2, 7), (2, 3), (1, 1))):
        route = Routing(comparison.id, Route.HUMAN, Route.HUMAN, "test", round=round, place_in_line=line)
        apply_routings(store, [route])
    order = [lease.comparison.prompt.messages[0].content for lease in queue.lease_many(store, ann, 4, seconds=1800)]
    assert order == ["c", "b", "a", "d"]


def test_a_position_keeps_its_parts_apart_and_fits_the_database(sqlite_store):
    def at(route=Route.HUMAN, round=0, line=0):
        return compute_queue_position(sqlite_store, "x", route, round, line)

    assert at(Route.ESCALATED, 0, 10**9) < at(Route.HUMAN, 5, 10**9)
    assert at(Route.CONTROL, 5, 3) == at(Route.HUMAN, 5, 3), "a check of the model does not show by its place"
    assert at(round=6, line=9) < at(round=5, line=0) < at(round=5, line=1) < at(round=4, line=0)
    assert 0 <= at(Route.ESCALATED, 10**9, 0) <= at(Route.HUMAN, 0, 10**9) < 2**63


# Several at once


def test_a_rater_may_hold_several_different_comparisons(store, add_raters):
    put(store, *"abc", overlap=3)
    ann, bob = add_raters(store, 2)
    held = queue.lease_many(store, ann, 5, seconds=1800)
    assert len(held) == len({lease.comparison.id for lease in held}) == 3
    assert queue.lease_many(store, ann, 2, seconds=1800) == held[:2]
    rank(store, held[1])
    assert [lease.id for lease in queue.lease_many(store, ann, 5, seconds=1800)] == [held[0].id, held[2].id]
    assert len(queue.lease_many(store, bob, 5, seconds=1800)) == 3


# Quotas and pauses


def test_a_quota_is_of_a_day_and_counts_what_is_held_and_no_correction(store, add_raters):
    put(store, *"abcdef")
    [ann] = add_raters(store, 1)
    people.change_rater(store, "rater 0", quota=2)
    noon = utc_now().replace(hour=12, minute=0)
    assert len(queue.lease_many(store, ann, 5, now=noon, seconds=1800)) == 2
    for held in queue.lease_many(store, ann, 2, now=noon, seconds=1800):
        receipt = rank(store, held, now=noon)
        queue.correct(store, receipt.judgment_id, ann, SKIP, idempotency_key=f"c{held.id}")
    assert queue.lease(store, ann, now=noon + timedelta(hours=11), seconds=1800) is None
    assert queue.lease(store, ann, now=noon + timedelta(hours=13), seconds=1800) is not None
    assert people.change_rater(store, "rater 0", quota=0).quota is None


def test_a_paused_rater_gets_nothing_new_and_may_finish(store, add_raters):
    put(store, *"ab")
    [ann] = add_raters(store, 1)
    held = queue.lease(store, ann, seconds=1800)
    people.change_rater(store, "rater 0", paused=True)
    assert queue.lease(store, ann, seconds=1800) == held
    assert rank(store, held).outcome == "counted"
    assert queue.lease(store, ann, seconds=1800) is None


# Renewing and taking back


def test_a_renewed_lease_lasts_from_now_on(store, add_raters):
    put(store, "a")
    ann, bob = add_raters(store, 2)
    now = utc_now()
    held = queue.lease(store, ann, seconds=60, now=now)
    until = queue.renew(store, held.id, ann, seconds=60, now=now + timedelta(seconds=50))
    assert until == now + timedelta(seconds=110)
    assert queue.lease(store, bob, now=now + timedelta(seconds=109), seconds=1800) is None
    assert queue.lease(store, ann, now=now + timedelta(seconds=109), seconds=1800).expires_at == until


def test_a_lease_that_ran_out_is_renewed_while_nobody_took_it(store, add_raters):
    put(store, "a")
    ann, bob = add_raters(store, 2)
    now = utc_now()
    held = queue.lease(store, ann, seconds=60, now=now)
    late = now + timedelta(seconds=90)
    queue.renew(store, held.id, ann, seconds=60, now=late)
    assert queue.lease(store, bob, now=late, seconds=1800) is None
    assert queue.lease(store, bob, now=late + timedelta(seconds=60), seconds=1800) is not None
    with pytest.raises(Conflict, match="over"):
        queue.renew(store, held.id, ann, now=late, seconds=1800)
    with pytest.raises(NotFound):
        queue.renew(store, held.id, bob, seconds=1800)
    with pytest.raises(NotFound):
        queue.renew(store, "l_none", ann, seconds=1800)


def test_what_was_answered_cannot_be_renewed(store, add_raters):
    put(store, "a")
    [ann] = add_raters(store, 1)
    held = queue.lease(store, ann, seconds=1800)
    rank(store, held)
    with pytest.raises(Conflict):
        queue.renew(store, held.id, ann, seconds=1800)


def test_a_lead_takes_a_comparison_back_and_its_answer_is_kept_all_the_same(store, add_raters):
    put(store, "a")
    ann, bob = add_raters(store, 2)
    held = queue.lease(store, ann, seconds=1800)
    queue.expire(store, held.id, by=audit.Actor("lea"))
    other = queue.lease(store, bob, seconds=1800)
    assert other.comparison == held.comparison
    assert rank(store, other).outcome == "counted"
    assert rank(store, held).outcome == "surplus"
    [entry] = audit.list_entries(store, actions=["lease.expired"])
    assert (entry.actor, entry.subject) == ("lea", held.id)


# Hidden repeats


@pytest.fixture
def repeating(store, add_raters):
    """A store where of two comparisons one is a repeat, and a rater who has judged enough to be shown some again."""
    projects.change_project(store, "default", repeat_every=2)
    put(store, *(f"question {i}" for i in range(assignment.REPEAT_GAP + 10)))
    [ann] = add_raters(store, 1)
    for _ in range(assignment.REPEAT_GAP + 3):
        [held] = queue.lease_many(store, ann, 1, chance=NEVER, seconds=1800)
        rank(store, held)
    return store, ann


def test_a_hidden_repeat_is_a_comparison_of_its_own_shown_the_other_way_round(repeating):
    store, ann = repeating
    [held] = queue.lease_many(store, ann, 1, chance=ALWAYS, seconds=1800)
    first = next(iter(read_judgments(store, comparison_ids=[held.comparison.repeat_of])))
    oldest = [j.comparison_id for j in read_judgments(store)][:3]
    assert first.comparison_id in oldest, "only what lies far enough back"
    assert held.order_shown == first.order_shown[::-1]
    assert [c.id for c in held.comparison.completions] == sorted(first.order_shown)
    assert rank(store, held).outcome == "counted"


def test_everything_is_repeated_once_at_most_and_then_the_line_goes_on(repeating):
    store, ann = repeating
    again = Counter()
    for _ in range(5):
        [held] = queue.lease_many(store, ann, 1, chance=ALWAYS, seconds=1800)
        again[held.comparison.repeat_of] += 1
        queue.submit(store, held.id, ann, SKIP)  # a skip does not become worth repeating
    assert again.pop(None) > 0, "who leases as often as they like gets no more of them"
    assert set(again.values()) == {1}


def test_a_repeat_is_for_its_rater_alone_and_waits_for_them(repeating):
    store, ann = repeating
    bob = people.add_rater(store, "bob", people.get_rater(store, ann).role).id
    [held] = queue.lease_many(store, ann, 1, chance=ALWAYS, seconds=1800)
    queue.release(store, held.id, ann)
    assert all(
        lease.comparison.repeat_of is None for lease in queue.lease_many(store, bob, 5, chance=NEVER, seconds=1800)
    )
    [again] = queue.lease_many(store, ann, 1, chance=NEVER, seconds=1800)
    assert again.comparison == held.comparison
    assert again.order_shown == held.order_shown


def test_repeats_teach_nothing_and_are_not_counted_as_work_to_be_scored(repeating):
    from rlhf_hitl.labels.fitting import read_labels

    store, ann = repeating
    [held] = queue.lease_many(store, ann, 1, chance=ALWAYS, seconds=1800)
    rank(store, held)
    assert held.comparison.id not in {label.comparison_id for label in read_labels(store)}
    assert held.comparison.id not in {c.id for c in find_comparisons(store)}
    assert held.comparison.id in {c.id for c in find_comparisons(store, repeats=True)}
    assert held.comparison.id in {j.comparison_id for j in read_judgments(store)}


def test_a_project_without_repeats_has_none(store, add_raters):
    put(store, *(str(i) for i in range(assignment.REPEAT_GAP + 5)))
    [ann] = add_raters(store, 1)
    for _ in range(assignment.REPEAT_GAP + 5):
        [held] = queue.lease_many(store, ann, 1, chance=ALWAYS, seconds=1800)
        rank(store, held)
    with store.read() as conn:
        assert conn.execute(sa.select(places.c.reserved_for).distinct()).scalars().all() == [None]


@pytest.mark.parametrize("every", [-1, 1])
def test_one_in_one_is_no_share_of_repeats(store, every):
    with pytest.raises(BadInput):
        projects.change_project(store, "default", repeat_every=every)


# The queue as it stands


def test_the_queue_is_told_lane_by_lane(store, add_raters):
    projects.add_project(store, "second")
    put(store, *"abc", language="en", overlap=2)
    put(store, "d", project="second", batch="pilot")
    projects.change_project(store, "second", paused=True)
    ann, bob = add_raters(store, 2)
    rank(store, queue.lease(store, ann, seconds=1800))
    queue.lease(store, bob, seconds=1800)
    lanes = {(lane.project, lane.language, lane.batch): lane for lane in queue.count_places_by_lane(store)}
    assert {k: (v.paused, v.filled, v.leased, v.free) for k, v in lanes.items()} == {
        ("default", "en", ""): (False, 1, 1, 4),
        ("second", "", "pilot"): (True, 0, 0, 1),
    }
    assert queue.count_places(store) == {"filled": 1, "leased": 1, "free": 5}
    assert queue.count_places_by_lane(store, project="second") == [lanes["second", "", "pilot"]]


# The way of a judgment through the database


def test_nothing_of_a_cycle_reads_a_table_from_end_to_end(sqlite_store, add_raters):
    """Asked of SQLite, which tells its plans; it takes one whatever the tables hold."""
    store = sqlite_store
    put(store, *(f"Question {n}?" for n in range(assignment.REPEAT_GAP + 5)))
    [ann] = add_raters(store, 1)
    projects.change_project(store, "default", repeat_every=2)
    people.change_rater(store, "rater 0", quota=1000)
    said: dict[str, None] = {}

    def hear(conn, cursor, statement, parameters, context, executemany):
        plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        said.update({f"{step} | {statement}": None for *_, step in plan})

    while (lease := next(iter(queue.lease_many(store, ann, 1, chance=ALWAYS, seconds=1800)), None)) is not None:
        if len(list(read_judgments(store))) == assignment.REPEAT_GAP:
            sa.event.listen(store._engine, "before_cursor_execute", hear)
        rank(store, lease)
    sa.event.remove(store._engine, "before_cursor_execute", hear)

    assert any("judgments_by_rater" in step for step in said), "a rater's newest are found by their own index"
    small = ("projects", "lanes", "webhooks", "members", "constant", "json_each")
    read = [s for s in said if s.startswith("SCAN ") and not s.startswith(tuple(f"SCAN {t}" for t in small))]
    assert read == []
    assert [s for s in said if "judgments_supersedes_once" in s] == [], "which holds nearly all rows under one key"
