"""The watch against reward hacking: a planted hack is stopped before gold falls, and an honest reward is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nasty_templates import make_model

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.policy.rewards import make_answer
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.policy.training_prompts import read_training_prompts
from rlhf_hitl.policy.tuning_watch import TuningWatch, WatchArguments, measure_repetition
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.readability import Obstacle, Unreadable
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.stats.over_optimisation import compare_means, measure_direction
from rlhf_hitl.types import Message, Prompt

PROMPTS = [Prompt.create((Message("user", f"number {i}"),)) for i in range(64)]


def test_the_direction_is_the_derivative_of_gold_along_the_tilt_by_the_reward():
    # Four answers, equally likely. Under pi exp(t r): d/dt E[g] at 0 = Cov(r, g) = E[rg] - E[r]E[g].
    r, g = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 0.0, 1.0, 0.0])

    def mean_of_gold(t):
        p = np.exp(t * r)
        return float(p @ g / p.sum())

    slope = (mean_of_gold(1e-5) - mean_of_gold(-1e-5)) / 2e-5
    assert slope == pytest.approx(-0.25, abs=1e-6)
    # Of the same four answers, drawn alike to each of 20 prompts: correlation -0.25 / (sqrt(1.25) * 0.5)
    found = measure_direction(np.tile(r, 20), np.tile(g, 20), np.repeat(np.arange(20), 4))
    assert found.correlation == pytest.approx(-0.25 / (np.sqrt(1.25) * 0.5))


def test_what_differs_between_prompts_is_no_direction():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(100), 4)
    shared, own = 5 * rng.normal(size=100)[prompt], rng.normal(size=400)
    reward, gold = shared + own, shared - own
    assert measure_direction(reward, gold, np.arange(400) % 20).correlation > 0.8
    found = measure_direction(reward, gold, prompt)
    assert found.correlation == pytest.approx(-1)
    assert found.z < -8
    assert measure_direction(reward[:40], gold[:40], prompt[:40]).z == 0  # ten prompts say too little


@pytest.mark.parametrize("size", [2, 4, 8])
def test_where_gold_has_nothing_to_do_with_the_reward_z_is_standard_normal(size):
    rng, groups = np.random.default_rng(size), np.repeat(np.arange(128 // size), size)
    z = [measure_direction(rng.normal(size=128), rng.normal(size=128), groups).z for _ in range(400)]
    assert np.std(z) == pytest.approx(1, abs=0.12)  # the standard error of a standard deviation of 400 is 0.035
    assert abs(np.mean(z)) < 0.2


def test_means_are_compared_in_standard_errors():
    # variances 1 and 1 of two each: the error is 1, and the mean has fallen by 3
    assert compare_means(np.array([3, 3 + np.sqrt(2)]), np.array([0, np.sqrt(2)])) == pytest.approx(-3)


def tune(watch_gold, proxy_weights, gold_weights, *, steps=150, per_prompt=4, seed=0):
    """A policy whose answers have a quality and a length, climbing the reward: where the watch stops it, and the true
    gold reward of each step."""
    rng, mean, truth = np.random.default_rng(seed), np.zeros(2), []
    scored = []
    watch = TuningWatch((lambda chats: scored[-1]) if watch_gold else None, window=128)
    for step in range(steps):
        prompts = [PROMPTS[i] for i in np.repeat(rng.choice(64, 16, replace=False), per_prompt)]
        answers, of_prompt = rng.normal(size=(len(prompts), 2)) + mean, np.repeat(rng.normal(size=16), per_prompt)
        scored.append(3 + answers @ gold_weights + 0.5 * of_prompt + 0.5 * rng.normal(size=len(prompts)))
        truth.append(3 + float(mean @ gold_weights))
        figures = {"tokens": 20.0 + step}
        said = watch.observe(
            prompts, [str(i) for i in range(len(prompts))], answers @ proxy_weights + of_prompt, figures
        )
        if said.stop:
            return step, truth, said.stop, watch
        mean = mean + 0.05 * proxy_weights / np.linalg.norm(proxy_weights)
    return None, truth, None, watch


LENGTH_BUG, HONEST = np.array([0.4, 1.0]), np.array([1.0, 0.1])


@pytest.mark.parametrize("seed", range(5))
def test_a_length_bug_is_stopped_before_gold_has_fallen_by_five_per_cent(seed):
    step, truth, why, _ = tune(True, LENGTH_BUG, np.array([0.4, -0.4]), seed=seed)
    assert step is not None
    assert truth[-1] >= 0.95 * max(truth)
    assert "lowers the gold reward" in str(why)
    assert tune(True, LENGTH_BUG, np.array([0.4, -0.4]), seed=seed, per_prompt=1)[0] is not None  # later, yet it is


def test_a_prompt_that_comes_twice_in_a_step_changes_nothing():
    rng, order = np.random.default_rng(0), []
    watch = TuningWatch(lambda chats: gold, window=128)
    for _ in range(150):  # passes through 60 prompts, 8 a step: some steps end one pass and begin the next
        while len(order) < 8:
            order += list(rng.permutation(60))
        prompts, order = [PROMPTS[i] for i in order[:8]], order[8:]
        reward = rng.normal(size=8)
        gold = 0.5 * reward + rng.normal(size=8)
        assert watch.observe(prompts, [str(i) for i in range(8)], reward, {}).stop is None


def test_an_honest_reward_runs_to_its_end_and_without_gold_all_do():
    assert tune(True, HONEST, HONEST)[0] is None
    stopped, truth, _, watch = tune(False, LENGTH_BUG, np.array([0.4, -0.4]))
    assert stopped is None
    assert truth[-1] < 0.5 * truth[0]
    assert [w for w in watch.warnings if w.startswith("tokens: ")] != []  # which is all that can be known


def test_a_watch_that_is_stopped_goes_on_as_if_it_had_not_been():
    *_, watch = tune(True, LENGTH_BUG, np.array([0.4, -0.4]))
    again = TuningWatch(lambda chats: np.zeros(len(chats)), window=128)
    again.load_state_dict(watch.state_dict())
    figures = ({}, {})
    for one, seen in zip((watch, again), figures):
        one.gold = lambda chats: np.arange(len(chats), dtype=float)
        one.observe(PROMPTS, ["a"] * 64, np.arange(64.0), seen)
    assert figures[0] == figures[1]


def test_repeats_are_shares_of_runs_of_words():
    assert measure_repetition("a b c a b c a b c") == pytest.approx(4 / 7)  # of 7 runs of three, 3 are different
    assert measure_repetition("every word of this is new") == 0
    assert measure_repetition("") == 0
    assert measure_repetition("我不知道我不知道我不知道我不知道我不知道") > 0.5


def test_the_number_of_answers_a_step_may_change():
    watch = TuningWatch(None, window=128)
    for n in (32, 32, 32, 128, 128):  # no run of steps that begins with the first is the last to hold 128 answers
        watch.observe((PROMPTS * 2)[:n], [str(i) for i in range(n)], np.zeros(n), {"tokens": 3.0})
    assert watch.warnings == []


def test_gold_that_is_no_number_is_refused():
    with pytest.raises(BadInput, match="no number"):
        TuningWatch(lambda chats: np.full(len(chats), np.nan)).observe(PROMPTS[:1], ["a"], [1.0], {})


def test_what_the_gold_model_cannot_read_counts_as_an_answer_without_text(
    judged_store, trained_model, tiny_model, tmp_path
):
    backbone = Backbone(str(make_model(tiny_model, tmp_path / "model", "no_shouting")), layer=1, pooling="last")
    gold = train_head(judged_store, backbone, tmp_path)
    watch = WatchArguments(gold_reward_model=str(tmp_path / "reward" / gold.id)).open_watch(judged_store, trained_model)
    assert watch.gold is not None
    good, unreadable, empty = (make_answer(PROMPTS[0], text) for text in ("thanks", "thanks!", ""))
    assert watch.find_problem is not None
    assert watch.find_problem([unreadable]) is not None
    scored = watch.gold([good, unreadable, empty])
    assert scored[1] == scored[2] != scored[0]
    assert scored[0] == pytest.approx(gold.rewards([good])[0])


def test_prompts_that_the_gold_model_cannot_read_are_refused_before_anything_is_sampled(tiny_model):
    no_template = Unreadable(Obstacle.TEMPLATE, PROMPTS[0].id, "no template for it", expected="one", fix="add it")

    def find_problem(chats):
        return no_template if chats[0].prompt == PROMPTS[0].messages else None

    watch = TuningWatch(lambda chats: np.zeros(len(chats)), find_problem=find_problem)
    reader = PromptReader(load_tokenizer(tiny_model))  # type: ignore[arg-type]
    how: dict[str, Any] = {"policy": str(tiny_model), "max_prompt_tokens": 99, "max_new_tokens": 6, "watch": watch}
    read = read_training_prompts(PROMPTS[:3], reader, lambda chats: None, skip_bad=True, **how)
    assert {p.id for p in read.prompts} == {p.id for p in PROMPTS[1:3]}
    with pytest.raises(BadInput, match="the chat template refuses"):
        read_training_prompts(PROMPTS[:3], reader, None, skip_bad=False, **how)
