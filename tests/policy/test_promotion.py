"""Promotion by raters: what is asked, what counts, when it is decided, and what stays blind."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from command_line import run_command
from forked_processes import ForkedProcess
from judge_server import fail, say, serve_judge
from rlhf_hitl.endpoints import client
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.policy.completion_files import open_completion_file
from rlhf_hitl.policy.model_drawer import ModelDrawer
from rlhf_hitl.policy.promotion import PromotionSettings, refuse_learnt_prompts, start_promotion
from rlhf_hitl.policy.promotion_votes import (
    end_promotion,
    look_at_promotion,
    say_progress,
    wait_for_decision,
    watch_promotions,
)
from rlhf_hitl.policy.sources import find_policy
from rlhf_hitl.policy.win_predictions import predict_win_rates
from rlhf_hitl.simulate import judge_queue
from rlhf_hitl.stats.sequential import WinRateTest, make_controls, weigh_outcomes
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_completions, insert_prompts, list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.policies import PolicyMethod, list_policies
from rlhf_hitl.store.policy_changes import count_hidden_prompts, count_shared_prompts, find_changes
from rlhf_hitl.store.promotions import (
    AnsweredPrompt,
    close_what_was_held,
    find_asked_prompts,
    get_promotion,
    list_promotions,
    open_promotion,
    read_draws,
    read_gate_votes,
)
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.tables import places, projects
from rlhf_hitl.types import Answer, Comparison, Completion, Message, OverlapRule, Prompt, Role, Split, Verdict
from rlhf_hitl.types.promotions import Decision

SETTINGS = {"least_gain": 0.1, "alpha": 0.05, "beta": 0.1, "overlap": 1}


def answer(prompt: Prompt, policy: str, text: str) -> Completion:
    return Completion.create(prompt.id, (Message("assistant", text),), policy)


def draw(count: int, *, judged: int | None = None, same: tuple[int, ...] = (), predictions=None, tags=None):
    """Return answered prompts of which some have the same text twice; those after `judged` are fresh."""
    drawn = []
    for i in range(count):
        tag = {} if tags is None else tags[i]
        prompt = Prompt.create((Message("user", f"What is {i}?"),), tag, Split.HELDOUT)
        new = answer(prompt, "tuned", "the same" if i in same else f"new {i}")
        old = answer(prompt, "base-one", "the same" if i in same else f"old {i}")
        is_asked = i not in same and i < (count if judged is None else judged)
        comparison = Comparison.create(prompt, (new, old), 0) if is_asked else None
        drawn.append(AnsweredPrompt(prompt, new, old, comparison, None if predictions is None else predictions[i]))
    return drawn


def open_one(store, drawn, *, judged: int | None = None, settings=None, **more):
    with store.write() as conn:
        insert_prompts(store, conn, [d.prompt for d in drawn])
    settings = SETTINGS | (settings or {}) | {"judged": len(drawn) if judged is None else judged}
    settings["overlap"] = more.get("overlap", 1)
    return open_promotion(
        store, new_policy="tuned", old_policy="base-one", drawn=drawn, settings=settings, counts={}, **more
    )


def judge(store, rater: str, choose=lambda n: "new", count: int = 1) -> list[str]:
    """Let a rater answer what comes next: by the number of the prompt new, old, tie, skip or flag."""
    ids = []
    for _ in range(count):
        if (lease := queue.lease(store, rater, seconds=600)) is None:
            break
        submit(store, lease, rater, choose)
        ids.append(lease.comparison.id)
    return ids


def submit(store, lease, rater: str, choose) -> None:
    n = int(lease.comparison.prompt.messages[0].text.split()[-1].rstrip("?"))
    new, old = sorted(lease.comparison.completions, key=lambda c: c.policy != "tuned")
    said = choose(n)
    rankings = {"new": ((new.id,), (old.id,)), "old": ((old.id,), (new.id,)), "tie": ((new.id, old.id),)}
    if said in rankings:
        given = Answer(Verdict.RANKED, rankings[said])
    else:
        given = Answer({"skip": Verdict.SKIPPED, "flag": Verdict.FLAGGED, "bad": Verdict.ALL_BAD}[said])
    queue.submit(store, lease.id, rater, given)


def count_open_places(store) -> int:
    with store.read() as conn:
        return conn.execute(
            sa.select(sa.func.count()).select_from(places).where(places.c.judgment_id.is_(None))
        ).scalar_one()


def test_answers_that_raters_are_asked_about_are_not_shown_before_and_after_until_that_is_decided(store):
    drawn = draw(3, same=(1,))
    opened = open_one(store, drawn)
    with store.write() as conn:
        insert_completions(store, conn, [c for d in drawn for c in (d.new, d.old)])
    shown = [c.prompt.id for c in find_changes(store, "base-one", "tuned").changes]
    assert shown == [drawn[1].prompt.id], "nobody is asked about what is the same"
    assert (count_shared_prompts(store, "tuned", "base-one"), count_hidden_prompts(store, "tuned", "base-one")) == (
        1,
        2,
    )
    assert count_hidden_prompts(store, "tuned", "another") == 0
    end_promotion(store, opened.id, "for the test")
    assert len(find_changes(store, "base-one", "tuned").changes) == 3
    assert count_hidden_prompts(store, "base-one", "tuned") == 0


def test_a_better_policy_is_promoted_as_soon_as_it_is_shown_and_free_places_close(store):
    ann, bob = (people.add_rater(store, name, Role.RATER).id for name in ("ann", "bob"))
    gate = open_one(store, draw(60, same=(2, 5)))
    order = [d.comparison_id for d in read_draws(store, gate.id) if d.comparison_id]
    held = None
    for n in range(60):
        gate = look_at_promotion(store, gate.id)
        if not gate.is_open:
            break
        if n == 4:
            held = queue.lease(store, bob, seconds=600)
        judge(store, ann)
    assert held is not None
    # Bob holds the fifth: what comes after it waits for him, however many there are.
    assert gate.is_open
    assert gate.outcomes == 6, "four that ann judged, and two of the same text"
    assert count_open_places(store) == 1
    submit(store, held, bob, lambda n: "new")
    gate = look_at_promotion(store, gate.id)
    expected = weigh_outcomes(np.array([0.5 if n in (2, 5) else 1.0 for n in range(60)]), WinRateTest())
    assert (gate.decision, gate.outcomes) == (Decision.PROMOTE, expected.decided_after)
    assert gate.low >= 0.5
    assert gate.counts["same_text"] == 2
    assert gate.counts["won"] == gate.outcomes - 2
    assert gate.is_promoted
    assert "shown to win more than half" in gate.reason
    assert [j.comparison_id for j in read_judgments(store)][:4] == order[:4], "in the order of the draw"
    assert look_at_promotion(store, gate.id) == gate, "what is decided stays"


def test_what_is_held_when_it_is_decided_stays_and_does_not_count(store):
    ann, bob = (people.add_rater(store, name, Role.RATER).id for name in ("ann", "bob"))
    gate = open_one(store, draw(60))
    judge(store, ann, count=20)
    held = queue.lease(store, bob, seconds=600)
    gate = look_at_promotion(store, gate.id)
    assert gate.decision is Decision.PROMOTE
    assert count_open_places(store) == 1, "the one that bob holds"
    submit(store, held, bob, lambda n: "old")
    assert watch_promotions(store) == []
    assert get_promotion(store, gate.id) == gate
    assert [j.surplus for j in read_judgments(store)] == [False] * 21, "it is a vote, which came late"
    assert queue.lease(store, ann, seconds=60) is None


def test_a_place_that_is_given_back_after_the_decision_closes(store):
    ann, bob = (people.add_rater(store, name, Role.RATER).id for name in ("ann", "bob"))
    gate = open_one(store, draw(60))
    judge(store, ann, count=20)
    held = queue.lease(store, bob, seconds=600)
    look_at_promotion(store, gate.id)
    assert held is not None
    queue.release(store, held.id, bob)
    watch_promotions(store)
    assert count_open_places(store) == 0


def test_a_worse_policy_is_rejected_with_fewer_judgments_than_one_that_is_no_better(store):
    ann = people.add_rater(store, "ann", Role.RATER).id
    gate = open_one(store, draw(60))
    judge(store, ann, lambda n: "old", count=60)
    gate = look_at_promotion(store, gate.id)
    assert gate.decision is Decision.REJECT
    assert gate.outcomes < 20
    assert gate.high < 0.6
    assert not gate.is_promoted
    assert gate.judgments == 60, "all that were given, though fewer were needed"


def test_skips_flags_and_both_bad_count_as_half_and_are_named(store):
    ann = people.add_rater(store, "ann", Role.RATER).id
    gate = open_one(store, draw(6))
    said = ["new", "skip", "flag", "tie", "bad", "old"]
    judge(store, ann, lambda n: said[n], count=6)
    gate = look_at_promotion(store, gate.id)
    names = ("won", "skipped", "flagged", "tied", "lost")
    assert [gate.counts[name] for name in names] == [1, 1, 1, 2, 1]
    assert gate.win_rate == 0.5
    assert gate.decision is Decision.UNDECIDED
    assert "no prompt is left to ask about" in gate.reason
    assert not gate.is_open


def test_only_people_count_unless_the_promotion_is_simulated(store):
    gate = open_one(store, draw(8))
    assert judge_queue(store, 8) == 8
    gate = look_at_promotion(store, gate.id)
    assert gate.counts["without_vote"] == 8
    assert (gate.judgments, gate.win_rate, gate.decision) == (0, 0.5, Decision.UNDECIDED)
    later = draw(16)[8:]
    simulated = open_one(store, later, simulated=True)
    done = wait_for_decision(store, simulated.id, lambda _: judge_queue(store, 1) > 0)
    assert done.counts["without_vote"] == 0
    assert done.judgments == 8
    assert "simulated raters" in done.reason
    assert "simulated raters" in say_progress(done)


def test_several_raters_judge_each_comparison_and_an_outcome_is_their_mean(store):
    ann, bob = (people.add_rater(store, name, Role.RATER).id for name in ("ann", "bob"))
    gate = open_one(store, draw(3), overlap=2)
    judge(store, ann, lambda n: "new", count=3)
    assert look_at_promotion(store, gate.id).outcomes == 0, "each waits for a second rater"
    judge(store, bob, lambda n: ["new", "tie", "old"][n], count=3)
    gate = look_at_promotion(store, gate.id)
    assert (gate.outcomes, gate.judgments) == (3, 6)
    assert gate.win_rate == pytest.approx((1 + 0.75 + 0.5) / 3)


def test_a_rule_for_overlap_asks_for_no_more_votes_of_a_promotion(store):
    rule = OverlapRule(least=2, most=5).to_plain()
    with store.write() as conn:
        conn.execute(projects.update().values(overlap_rule=rule))
    ann = people.add_rater(store, "ann", Role.RATER).id
    gate = open_one(store, draw(3))
    judge(store, ann, lambda n: ["new", "old", "tie"][n], count=3)
    assert count_open_places(store) == 0
    assert look_at_promotion(store, gate.id).outcomes == 3


def test_an_open_promotion_is_not_routed_and_the_model_does_not_score_it(judged_store, trained_model):
    from rlhf_hitl.routing.router import RoutingConfig, route_pool
    from rlhf_hitl.routing.scoring import score_pool

    gate = open_one(judged_store, draw(4))
    own = [d.comparison_id for d in read_draws(judged_store, gate.id)]
    score_pool(judged_store, trained_model)
    routed = route_pool(judged_store, trained_model, RoutingConfig(max_error=0.4, delta=0.5))
    assert not {d.comparison_id for d in routed.decisions} & set(own)
    with judged_store.read() as conn:
        positions = conn.execute(
            sa.select(places.c.position).where(judged_store.among(places.c.comparison_id, own))
        ).scalars()
        assert sorted(positions) == [0, 1, 2, 3], "ahead of all others"


def test_beside_other_work_comparisons_come_up_among_it(store, add_comparisons):
    add_comparisons(store, 8)
    ann = people.add_rater(store, "ann", Role.RATER).id
    gate = open_one(store, draw(4), ahead=False)
    own = {d.comparison_id for d in read_draws(store, gate.id)}
    seen = []
    while (lease := queue.lease(store, ann, seconds=600)) is not None:
        seen.append(lease.comparison.id in own)
        queue.submit(store, lease.id, ann, Answer(Verdict.SKIPPED))
    assert sum(seen) == 4
    assert sum(seen[: len(seen) // 2]) in (1, 2, 3), "neither all first nor all last"


def test_a_rater_is_shown_nothing_that_names_a_policy_or_the_promotion(sqlite_store, add_comparisons, tmp_path):
    from rlhf_hitl.config import Settings
    from rlhf_hitl.ui.rating_request import PageRequest
    from rlhf_hitl.ui.rating_service import RatingService

    ann = people.add_rater(sqlite_store, "ann", Role.RATER)
    open_one(sqlite_store, draw(1))
    add_comparisons(sqlite_store, 1)
    service = RatingService(sqlite_store, Settings(store=sqlite_store.url, workspace=tmp_path), ann)
    of_gate, other = service.open(PageRequest())["cards"]
    shown = json.dumps(of_gate)
    assert not [word for word in ("tuned", "base-one", "promotion", "gate") if word in shown]
    assert of_gate.keys() == other.keys()
    assert not of_gate["alike"]


def test_predictions_are_corrected_for_by_prompts_that_nobody_judges(store):
    ann = people.add_rater(store, "ann", Role.RATER).id
    rng = np.random.default_rng(0)
    predictions = rng.random(80)
    add_reward_model(store, RewardModelRecord("rm_one", "head", "nowhere", "backbone", "hash", simulated=False))
    drawn = draw(80, judged=20, predictions=predictions)
    gate = open_one(store, drawn, judged=20, reward_model_id="rm_one")
    said = ["new" if p > 0.4 else "old" for p in predictions]
    judge(store, ann, lambda n: said[n], count=20)
    gate = look_at_promotion(store, gate.id)
    outcomes = np.array([float(s == "new") for s in said[: gate.outcomes]])
    expected = weigh_outcomes(outcomes, WinRateTest(), make_controls(predictions, 20))
    assert gate.win_rate == pytest.approx(expected.win_rate)
    assert gate.win_rate != pytest.approx(outcomes.mean())


def test_a_tag_that_loses_is_reported_with_the_length_controlled_win_rate(store):
    ann = people.add_rater(store, "ann", Role.RATER).id
    tags = [{"topic": "maths" if i % 3 == 0 else "poems"} for i in range(90)]
    gate = open_one(store, draw(90, tags=tags))
    said = ["old" if i % 3 == 0 else "tie" for i in range(90)]
    judge(store, ann, lambda n: said[n], count=90)
    gate = look_at_promotion(store, gate.id)
    assert gate.decision is Decision.REJECT
    assert gate.tags[0]["tag"] == "topic=maths"
    assert gate.length_controlled is not None
    assert 0 < gate.length_controlled["low"] < gate.length_controlled["high"] < 1
    assert list_promotions(store) == [gate]


def test_two_promotions_of_the_same_policies_are_not_open_at_once(store):
    gate = open_one(store, draw(2))
    with pytest.raises(Conflict, match="promotion 1"):
        open_one(store, draw(4)[2:])
    ended = end_promotion(store, gate.id, "called off by a lead")
    assert ended.decision is Decision.UNDECIDED
    assert "called off by a lead" in ended.reason
    assert count_open_places(store) == 0
    with pytest.raises(NotFound):
        get_promotion(store, 7)


def test_a_policy_that_was_trained_again_under_its_name_may_be_asked_about_the_same_prompts(store):
    drawn, weights = draw(3, same=(1,)), {"new_weights": "a", "old_weights": "b"}
    gate = open_one(store, drawn, settings=weights)
    assert find_asked_prompts(store, "tuned", "base-one", weights) == set(), "nobody has judged one"
    judge(store, people.add_rater(store, "ann", Role.RATER).id, count=2)
    end_promotion(store, gate.id, "")
    asked = {drawn[0].prompt.id, drawn[2].prompt.id}
    assert find_asked_prompts(store, "tuned", "base-one", weights) == asked
    for name in weights:
        assert find_asked_prompts(store, "tuned", "base-one", weights | {name: "another"}) == set()
    assert find_asked_prompts(store, "tuned", "base-one", {}) == asked, "of earlier versions the name is all there is"
    assert find_asked_prompts(store, "base-one", "tuned", {}) == set()


def test_what_nobody_judged_is_asked_again_and_its_places_stay_open(store):
    """The second promotion has the first one's answers, for nothing about the policies has changed."""
    drawn, rater = draw(4), people.add_rater(store, "ann", Role.RATER)
    first = open_one(store, drawn)
    judged = judge(store, rater.id)
    end_promotion(store, first.id, "")
    assert count_open_places(store) == 0
    left = [d for d in drawn if d.comparison.id not in judged]
    assert find_asked_prompts(store, "tuned", "base-one", {}) == {d.prompt.id for d in drawn} - {
        d.prompt.id for d in left
    }
    second = open_one(store, left)
    assert close_what_was_held(store) == 0
    assert count_open_places(store) == 3
    assert len(judge(store, rater.id, count=9)) == 3
    assert len(read_gate_votes(store, second.id, simulated=False).of) == 3


