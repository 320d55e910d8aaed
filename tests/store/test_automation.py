"""Automation and audits, on either database: paused, resumed, stopped, and what is accepted meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import StoreFailure, audit, audits, people, projects, queue
from rlhf_hitl.store.automation import (
    find_watch_start,
    list_changes,
    pause_automation,
    read_automation,
    resume_automation,
    say_state,
    stop_automation,
)
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings, ask_for_votes, read_routings
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.types import Answer, AuditOutcome, AutomationState, ErrorBound, Role, Route, Score, Verdict

BOUND = ErrorBound(0.1, 0.05)
MODEL = RewardModelRecord("rm_one", "head", "nowhere", "backbone", "hash", simulated=False)


def accept(store, comparisons, route=Route.AUDIT):
    """Have a model accept comparisons: it prefers the first completion of each."""
    add_reward_model(store, MODEL)
    insert_scores(store, [Score(c.id, MODEL.id, *(s.id for s in c.completions), 1.0, 0.5, 0.9) for c in comparisons])
    bound = BOUND if route is Route.AUDIT else None
    decisions = [Routing(c.id, route, Route.AUTO, "sure", reward_model_id=MODEL.id, bound=bound) for c in comparisons]
    return apply_routings(store, decisions)


def judge(store, rater: str, count: int = 1) -> list[str]:
    """Let a rater prefer the first completion, as the model does."""
    ids = []
    for _ in range(count):
        lease = queue.lease(store, rater, seconds=60)
        first, second = (c.id for c in lease.comparison.completions)
        queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((first,), (second,))))
        ids.append(lease.comparison.id)
    return ids


def test_a_project_runs_until_a_lead_pauses_it_and_again_when_one_resumes_it(store):
    lea = people.add_rater(store, "lea", Role.LEAD)
    by = audit.Actor(lea.id)
    assert read_automation(store) == {}
    paused = pause_automation(store, "default", " New  guideline. ", by=by)
    assert read_automation(store) == {"default": paused}
    assert (paused.state, paused.reason, paused.by) == (AutomationState.PAUSED, "New guideline.", lea.id)
    assert "is paused (by lea, " in say_state(store, paused)
    with pytest.raises(Conflict, match="paused already"):
        pause_automation(store, "default", "", by=by)
    resume_automation(store, "default", "", by=by)
    with pytest.raises(Conflict, match="running already"):
        resume_automation(store, "default", "", by=by)
    states = [c.state.value for c in list_changes(store, "default")]
    assert states == ["running", "paused"]
    done = [e.action for e in audit.list_entries(store) if e.action.startswith("automation")]
    assert done == ["automation.paused", "automation.resumed"]
    with pytest.raises(NotFound, match="'nowhere'"):
        pause_automation(store, "nowhere", "")
    with pytest.raises(BadInput, match="at most 500"):
        pause_automation(store, "default", "x" * 501)


def test_the_history_of_automation_is_never_changed(store):
    pause_automation(store, "default", "")
    for change in ("UPDATE automation SET reason = 'no'", "DELETE FROM automation"):
        with pytest.raises((StoreFailure, sa.exc.DBAPIError)), store.write() as conn:
            conn.exec_driver_sql(change)
    assert len(list_changes(store, "default")) == 1


def test_what_a_router_accepts_after_a_pause_goes_to_raters(store, add_comparisons, add_raters):
    projects.add_project(store, "other")
    made = add_comparisons(store, 4)
    pause_automation(store, "other", "")
    assert {d.route for d in accept(store, made[:2], Route.AUTO)} == {Route.AUTO}
    pause_automation(store, "default", "")
    applied = accept(store, made[2:])
    assert {(d.route, d.proposed) for d in applied} == {(Route.HUMAN, Route.HUMAN)}
    assert all("automation is paused" in d.reason for d in applied)
    assert audits.count_undecided(store, "default") == 0
    [rater] = add_raters(store, 1)
    assert set(judge(store, rater, 2)) == {c.id for c in made[2:]}, "what was accepted before stays so"


def test_of_several_who_pause_at_once_one_does(store):
    def pause(n: int) -> bool:
        try:
            return bool(pause_automation(store, "default", str(n)))
        except Conflict:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(pause, range(4))) == 1
    assert len(list_changes(store, "default")) == 1


def test_an_audit_is_accepted_and_judged_and_its_outcome_is_written_once(store, add_comparisons, add_raters):
    made = add_comparisons(store, 3)
    accept(store, made)
    assert audits.count_undecided(store, "default") == 3
    assert audits.list_judged_audits(store) == []
    [rater] = add_raters(store, 1)
    judged = judge(store, rater, 2)
    waiting = audits.list_judged_audits(store)
    assert {a.comparison_id for a in waiting} == set(judged)
    by_id = {c.id: c for c in made}
    assert all(a.chosen == by_id[a.comparison_id].completions[0].id for a in waiting)
    outcomes = {a.seq: AuditOutcome.RIGHT for a in waiting}
    assert audits.write_outcomes(store, outcomes) == 2
    assert audits.write_outcomes(store, dict.fromkeys(outcomes, AuditOutcome.WRONG)) == 0
    assert audits.list_judged_audits(store) == []
    decided = audits.read_outcomes(store, "default")
    assert [(d.number, d.outcome, d.bound) for d in decided] == [(n, AuditOutcome.RIGHT, BOUND) for n in (1, 2)]
    assert audits.read_outcomes(store, "other") == []
    assert audits.count_undecided(store, "default") == 1


def test_an_audit_that_is_decided_anew_before_it_is_judged_counts_for_the_newer_acceptance(store, add_comparisons):
    [comparison] = add_comparisons(store, 1)
    accept(store, [comparison])
    accept(store, [comparison])
    assert audits.count_undecided(store, "default") == 1
    newest = read_routings(store)[0]
    assert newest.route is Route.AUDIT
    apply_routings(store, [Routing(comparison.id, Route.HUMAN, Route.HUMAN, "unsure")])
    assert audits.count_undecided(store, "default") == 0


def test_an_audit_that_a_lead_sends_on_stays_one(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    accept(store, [comparison])
    ask_for_votes(store, [comparison.id], by=audit.CLI)
    [rater] = add_raters(store, 1)
    judge(store, rater)
    assert [a.comparison_id for a in audits.list_judged_audits(store)] == [comparison.id]


def test_a_stop_answers_the_audits_that_it_was_made_of_once(store, add_comparisons):
    made = add_comparisons(store, 2)
    accept(store, made[:1])
    assert find_watch_start(store, "default") == 0
    stop = stop_automation(store, "default", "error above 10 %", after_decision=0)
    assert stop is not None
    assert (stop.state, stop.by) == (AutomationState.STOPPED, "audits")
    assert stop_automation(store, "default", "again", after_decision=0) is None
    with pytest.raises(Conflict, match="stopped already"):
        pause_automation(store, "default", "")
    resume_automation(store, "default", "fixed")
    start = find_watch_start(store, "default")
    assert start > 0
    assert stop_automation(store, "default", "the same audits", after_decision=0) is None
    assert audits.count_undecided(store, "default", after_decision=start) == 0
    accept(store, made[1:])
    assert audits.count_undecided(store, "default", after_decision=start) == 1
    pause_automation(store, "default", "")
    resume_automation(store, "default", "")
    assert find_watch_start(store, "default") == start, "a pause does not forget what audits say"
    assert stop_automation(store, "default", "new ones", after_decision=start) is not None
