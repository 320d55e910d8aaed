"""A rater who wants more than is theirs: time that has not passed, a larger quota, a guideline that asks for less."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.store import Store, guidelines, judgments, people, projects, queue
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.queue.assignment import TaskFilter
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    Guideline,
    Message,
    Prompt,
    Role,
    Route,
    ShownAnswer,
    Verdict,
    utc_now,
)
from rlhf_hitl.ui import rating_service

RANKED = ShownAnswer(Answer(Verdict.RANKED, (("A",), ("B",)), 2))


@pytest.fixture
def filled(store: Store, add_comparisons) -> None:
    add_comparisons(store, 60, overlap=2)


def test_a_lease_that_ran_out_is_renewed_only_by_who_would_be_given_one(store, filled, add_raters):
    ann, bob, eve, joe = add_raters(store, 4)
    start = utc_now()
    held = {rater: queue.lease(store, rater, seconds=1, now=start) for rater in (ann, bob, eve, joe)}
    queue.lease_many(store, eve, 2, seconds=900, now=start)  # and one that goes on
    later = start + timedelta(seconds=5)
    people.change_rater(store, "rater 1", paused=True)
    people.change_rater(store, "rater 2", quota=1)
    for rater in (bob, eve):
        with pytest.raises(Conflict, match="it is over"):
            queue.renew(store, held[rater].id, rater, seconds=900, now=later)
    queue.renew(store, held[ann].id, ann, seconds=900, now=later)
    projects.change_project(store, "default", open=False)
    with pytest.raises(Conflict, match="it is over"):
        queue.renew(store, held[joe].id, joe, seconds=900, now=later)


def test_leases_that_are_given_back_are_no_way_around_a_quota(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    given_back = queue.lease_many(store, ann, 5, seconds=900)
    for lease in given_back:
        queue.release(store, lease.id, ann)
    people.change_rater(store, "rater 0", quota=3)
    outcomes = [queue.submit(store, lease.id, ann, RANKED).outcome for lease in given_back]
    assert outcomes == ["counted"] * 3 + ["surplus"] * 2


def test_what_a_lead_took_back_counts_no_more_on_the_page_once_the_quota_is_reached(store, filled, tmp_path):
    ann, settings = people.add_rater(store, "ann", Role.RATER), Settings(workspace=tmp_path)
    cards = rating_service.answer_call("open", store, settings, ann, {})["cards"]
    cards += rating_service.answer_call("open", store, settings, ann, {"have": [card["id"] for card in cards]})["cards"]
    for card in cards:
        queue.expire(store, card["id"])
    people.change_rater(store, "ann", quota=1)
    sent = [{"id": card["id"], "verdict": "ranked", "ranks": [1, 2], "strength": 2} for card in cards]
    outcomes = [rating_service.answer_call("submit", store, settings, ann, call)["outcome"] for call in sent]
    assert len(outcomes) > 1
    assert outcomes == ["counted"] + ["surplus"] * (len(outcomes) - 1)


def test_what_is_held_counts_when_a_quota_is_lowered(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    held = queue.lease_many(store, ann, 3, seconds=900)
    people.change_rater(store, "rater 0", quota=1)
    assert [queue.submit(store, lease.id, ann, RANKED).outcome for lease in held] == ["counted"] * 3
    assert queue.lease_many(store, ann, 3, seconds=900) == []


def test_a_lease_that_ran_out_is_not_renewed_for_what_a_model_has_accepted(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=1, now=utc_now() - timedelta(seconds=60))
    apply_routings(store, [Routing(lease.comparison.id, Route.AUTO, Route.AUTO, "hiddenreason")])
    with pytest.raises(Conflict, match="it is over"):
        queue.renew(store, lease.id, ann, seconds=900)


def test_time_that_has_not_passed_is_not_paid(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=900)
    answer = Answer(Verdict.RANKED, (("A",), ("B",)), 2, active_seconds=80_000.0)
    queue.submit(store, lease.id, ann, ShownAnswer(answer))
    [judgment] = judgments.read_judgments(store)
    assert judgment.answer.active_seconds is not None
    assert 0 <= judgment.answer.active_seconds < 60


def test_time_is_paid_once_however_many_are_held_and_however_often_they_are_corrected(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    start = utc_now() - timedelta(seconds=100)
    leases = queue.lease_many(store, ann, 5, seconds=900, now=start)
    answer = Answer(Verdict.RANKED, (("A",), ("B",)), 2, active_seconds=40.0)
    ids = [queue.submit(store, lease.id, ann, ShownAnswer(answer)).judgment_id for lease in leases]
    paid = [j.answer.active_seconds for j in judgments.read_judgments(store)]
    assert paid[:2] == [40, 40], "two that waited in a browser and come together"
    assert 99 < sum(paid) < 130
    again = replace(answer, strength=1, active_seconds=50_000.0)
    queue.correct(store, ids[0], ann, ShownAnswer(again), idempotency_key="again")
    assert sum(j.answer.active_seconds for j in judgments.read_judgments(store)) < 160


def test_time_is_paid_once_however_many_judgments_were_made_since(store, filled, add_raters):
    """One comparison is held while more judgments are made than are looked at at once."""
    [ann] = add_raters(store, 1)
    start = utc_now() - timedelta(seconds=5_600)
    held = queue.lease(store, ann, seconds=86_000, now=start)
    for i in range(55):
        at = start + timedelta(seconds=100 * i)
        lease = next(one for one in queue.lease_many(store, ann, 2, seconds=200, now=at) if one.id != held.id)
        sent = ShownAnswer(replace(RANKED.answer, active_seconds=100.0))
        queue.submit(store, lease.id, ann, sent, now=at + timedelta(seconds=100))
    queue.submit(store, held.id, ann, ShownAnswer(replace(RANKED.answer, active_seconds=5_600.0)))
    times = [j.answer.active_seconds for j in judgments.read_judgments(store)]
    assert sum(times[:-1]) == pytest.approx(5_500, abs=0.1)
    assert times[-1] < 160, "what is left of the time"


def test_corrections_claim_the_time_that_they_add(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    start = utc_now() - timedelta(seconds=1_000)
    first, *others = queue.lease_many(store, ann, 3, seconds=86_000, now=start)
    claim = ShownAnswer(replace(RANKED.answer, active_seconds=86_399.0))
    id = queue.submit(store, first.id, ann, RANKED, now=start).judgment_id
    for i in range(50):
        id = queue.correct(store, id, ann, claim, idempotency_key=f"again {i}").judgment_id
    for lease in others:
        queue.submit(store, lease.id, ann, claim)
    corrected = {j.supersedes for j in judgments.read_judgments(store)}
    kept = sum(j.answer.active_seconds or 0 for j in judgments.read_judgments(store) if j.id not in corrected)
    assert 999 < kept < 1_100


def test_lapsed_leases_do_not_come_on_top_of_what_is_held(store, add_raters):
    made = []
    for i in range(10):
        prompt = Prompt.create((Message("user", f"Question {i}?"),), {"language": ("en", "de")[i % 2]})
        answers = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("one", "two")]
        made.append(Comparison.create(prompt, answers))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    [ann] = add_raters(store, 1)
    people.change_rater(store, "rater 0", quota=5)
    start = utc_now()
    later = start + timedelta(seconds=5)
    lapsed = queue.lease_many(store, ann, 5, seconds=1, now=start, task_filter=TaskFilter(language="en"))
    held = queue.lease_many(store, ann, 5, seconds=900, now=later, task_filter=TaskFilter(language="de"))
    outcomes = [queue.submit(store, lease.id, ann, RANKED, now=later).outcome for lease in (*lapsed, *held)]
    assert outcomes == ["surplus"] * 5 + ["counted"] * 5


def test_a_lease_is_not_renewed_for_what_its_rater_has_judged(store, add_comparisons, add_raters):
    ann, bob = add_raters(store, 2)
    add_comparisons(store, 1, overlap=3)
    start = utc_now()
    [of_bob] = queue.lease_many(store, bob, 1, seconds=900, now=start)
    [of_ann] = queue.lease_many(store, ann, 1, seconds=1, now=start)
    queue.release(store, of_bob.id, bob)
    later = start + timedelta(seconds=5)
    assert queue.submit(store, of_ann.id, ann, RANKED, now=later).outcome == "counted"
    with pytest.raises(Conflict, match="it is over"):
        queue.renew(store, of_ann.id, ann, seconds=80_000, now=later)
    assert queue.lease(store, bob, seconds=900, now=later) is not None


def test_corrections_have_an_end(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=900)
    id = queue.submit(store, lease.id, ann, RANKED).judgment_id
    for i in range(50):
        answer = ShownAnswer(Answer(Verdict.RANKED, (("A",), ("B",)), i % 3 + 1))
        id = queue.correct(store, id, ann, answer, idempotency_key=f"again {i}").judgment_id
    with pytest.raises(Conflict, match="corrected 50 times"):
        queue.correct(store, id, ann, RANKED, idempotency_key="once more")


def test_a_reason_that_cannot_be_seen_is_none(store, filled, add_raters):
    guidelines.publish_guideline(store, Guideline("default", "strict", "Say why.", rationale="required"))
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=900)
    for rationale in ("\u200b\u200d", " \u3164\u00a0", "\u2800", "\ufe0f\U000e0041"):
        with pytest.raises(BadInput, match="rationale"):
            queue.submit(store, lease.id, ann, ShownAnswer(replace(RANKED.answer, rationale=rationale)))


def test_scores_are_of_the_axes_of_the_guideline(store, filled, add_raters):
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=900)
    scored = replace(RANKED.answer, scores={"made up": {"A": 1, "B": 5}})
    with pytest.raises(BadInput, match=r"scores of \['made up'\]: expected .*helpful"):
        queue.submit(store, lease.id, ann, ShownAnswer(scored))


def test_who_skips_has_written_no_better_answer(store, filled, add_raters, tmp_path):
    [ann] = add_raters(store, 1)
    for verdict in (Verdict.SKIPPED, Verdict.FLAGGED, Verdict.ALL_BAD):
        lease = queue.lease(store, ann, seconds=900)
        queue.submit(store, lease.id, ann, ShownAnswer(Answer(verdict, rewrite=f"Better than {verdict.value}.")))
    queue.submit(store, queue.lease(store, ann, seconds=900).id, ann, RANKED)  # without a pair there is no snapshot
    manifest = export_snapshot(store, tmp_path / "snapshot", format="jsonl")
    assert sum(manifest["demonstrations"].values()) == 1
    assert manifest["filters"]["rewrite without a judgment"] == 2


@pytest.fixture
def strict(store: Store, filled, add_raters) -> tuple[str, Any]:
    """A rater and a lease under a guideline that requires scores."""
    guidelines.publish_guideline(store, Guideline("default", "loose", "Anything goes."))
    guidelines.publish_guideline(store, Guideline("default", "strict", "Score.", scores="required"))
    [ann] = add_raters(store, 1)
    return ann, queue.lease(store, ann, seconds=1800)


@pytest.mark.parametrize("version", ["made up", "loose", "1", "strict ", "default"])
def test_required_scores_are_not_skipped_by_naming_another_guideline(store, strict, version):
    ann, lease = strict
    answer = ShownAnswer(Answer(Verdict.RANKED, (("A",), ("B",)), 2))
    with pytest.raises(BadInput, match=r"guideline_version|scores of"):
        queue.submit(store, lease.id, ann, answer, guideline_version=version)


def test_a_later_guideline_of_the_project_may_be_named_and_is_held_to(store, strict):
    ann, lease = strict
    guidelines.publish_guideline(store, Guideline("default", "stricter", "Say why.", rationale="required"))
    answer = ShownAnswer(Answer(Verdict.RANKED, (("A",), ("B",)), 2))
    with pytest.raises(BadInput, match="rationale"):
        queue.submit(store, lease.id, ann, answer, guideline_version="stricter")
    given = ShownAnswer(Answer(Verdict.RANKED, (("A",), ("B",)), 2, rationale="It is right."))
    assert queue.submit(store, lease.id, ann, given, guideline_version="stricter").outcome == "counted"


@pytest.mark.parametrize("shown", [True, False], ids=["in letters", "in ids"])
def test_what_is_missing_is_named_by_letter(store, strict, shown):
    ann, lease = strict
    names = ("A", "B") if shown else lease.order_shown
    answer = Answer(Verdict.RANKED, ((names[0],), (names[1],)), 2, scores={"helpful": {names[0]: 3}})
    with pytest.raises(BadInput, match="missing: \\['B'\\]") as refused:
        queue.submit(store, lease.id, ann, ShownAnswer(answer) if shown else answer)
    assert not re.search(r"[cpx]_[0-9a-f]{8}", str(refused.value))