# --- with real policies


def start(store, new, old, settings, folder, **more):
    sources = find_policy(str(new)), find_policy(str(old))
    return start_promotion(store, *sources, settings, workspace=folder / "work", **more)


@pytest.fixture
def heldout(sqlite_store):
    prompts = [
        Prompt.create((Message("user", f"please write about the sea {i}"),), {}, Split.HELDOUT) for i in range(9)
    ]
    with sqlite_store.write() as conn:
        insert_prompts(sqlite_store, conn, prompts)
    return sqlite_store


def test_both_policies_answer_once_and_an_empty_answer_counts(heldout, tiny_model, policy, tmp_path):
    settings = PromotionSettings(judged=6, max_new_tokens=6, temperature=1.0)
    gate = start(heldout, policy, tiny_model, settings, tmp_path)
    draws = read_draws(heldout, gate.id)
    assert len(draws) == 9
    assert [d.comparison_id is not None for d in draws] == [True] * 6 + [False] * 3
    assert (gate.counts["fresh"], gate.settings["judged"]) == (3, 6)
    compared = list(find_comparisons(heldout, source="promotion 1"))
    assert {frozenset(c.policy for c in x.completions) for x in compared} == {frozenset({policy.name, tiny_model.name})}
    # The same call goes on with it; other settings are refused.
    assert start(heldout, policy, tiny_model, settings, tmp_path) == gate
    with pytest.raises(BadInput, match=r"temperature 0\.5 for promotion 1, which is open"):
        start(heldout, policy, tiny_model, PromotionSettings(6, max_new_tokens=6, temperature=0.5), tmp_path)
    ann = people.add_rater(heldout, "ann", Role.RATER)
    lease = queue.lease(heldout, ann.id, seconds=60)
    assert lease is not None
    queue.submit(heldout, lease.id, ann.id, Answer(Verdict.SKIPPED))
    end_promotion(heldout, gate.id, "")
    # What was judged before is not asked again; what nobody judged is.
    again = start(heldout, policy, tiny_model, settings, tmp_path)
    assert (again.counts["judged_before"], again.settings["judged"], again.counts["fresh"]) == (1, 6, 2)
    asked = {d.comparison_id for d in read_draws(heldout, again.id) if d.comparison_id is not None}
    assert lease.comparison.id not in asked
    assert count_open_places(heldout) == 6


