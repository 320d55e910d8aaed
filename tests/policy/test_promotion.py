"""Promotion by raters: what is asked, what counts, when it is decided, and what stays blind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.policy.promotion import PromotionSettings, start_promotion
from rlhf_hitl.policy.promotion_votes import (
    end_promotion,
    look_at_promotion,
    say_progress,
    wait_for_decision,
    watch_promotions,
)
from rlhf_hitl.policy.win_predictions import predict_win_rates
from rlhf_hitl.simulate import judge_queue
from rlhf_hitl.stats.sequential import WinRateTest, make_controls, weigh_outcomes
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_completions, insert_prompts
from rlhf_hitl.store.judgments import read_judgments
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
    gate = start_promotion(heldout, str(policy), str(tiny_model), settings)
    draws = read_draws(heldout, gate.id)
    assert len(draws) == 9
    assert [d.comparison_id is not None for d in draws] == [True] * 6 + [False] * 3
    assert (gate.counts["fresh"], gate.settings["judged"]) == (3, 6)
    compared = list(find_comparisons(heldout, source="promotion 1"))
    assert {frozenset(c.policy for c in x.completions) for x in compared} == {frozenset({policy.name, tiny_model.name})}
    # The same call goes on with it; other settings are refused.
    assert start_promotion(heldout, str(policy), str(tiny_model), settings) == gate
    with pytest.raises(BadInput, match=r"temperature 0\.5 for promotion 1, which is open"):
        start_promotion(heldout, str(policy), str(tiny_model), PromotionSettings(6, max_new_tokens=6, temperature=0.5))
    ann = people.add_rater(heldout, "ann", Role.RATER)
    lease = queue.lease(heldout, ann.id, seconds=60)
    assert lease is not None
    queue.submit(heldout, lease.id, ann.id, Answer(Verdict.SKIPPED))
    end_promotion(heldout, gate.id, "")
    # What was judged before is not asked again; what nobody judged is.
    again = start_promotion(heldout, str(policy), str(tiny_model), settings)
    assert (again.counts["judged_before"], again.settings["judged"], again.counts["fresh"]) == (1, 6, 2)
    asked = {d.comparison_id for d in read_draws(heldout, again.id) if d.comparison_id is not None}
    assert lease.comparison.id not in asked
    assert count_open_places(heldout) == 6


def test_a_policy_that_says_nothing_is_judged_on_it(heldout, tiny_model, policy, tmp_path):
    silent = make_silent(tiny_model, tmp_path / "silent")
    gate = start_promotion(heldout, str(silent), str(policy), PromotionSettings(max_new_tokens=6, temperature=0))
    assert gate.counts["empty_new"] == 9
    assert gate.settings["judged"] == 9
    done = wait_for_decision(heldout, gate.id, lambda _: False)
    assert done.decision is Decision.UNDECIDED
    assert "no rater has work left" in done.reason
    twice = start_promotion(
        heldout, str(silent), str(make_silent(tiny_model, tmp_path / "mute")), PromotionSettings(temperature=0)
    )
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


def test_prompts_that_a_model_has_learnt_from_are_refused(heldout, tiny_model, policy, tmp_path):
    from rlhf_hitl.reward.seen_prompts import SeenPrompts
    from rlhf_hitl.store.comparisons import list_prompts

    learnt = shutil.copytree(tiny_model, tmp_path / "learnt")
    family = list_prompts(heldout)[0].family
    SeenPrompts.of([family], is_complete=False).save(learnt)
    with pytest.raises(BadInput, match="has learnt from"):
        start_promotion(heldout, str(learnt), str(policy), PromotionSettings())
    train = Prompt.create((Message("user", "hello"),), {}, Split.TRAIN)
    with pytest.raises(BadInput, match="of the train split"):
        start_promotion(heldout, str(policy), str(tiny_model), PromotionSettings(), prompts=[train])
    with pytest.raises(BadInput, match="against itself"):
        start_promotion(heldout, str(policy), str(policy), PromotionSettings())


def test_a_reward_model_predicts_both_orders_alike_and_that_silence_loses(judged_store, trained_model):
    prompt = Prompt.create((Message("user", "hello"),), {}, Split.HELDOUT)
    a, b, silent = (answer(prompt, p, t) for p, t in (("a", "yes no"), ("b", "the sea and the sun"), ("c", "")))
    forward, backward, loses, wins, same = predict_win_rates(
        trained_model, [(prompt, a, b), (prompt, b, a), (prompt, silent, a), (prompt, a, silent), (prompt, a, a)]
    )
    assert forward == pytest.approx(1 - backward)
    assert 0 < forward < 1
    assert (loses, wins, same) == (0.0, 1.0, 0.5)
