"""The reward of a policy's answers: conservative rewards, and answers without text. And what all tuning shares."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.rewards import PolicyReward, make_answer
from rlhf_hitl.policy.training import DataArguments, choose_prompts, explain_out_of_memory
from rlhf_hitl.reward.novelty import join_pair
from rlhf_hitl.reward.rendering import Conversation, measure_completion_lengths
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.prompt_answers import read_prompt_answers
from rlhf_hitl.types import Message, Prompt, Split


def test_a_conservative_reward_is_the_mean_less_k_deviations_of_the_margin(judged_store, trained_model):
    """Against a slow reference, answer by answer; and with one reference answer, the deviation is that of `margins`."""
    model, k = trained_model, 1.5
    prompt = list_prompts(judged_store, split=Split.TRAIN)[0]
    references = [
        Conversation(prompt.messages, c.messages) for c in read_prompt_answers(judged_store, [prompt.id], 2)[prompt.id]
    ]
    assert len(references) == 2
    chats = [make_answer(prompt, text) for text in ("thanks thanks", "nothing", "")]
    given = model.conservative_rewards(chats, k, {prompt.id: references})
    features = model.cache.features(references)
    mean = model.standardiser(features, measure_completion_lengths(references)).mean(0)
    for chat, reward in zip(chats, given):
        own = model.cache.features([chat])
        x = model.standardiser(own, measure_completion_lengths([chat]))[0]
        novelty = join_pair(model.novelty(own), model.novelty(features).mean())[0]
        variance = (x - mean) @ model.head.covariance @ (x - mean) + model.head.doubt**2 * (
            max(np.exp(novelty) - 1, 0) + np.exp(min(novelty, 0))
        )
        assert reward == pytest.approx(x @ model.head.weights - k * np.sqrt(variance), abs=1e-4)
    [alone] = model.conservative_rewards(chats[:1], k, {prompt.id: references[:1]})
    margin, uncertainty, _ = model.margins(chats[:1], references[:1])
    assert alone == pytest.approx(model.rewards(chats[:1])[0] - k * uncertainty[0], abs=1e-4)
    assert model.rewards(chats[:1])[0] - model.rewards(references[:1])[0] == pytest.approx(margin[0], abs=1e-4)
    assert (model.conservative_rewards(chats, 0.0) == model.rewards(chats)).all()
    with pytest.raises(BadInput, match="finite"):
        model.conservative_rewards(chats, float("nan"))


def test_the_doubt_is_measured_against_stored_answers_and_prompts_without_any_are_named(
    judged_store, trained_model, caplog
):
    caplog.set_level(logging.WARNING)
    [known, *_] = list_prompts(judged_store, split=Split.TRAIN)
    reward = PolicyReward(trained_model, judged_store, 1.0)
    stored = read_prompt_answers(judged_store, [known.id], 2)
    chats = [make_answer(known, "thanks")]
    references = {known.id: [Conversation(known.messages, c.messages) for c in stored[known.id]]}
    assert reward(chats) == pytest.approx(trained_model.conservative_rewards(chats, 1.0, references), abs=1e-5)
    assert caplog.text == ""
    stranger = Prompt.create((Message("user", "nobody has answered this"),))
    reward([make_answer(stranger, "thanks"), make_answer(stranger, "")])
    assert f"1 prompt (such as {stranger.id}) without stored answers" in caplog.text
    assert PolicyReward(trained_model, judged_store)(chats) == pytest.approx(trained_model.rewards(chats))


def test_conservative_may_not_be_negative():
    with pytest.raises(BadInput, match="conservative -1"):
        DataArguments(conservative=-1.0)


def test_prompts_are_drawn_by_the_seed_alone():
    prompts = [Prompt.create((Message("user", f"number {i}"),)) for i in range(30)]
    drawn = choose_prompts(prompts, 10, "0:1")
    assert drawn == choose_prompts(prompts[::-1], 10, "0:1")
    assert len({p.id for p in drawn}) == 10
    assert drawn != choose_prompts(prompts, 10, "0:2")
    assert choose_prompts(prompts, 15, "0:1")[:10] == drawn
    assert len(choose_prompts(prompts, 99, 0)) == 30


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        MemoryError(),
    ],
)
def test_an_error_about_memory_names_the_setting_to_halve(error):
    named = pytest.raises(BadInput, match="Fix: halve per_device_train_batch_size, or max_length")
    with named, explain_out_of_memory("per_device_train_batch_size", "max_length"):
        raise error
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory("max_length"):
        raise RuntimeError("another error")