def test_a_policy_that_says_nothing_is_judged_on_it(heldout, tiny_model, policy, tmp_path):
    silent = make_silent(tiny_model, tmp_path / "silent")
    gate = start(heldout, silent, policy, PromotionSettings(max_new_tokens=6, temperature=0), tmp_path)
    assert gate.counts["empty_new"] == 9
    assert gate.settings["judged"] == 9
    done = wait_for_decision(heldout, gate.id, lambda _: False)
    assert done.decision is Decision.UNDECIDED
    assert "no rater has work left" in done.reason
    mute = make_silent(tiny_model, tmp_path / "mute")
    twice = start(heldout, silent, mute, PromotionSettings(temperature=0), tmp_path)
    done = look_at_promotion(heldout, twice.id)
    assert done.counts["same_text"] == 9
    assert not done.is_open, "nobody has to say that nothing is nothing"


def make_silent(tiny_model, folder):
    """Return a policy whose likeliest token is always the first one, which is no text."""
    from transformers import LlamaForCausalLM

    from rlhf_hitl.models import load_policy

    shutil.copytree(tiny_model, folder)
    config = load_policy(tiny_model).config
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)  # type: ignore[arg-type]
    model.lm_head.weight.data.zero_()
    model.save_pretrained(folder)
    return folder


