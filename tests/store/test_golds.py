"""Golds on either database: hidden among the others, in no label, and what raters are told afterwards."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from handmade_golds import gold_example, rank_by_text

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.guidance import read_tutorial
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.store import golds, people, projects, queue, views
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons, insert_prompts, list_prompts
from rlhf_hitl.store.export_query import read_judged_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.queue.assignment import REPEAT_GAP, TaskFilter
from rlhf_hitl.store.queue.locks import lock_comparison
from rlhf_hitl.store.tables import comparisons, places
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    GoldPurpose,
    Message,
    Prompt,
    QualificationRule,
    Split,
    Verdict,
    utc_now,
)

ALWAYS, NEVER = (lambda: 0.0), (lambda: 0.999)
SKIP = Answer(Verdict.SKIPPED)


@pytest.fixture
def with_golds(store, add_comparisons, add_raters):
    """A store with six comparisons that want two judgments each, three golds, and two raters."""
    add_comparisons(store, 6, overlap=2)
    golds.add_golds(store, "default", [gold_example(f"gold {i}") for i in range(3)])
    projects.change_project(store, "default", gold_every=3)
    return store, add_raters(store, 2)


def is_gold(lease) -> bool:
    return lease.comparison.prompt.messages[0].text.startswith("gold")


def test_a_gold_is_hidden_among_the_others_and_each_is_answered_once(with_golds):
    store, (ann, bob) = with_golds
    seen = Counter()
    while held := queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS):
        queue.submit(store, held[0].id, ann, rank_by_text(held[0]))
        seen[held[0].comparison.id] += 1
    assert len(seen) == 9, "six comparisons and three golds"
    assert max(seen.values()) == 1
    assert len(list(golds.read_gold_results(store))) == 3
    assert not any(is_gold(lease) for lease in queue.lease_many(store, bob, 6, seconds=1800, chance=NEVER))


def test_one_in_so_many_comparisons_is_gold(sqlite_store, add_comparisons, add_raters):
    add_comparisons(sqlite_store, 400)
    golds.add_golds(sqlite_store, "default", [gold_example(f"gold {i}") for i in range(200)])
    projects.change_project(sqlite_store, "default", gold_every=5)
    [ann] = add_raters(sqlite_store, 1)
    shown = []
    for _ in range(400):
        lease = queue.lease(sqlite_store, ann, seconds=1800)
        queue.submit(sqlite_store, lease.id, ann, SKIP)
        shown.append(is_gold(lease))
    assert 50 <= sum(shown) <= 112, "of 400 draws of one in five, 80 ± 4 standard deviations"


def test_nothing_but_its_content_tells_a_gold_from_the_others_before_it_is_answered(with_golds):
    store, (ann, _) = with_golds
    before = views.load_progress(store, ann, utc_now() - timedelta(hours=1))
    [gold] = queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS)
    assert is_gold(gold)
    other = queue.lease_many(store, ann, 2, seconds=1800, chance=NEVER)[1]
    assert not is_gold(other)
    assert views.load_progress(store, ann, utc_now() - timedelta(hours=1)) == before
    assert (len(gold.id), gold.comparison.route, gold.comparison.batch) == (
        len(other.id), other.comparison.route, other.comparison.batch
    )  # fmt: skip
    receipt = queue.submit(store, gold.id, ann, rank_by_text(gold))
    assert (receipt.outcome, receipt.gold, receipt.qualification) == ("counted", None, None)
    assert views.load_progress(store, ann, utc_now() - timedelta(hours=1)).done == 1


def test_a_gold_that_is_given_back_comes_where_it_came_and_no_other_beside_it(with_golds):
    store, (ann, bob) = with_golds
    [gold] = queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS)
    for _ in range(5):
        queue.release(store, gold.id, ann)
        [again] = queue.lease_many(store, ann, 1, seconds=1800, chance=NEVER)
        assert again.comparison == gold.comparison
        gold = again
    now = utc_now() + timedelta(hours=1)  # it ran out, as when a browser dies
    [again] = queue.lease_many(store, ann, 1, seconds=1800, chance=NEVER, now=now)
    assert again.comparison == gold.comparison
    assert gold.comparison.id not in {
        c.comparison.id for c in queue.lease_many(store, bob, 20, seconds=1800, chance=NEVER)
    }


def test_leasing_and_giving_back_brings_no_more_golds(sqlite_store, add_comparisons, add_raters):
    add_comparisons(sqlite_store, 60)
    golds.add_golds(sqlite_store, "default", [gold_example(f"gold {i}") for i in range(40)])
    projects.change_project(sqlite_store, "default", gold_every=10)
    [ann] = add_raters(sqlite_store, 1)
    for _ in range(8):
        for lease in queue.lease_many(sqlite_store, ann, 20, seconds=1800, chance=ALWAYS):
            queue.release(sqlite_store, lease.id, ann)
    with sqlite_store.read() as conn:
        reserved = sa.select(sa.func.count()).select_from(places).where(places.c.reserved_for == ann)
        assert conn.execute(reserved).scalar_one() == 2, "as many as 20 comparisons hold"


def test_golds_are_in_no_label_no_dataset_no_prompts_for_policies_and_no_repeat(with_golds):
    store, (ann, _) = with_golds
    work = {c.id for c in find_comparisons(store)}
    assert len(work) == 6
    while held := queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS):
        queue.submit(store, held[0].id, ann, rank_by_text(held[0]))
    everything = {c.id for c in find_comparisons(store, repeats=True)}
    assert len(everything - work) == 3
    labels = [label for split in Split for label in read_labels(store, split=split)]
    assert {label.comparison_id for label in labels} == work
    assert {j.comparison_id for j in read_judgments(store, repeats=False)} == work
    exported = {
        j.comparison["comparison_id"] for s in Split for b in read_judged_comparisons(store, split=s) for j in b
    }
    assert exported == work
    assert not any(p.messages[0].text.startswith("gold") for p in list_prompts(store))
    assert queue.count_places(store)["free"] == 6, "the second judgment of each; none of a gold"


def test_a_prompt_that_is_work_too_is_no_secret(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    golds.add_golds(store, "default", [gold_example(comparison.prompt.messages[0].text)])
    assert [p.id for p in list_prompts(store)] == [comparison.prompt.id]


def test_hidden_repeats_repeat_no_gold(sqlite_store, add_comparisons, add_raters):
    golds.add_golds(sqlite_store, "default", [gold_example(f"gold {i}") for i in range(3)])
    add_comparisons(sqlite_store, REPEAT_GAP + 10)
    projects.change_project(sqlite_store, "default", gold_every=2)
    [ann] = add_raters(sqlite_store, 1)
    for i in range(REPEAT_GAP + 3):
        [held] = queue.lease_many(sqlite_store, ann, 1, seconds=1800, chance=ALWAYS if i < 3 else NEVER)
        queue.submit(sqlite_store, held.id, ann, rank_by_text(held))
    projects.change_project(sqlite_store, "default", gold_every=0, repeat_every=2)
    [held] = queue.lease_many(sqlite_store, ann, 1, seconds=1800, chance=ALWAYS)
    assert held.comparison.repeat_of is None, "what lies far enough back is gold"


def test_a_gold_fits_what_the_rater_reads_and_asks_for(store, add_comparisons, add_raters):
    add_comparisons(store, 4)
    golds.add_golds(store, "default", [gold_example("gold es")], language="es")
    projects.change_project(store, "default", gold_every=2)
    people_of = add_raters(store, 2)
    people.change_rater(store, "rater 0", languages=["en"])
    people.change_rater(store, "rater 1", languages=["es"])
    for rater, expected in zip(people_of, (False, True)):
        [held] = queue.lease_many(store, rater, 1, seconds=1800, chance=ALWAYS)
        assert is_gold(held) is expected
    [held] = queue.lease_many(
        store, people_of[0], 1, seconds=1800, chance=ALWAYS, task_filter=TaskFilter(tags={"x": "y"})
    )
    assert not is_gold(held), "held already"


def test_where_the_project_says_so_the_receipt_brings_the_right_answer_also_when_it_is_sent_again(with_golds):
    store, (ann, bob) = with_golds
    projects.change_project(store, "default", gold_feedback=True)
    [held] = queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS)
    told = queue.submit(store, held.id, ann, rank_by_text(held)).gold
    assert (told.agreed, told.explanation) == (True, f"Why “{held.comparison.prompt.messages[0].text}”.")
    assert held.comparison.find_completion(told.answer.ranking[0][0]).text.endswith("side 0")
    again = queue.submit(store, held.id, ann, rank_by_text(held))
    assert (again.outcome, again.gold) == ("repeated", told)
    [held] = queue.lease_many(store, bob, 1, seconds=1800, chance=ALWAYS)
    assert queue.submit(store, held.id, bob, rank_by_text(held, reverse=True)).gold.agreed is False
    other = queue.lease_many(store, bob, 1, seconds=1800, chance=NEVER)[0]
    assert queue.submit(store, other.id, bob, rank_by_text(other)).gold is None


def test_the_first_answer_to_a_gold_counts(with_golds):
    store, (ann, _) = with_golds
    [held] = queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS)
    receipt = queue.submit(store, held.id, ann, rank_by_text(held, reverse=True))
    queue.correct(store, receipt.judgment_id, ann, rank_by_text(held), idempotency_key="better")
    [result] = golds.read_gold_results(store)
    assert (result.rater_id, result.agreed, result.skipped, result.purpose) == (ann, False, False, GoldPurpose.HIDDEN)
    assert list(golds.read_gold_results(store, after=result.seq)) == []


def test_many_raters_at_once_get_a_place_of_their_own_on_the_same_gold(store, add_comparisons, add_raters):
    add_comparisons(store, 2, overlap=12)
    golds.add_golds(store, "default", [gold_example("gold")])
    projects.change_project(store, "default", gold_every=2)
    rater_ids = add_raters(store, 12)

    def work(rater):
        [held] = queue.lease_many(store, rater, 1, seconds=1800, chance=ALWAYS)
        return is_gold(held), queue.submit(store, held.id, rater, rank_by_text(held)).outcome

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(work, rater_ids)) == {(True, "counted")}
    with store.read() as conn:
        [gold] = conn.execute(sa.select(comparisons).where(comparisons.c.is_gold.is_(True))).all()
        filled = sa.select(places.c.n, places.c.reserved_for).where(places.c.comparison_id == gold.id)
        rows = conn.execute(filled).all()
    assert len({row.n for row in rows}) == len(rows)
    assert {row.reserved_for for row in rows} == set(rater_ids)


def test_each_side_of_a_gold_stands_first_for_half_of_its_raters(store, add_comparisons, add_raters):
    add_comparisons(store, 2, overlap=6)
    golds.add_golds(store, "default", [gold_example("gold")])
    projects.change_project(store, "default", gold_every=2)
    for rater in add_raters(store, 6):
        [held] = queue.lease_many(store, rater, 1, seconds=1800, chance=ALWAYS)
        queue.submit(store, held.id, rater, rank_by_text(held))
    orders = Counter(j.order_shown for j in read_judgments(store))
    assert sorted(orders.values()) == [3, 3]


def test_a_gold_is_given_while_another_transaction_holds_its_comparison(store, add_comparisons, add_raters):
    """Whoever sends comparisons to a lead locks golds among them and then wants places: nobody waits for another."""
    if store.is_sqlite:
        pytest.skip("has one transaction at a time")
    add_comparisons(store, 2)
    golds.add_golds(store, "default", [gold_example("gold")])
    [gold] = golds.list_golds(store)
    projects.change_project(store, "default", gold_every=2)
    [ann] = add_raters(store, 1)
    with ThreadPoolExecutor(1) as pool, store.write() as conn:
        lock_comparison(conn, gold.comparison.id)
        given = pool.submit(queue.lease_many, store, ann, 1, seconds=1800, chance=ALWAYS)
        [held] = given.result(timeout=20)
    assert is_gold(held)


def test_a_filter_by_batch_or_tag_is_no_way_round_golds(store, add_comparisons, add_raters):
    prompt = Prompt.create((Message("user", "Of a batch?"),), {"topic": "work"})
    sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("yes", "no")]
    with store.write() as conn:
        insert_comparisons(store, conn, [Comparison.create(prompt, sides, batch="first", overlap=3)])
    golds.add_golds(store, "default", [gold_example(f"gold {i}") for i in range(2)])
    filters = ["batch", "tags.topic"]
    projects.change_project(store, "default", gold_every=2, rater_filters=filters)
    ann, bob, cyd = add_raters(store, 3)
    by_batch = TaskFilter(batch="first", by_rater=True)
    for rater, task_filter in ((ann, by_batch), (bob, TaskFilter(tags={"topic": "work"}, by_rater=True))):
        [held] = queue.lease_many(store, rater, 1, seconds=1800, chance=ALWAYS, task_filter=task_filter)
        assert is_gold(held)
    made = [gold_example("gold to qualify")]
    golds.add_golds(store, "default", made, purpose=GoldPurpose.QUALIFICATION)
    projects.change_project(store, "default", qualification=QualificationRule(1))
    asked = queue.lease(store, cyd, seconds=1800, task_filter=by_batch)
    assert asked.comparison.prompt.messages[0].text == "gold to qualify"


def test_a_late_answer_to_a_hidden_gold_leaves_no_place_and_others_follow(with_golds):
    store, (ann, _) = with_golds
    projects.change_project(store, "default", gold_every=20)
    now = utc_now()
    [late] = queue.lease_many(store, ann, 1, seconds=60, chance=ALWAYS, now=now)
    people.change_rater(store, "rater 0", paused=True)
    now += timedelta(hours=1)
    assert queue.submit(store, late.id, ann, rank_by_text(late), now=now).outcome == "surplus"
    people.change_rater(store, "rater 0", paused=False)
    [held] = queue.lease_many(store, ann, 1, seconds=60, chance=ALWAYS, now=now)
    assert is_gold(held)
    assert held.comparison != late.comparison


def test_golds_are_listed_ended_and_taken_up_again(with_golds):
    store, (ann, _) = with_golds
    listed = golds.list_golds(store)
    assert {g.comparison.prompt.messages[0].text for g in listed} == {"gold 0", "gold 1", "gold 2"}
    [held] = queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS)
    queue.release(store, held.id, ann)
    assert golds.end_golds(store, "default", [g.comparison.id for g in listed]) == 3
    assert golds.list_golds(store) == []
    assert len(golds.list_golds(store, ended=True)) == 3
    [other] = queue.lease_many(store, ann, 1, seconds=1800, chance=ALWAYS)
    assert not is_gold(other), "neither a new one nor the one that was given back"
    assert golds.add_golds(store, "default", [gold_example("gold 0", reverse=True)]) == 0
    [again] = golds.list_golds(store)
    assert again.comparison.find_completion(again.answer.ranking[0][0]).text.endswith("side 1")
    with pytest.raises(NotFound, match="x_nothing"):
        golds.end_golds(store, "default", ["x_nothing"])


def test_what_cannot_be_gold_is_refused_and_nothing_is_kept(store):
    with pytest.raises(BadInput, match="each pair once"):
        golds.add_golds(store, "default", [gold_example("a"), gold_example("a", reverse=True)])
    with pytest.raises(NotFound):
        golds.add_golds(store, "nowhere", [gold_example("a")])
    with pytest.raises(BadInput, match="gold every 1"):
        projects.change_project(store, "default", gold_every=1)
    assert golds.list_golds(store) == []


def test_the_training_pairs_of_llmfao_are_golds(sqlite_store, shared_data):
    pairs = read_tutorial(shared_data / "llmfao" / "pairs-crowd-training.jsonl")
    assert golds.add_golds(sqlite_store, "default", pairs) == len(pairs) > 0


def test_a_prompt_that_came_with_a_gold_keeps_its_family_in_one_split(store, add_comparisons):
    golds.add_golds(store, "default", [gold_example("Question 0?")])
    [comparison] = add_comparisons(store, 1)
    with store.write() as conn:
        assert insert_prompts(store, conn, [comparison.prompt]) == 0