def test_only_held_out_prompts_are_asked_and_none_that_a_policy_has_learnt_from(heldout, tiny_model, policy, tmp_path):
    from rlhf_hitl.reward.seen_prompts import SeenPrompts

    others = [Prompt.create((Message("user", f"hello {s}"),), {}, s) for s in (Split.TRAIN, Split.CALIBRATION)]
    with heldout.write() as conn:
        insert_prompts(heldout, conn, others)
    settings = PromotionSettings(judged=1, max_new_tokens=2)
    gate = start(heldout, policy, tiny_model, settings, tmp_path)
    asked = {d.prompt_id for d in read_draws(heldout, gate.id)}
    assert asked == {p.id for p in list_prompts(heldout, split=Split.HELDOUT)}
    learnt = shutil.copytree(tiny_model, tmp_path / "learnt")
    SeenPrompts.of([list_prompts(heldout, split=Split.HELDOUT)[0].family], is_complete=False).save(learnt)
    for new, old in ((learnt, policy), (policy, learnt)):
        with pytest.raises(BadInput, match="which policy learnt has learnt from"):
            start(heldout, new, old, settings, tmp_path)
    for prompt in others:
        with pytest.raises(BadInput, match=f"of the {prompt.split} split"):
            start(heldout, policy, tiny_model, settings, tmp_path, prompts=[prompt], round=1)
    with pytest.raises(BadInput, match="each policy once"):
        start(heldout, policy, policy, settings, tmp_path)


def test_a_prompt_that_the_reward_model_has_learnt_from_is_refused(judged_store, trained_model, tiny_model, policy):
    learnt = next(p for p in list_prompts(judged_store, split=Split.TRAIN) if p.family in trained_model.seen.train)
    taught = replace(learnt, split=Split.HELDOUT)
    with pytest.raises(BadInput, match="which the reward model has learnt from"):
        refuse_learnt_prompts([taught], find_policy(str(policy)), find_policy(str(tiny_model)), trained_model)


def promote(store, *flags):
    done = run_command("promote", "--store", store.url, "--no-reward-model", *flags, "--json")
    return done, json.loads(done.stdout)


def test_a_killed_promotion_goes_on_and_samples_nothing_twice(heldout, tiny_model, policy, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path / "work"))
    flags = ["--policy", policy, "--against", tiny_model, "--no-wait", "--max-new-tokens", "60"]
    words = ["promote", "--store", heldout.url, "--no-reward-model", *flags]
    with (tmp_path / "log").open("w") as log:
        process = ForkedProcess("rlhf_hitl", words, os.environ, [log.fileno()] * 2)
        give_up = time.monotonic() + 120
        while not (kept := read_journals(tmp_path / "work")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.kill()
    process.wait()
    assert list_promotions(heldout) == []
    kept, drawn, draw = read_journals(tmp_path / "work"), [], ModelDrawer.draw
    assert 1 <= len(kept) < 18

    def count(self, jobs, known):
        for job, made in draw(self, jobs, known):
            drawn.append((self.name, job.key))
            yield job, made

    monkeypatch.setattr(ModelDrawer, "draw", count)
    done, found = promote(heldout, *flags)
    assert (done.returncode, found["state"]) == (0, "open"), done.stderr
    assert "answers are there" in done.stderr or len(kept) == 9
    assert len(kept) + len(drawn) == 18 == len({*drawn}) + len(kept)
    compared = list(find_comparisons(heldout, source=f"promotion {found['id']}"))
    said = {c.text for x in compared for c in x.completions}
    assert {row["message"]["content"] for row in kept} <= said
    assert not list((tmp_path / "work").glob("sampling/*")), "nothing is left behind"


def read_journals(workspace) -> list[dict]:
    lines = [x for p in workspace.glob("sampling/*/*") for x in p.read_bytes().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def test_an_endpoint_stands_for_the_policy_in_use_and_is_asked_nothing_twice(heldout, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path / "work"))
    answered, breaks_after = [], [4]

    def say_once(body, _):
        if len(answered) >= breaks_after[0]:
            return fail(503, "going down")
        answered.append(body["messages"][-1]["content"])
        return say("" if len(answered) == 1 else "the same")

    new = write_answers(tmp_path / "new.jsonl", heldout, "written", lambda n: "the same" if n else "")
    with serve_judge(say_once) as (address, bodies):
        served = ["--endpoint", address, "--model", "served", "--concurrency", "1", "--price-out", "1"]
        done, found = promote(heldout, "--policy", new, *served, "--no-wait")
        assert done.returncode == 2
        assert "same command again" in found["error"]
        assert list_promotions(heldout) == []
        breaks_after[0] = 99
        done, found = promote(heldout, "--policy", new, *served, "--no-wait")
        assert done.returncode == 0, done.stderr
        assert "served: " in done.stderr
        refused, error = promote(heldout, "--against", new, *served)
        assert (refused.returncode, "stays as raters have judged it" in error["error"]) == (2, True)
        refused, error = promote(heldout, "--policy", new, "--against", new, *served)
        assert (refused.returncode, "one of them" in error["error"]) == (2, True)
    assert len(set(answered)) == len(answered) == 9
    assert (bodies[0]["temperature"], bodies[0]["top_p"]) == (0.7, 0.95)
    assert (found["new_policy"], found["old_policy"]) == ("written", "served")
    assert (found["counts"]["empty_new"], found["counts"]["empty_old"], found["counts"]["left_out"]) == (1, 1, 0)
    assert sum(d.comparison_id is None for d in read_draws(heldout, found["id"])) >= 7, "repeats are not filtered"
    lineage = {r.name: (r.method, r.path) for r in list_policies(heldout)}
    assert lineage == {
        "written": (PolicyMethod.IMPORT, "new.jsonl"), "served": (PolicyMethod.ENDPOINT, address)
    }  # fmt: skip


def test_files_of_answers_are_compared_and_exit_codes_say_what_came_of_it(heldout, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path / "work"))
    people.add_rater(heldout, "ann", Role.RATER)
    new = write_answers(tmp_path / "new.jsonl", heldout, "tuned", "new {}".format)
    old = write_answers(tmp_path / "old.jsonl", heldout, "base", "old {}".format, count=8)
    both = ["--policy", new, "--against", old]
    done, found = promote(heldout, *both, "--judgments", "5", "--no-wait")
    assert (done.returncode, found["state"], found["counts"]["left_out"]) == (0, "open", 1)
    assert (found["counts"]["fresh"], found["promoted"]) == (3, False)
    done, found = promote(heldout, *both, "--judgments", "5", "--no-wait")
    assert (done.returncode, found["id"]) == (0, 1), "a look at the same"
    ended = run_command("promote", "--store", heldout.url, "--end", "1", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["decision"]) == (0, "undecided")
    done, found = promote(heldout, *both, "--simulate")
    assert (done.returncode, found["decision"], found["outcomes"]) == (1, "undecided", 8), "nobody judged any before"
    done, found = promote(heldout, *both)
    assert (done.returncode, "0 held-out prompts" in found["error"]) == (2, True)
    twice = write_answers(tmp_path / "twice.jsonl", heldout, "twice", "one {}".format, "two {}".format)
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(new.read_text() + old.read_text())
    for flags, said in (
        (["--policy", twice, "--against", old], "one answer to each prompt"),
        (["--policy", mixed, "--against", old], "policy 'base': expected each policy once"),
        (["--policy", mixed, "--against", twice], "a file of one policy"),
        (["--policy", new, "--against", tmp_path / "none.jsonl"], "none.jsonl"),
        (["--policy", new, "--model", "m"], "--endpoint too"),
    ):
        done, found = promote(heldout, *flags)
        assert done.returncode == 2, flags
        assert said in found["error"]


def write_answers(path, store, policy, *texts, count=9):
    """Write a file with answers to the first held-out prompts, of each of `texts` (number of the prompt → text)."""
    with open_completion_file(path) as write:
        for n, prompt in enumerate(list_prompts(store, split=Split.HELDOUT)[:count]):
            write(prompt, [answer(prompt, policy, text(n)) for text in texts])
    return path


def test_a_reward_model_predicts_both_orders_alike_and_that_silence_loses(judged_store, trained_model):
    prompt = Prompt.create((Message("user", "hello"),), {}, Split.HELDOUT)
    a, b, silent = (answer(prompt, p, t) for p, t in (("a", "yes no"), ("b", "the sea and the sun"), ("c", "")))
    forward, backward, loses, wins, same = predict_win_rates(
        trained_model, [(prompt, a, b), (prompt, b, a), (prompt, silent, a), (prompt, a, silent), (prompt, a, a)]
    )
    assert forward == pytest.approx(1 - backward)
    assert 0 < forward < 1
    assert (loses, wins, same) == (0.0, 1.0, 0.5)
