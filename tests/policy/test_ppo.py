"""PPO: its arithmetic on numbers worked by hand, its masks, and that it raises a real reward."""

from __future__ import annotations

import json
import math
import textwrap

import numpy as np
import pytest
import torch

from forked_processes import run_on_two_processes
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.generation import sample_completions
from rlhf_hitl.policy.policy_folder import TRAINING_CARD, get_checkpoint_folder
from rlhf_hitl.policy.ppo import math as ppo_math
from rlhf_hitl.policy.ppo.batches import collate_rollouts
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic
from rlhf_hitl.policy.ppo.trainer import train_ppo
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.training import make_policy_lora_config
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Message, Prompt, Split


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def prompts(n, split, word):
    return [Prompt.create((Message("user", f"{word} number {i}"),), split=split) for i in range(n)]


def ascii_share(chats):
    """0 to 10: how much of an answer is ASCII."""
    texts = [chat.completion[-1].content for chat in chats]
    return np.array([10 * sum(c.isascii() for c in t) / max(len(t), 1) for t in texts], dtype=np.float32)


# Arithmetic.


def test_the_length_mask_covers_the_first_tokens():
    assert ppo_math.make_length_mask(torch.tensor([1, 3]), 3).tolist() == [[1, 0, 0], [1, 1, 1]]


def test_whitening_gives_real_tokens_zero_mean_and_unit_variance_and_padding_zero():
    x, mask = tensor([1, 2, 50], [3, 6, 50]), tensor([1, 1, 0], [1, 1, 0])
    # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
    white = ppo_math.whiten(x, mask)
    expected = [v / math.sqrt(3.5) for v in (-2, -1, 0, 3)]
    assert white[mask > 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert white[mask == 0].tolist() == [0, 0]
    kept = ppo_math.whiten(x, mask, shift_mean=False)
    assert kept[0, 0] == pytest.approx(expected[0] + 3, abs=1e-5)


def test_whitening_uses_the_sums_of_all_processes():
    one, other = tensor([1, 3]), tensor([5, 7])
    mask = tensor([1, 1])
    sums = iter([torch.tensor([12.0, 2.0]), torch.tensor([(5 - 4) ** 2 + (7 - 4) ** 2 + 0.0])])
    white = ppo_math.whiten(one, mask, reduce=lambda v: v + next(sums))
    both = ppo_math.whiten(torch.cat([one, other]), torch.cat([mask, mask]))
    assert white.tolist()[0] == pytest.approx(both.tolist()[0])


def test_gae_matches_values_computed_by_hand():
    rewards, values = tensor([0, 1, 9], [2, 9, 9]), tensor([0.5, 0.25, 9], [1, 9, 9])
    mask = tensor([1, 1, 0], [1, 0, 0])
    # gamma .9, lambda .5. Row 0: delta_1 = 1 - .25 = .75; delta_0 = 0 + .9*.25 - .5 = -.275; A_0 = -.275 + .45*.75
    advantages, returns = ppo_math.compute_gae(rewards, values, mask, 0.9, 0.5)
    assert advantages.tolist() == [pytest.approx([0.0625, 0.75, 0]), pytest.approx([1, 0, 0])]
    assert returns.tolist() == [pytest.approx([0.5625, 1, 0]), pytest.approx([2, 0, 0])]


def test_the_score_is_added_to_the_last_real_token_and_the_kl_penalty_to_each():
    kl = tensor([0.1, 0.2, 0.3], [0.4, 7, 7])
    rewards = ppo_math.compute_token_rewards(torch.tensor([1.0, -1.0]), kl, torch.tensor([3, 1]), beta=0.5)
    assert rewards.tolist() == [pytest.approx([-0.05, -0.1, 0.85]), pytest.approx([-1.2, 0, 0])]


def test_kl_estimators_match_values_computed_by_hand():
    p, q = tensor([math.log(0.5)]), tensor([math.log(0.25)])
    assert ppo_math.kl_k1(p, q).item() == pytest.approx(math.log(2))
    assert ppo_math.kl_k3(p, q).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_the_policy_loss_is_clipped_only_where_the_ratio_gains():
    new = tensor([math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)])
    loss, held = ppo_math.policy_loss(new, torch.zeros(1, 4), tensor([1, 1, -1, -1]), 0.2)
    assert loss.tolist()[0] == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert held.tolist()[0] == [1, 0, 0, 1]


def test_the_value_loss_is_the_larger_of_unclipped_and_clipped():
    loss, held = ppo_math.value_loss(tensor([1, 1]), tensor([0, 0]), tensor([1, 0]), 0.5)
    # to 1: free 0, clipped (.5 - 1)^2 = .25; to 0: free 1, clipped .25
    assert loss.tolist()[0] == pytest.approx([0.125, 0.5])
    assert held.tolist()[0] == [1, 0]


def test_explained_variance_matches_values_computed_by_hand():
    returns, mask = tensor([0, 2, 4, 99]), tensor([1, 1, 1, 0])
    assert ppo_math.explained_variance(returns, returns, mask) == 1
    assert ppo_math.explained_variance(torch.full((1, 4), 2.0), returns, mask) == pytest.approx(0)
    assert math.isnan(ppo_math.explained_variance(returns, torch.ones(1, 4), mask))


def test_adaptive_kl_moves_towards_its_target_by_a_bounded_step():
    def move(kl):
        return ppo_math.adapt_kl_coefficient(0.1, kl, target=6, horizon=100, answers=10)

    assert move(6) == pytest.approx(0.1)
    assert move(60) == pytest.approx(0.1 * 1.02)
    assert move(0) == pytest.approx(0.1 * 0.98)
    assert move(6.6) == pytest.approx(0.1 * 1.01)


# The model's view of a batch.


@pytest.fixture(scope="module")
def actor(policy):
    from peft import get_peft_model

    from rlhf_hitl.models import load_policy

    torch.manual_seed(1)
    made = ActorCritic(get_peft_model(load_policy(policy), make_policy_lora_config(4, 8)), temperature=0.7).eval()
    for (
        name,
        parameter,
    ) in made.trainable_parameters().items():  # an adapter that does something, and a head that is not zero
        if "lora_B" in name or "value_head" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def test_a_row_does_not_depend_on_other_rows_even_where_pad_is_eos(actor):
    eos = 1
    short, long = ([2, 30, 31], [40, 41, eos]), ([2, *range(50, 70)], list(range(80, 95)))
    alone = collate_rollouts([short[0]], [short[1]], eos, "cpu")
    beside = collate_rollouts([short[0], long[0]], [short[1], long[1]], eos, "cpu")
    with torch.no_grad():
        batches = alone, beside, beside.select_rows(torch.tensor([0]))
        one, two, trimmed = (actor.evaluate(b) for b in batches)
    for name in ("logprobs", "values", "entropy"):
        a, b, c = (getattr(figures, name) for figures in (one, two, trimmed))
        torch.testing.assert_close(a[0, :3], b[0, :3], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a[0, :3], c[0, :3], atol=1e-5, rtol=1e-4)
    assert beside.mask.tolist()[0] == [1, 1, 1] + [0] * 12
    assert beside.select_rows(torch.tensor([0])).ids.tolist() == [[2, 30, 31, 40, 41, eos]]


def test_log_probabilities_are_those_of_the_next_token_at_the_sampling_temperature(actor):
    batch = collate_rollouts([[2, 30, 31]], [[40, 41]], 0, "cpu")
    with torch.no_grad():
        got = actor(batch)[0][0]
        logits = actor.policy(input_ids=torch.tensor([[2, 30, 31, 40]])).logits[0, -2:].float() / 0.7
    expected = logits.log_softmax(-1)[torch.arange(2), torch.tensor([40, 41])]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_the_reference_is_the_policy_without_its_adapter(actor, policy):
    from rlhf_hitl.models import load_policy

    batch = collate_rollouts([[2, 30, 31]], [[40, 41]], 0, "cpu")
    with torch.no_grad():
        logits = load_policy(policy)(input_ids=torch.tensor([[2, 30, 31, 40]])).logits[0, -2:] / 0.7
        ours = actor(batch)[0][0]
    reference = actor.compute_reference_logprobs(batch)[0]
    torch.testing.assert_close(
        reference, logits.log_softmax(-1)[torch.arange(2), torch.tensor([40, 41])], atol=1e-5, rtol=1e-4
    )
    assert (ours - reference).abs().max() > 0.01


def test_the_value_loss_does_not_train_the_adapter(actor):
    actor.zero_grad()
    actor(collate_rollouts([[2, 30, 31]], [[40, 41]], 0, "cpu"))[1].sum().backward()
    assert all(p.grad is None for name, p in actor.trainable_parameters().items() if "lora" in name)
    assert actor.value_head.weight.grad is not None
    actor.zero_grad()


# Training.


def settings(policy, out, **more):
    base = {
        "model_name_or_path": str(policy), "output_dir": str(out), "steps": 2, "rollouts": 8, "minibatch": 4,
        "microbatch_tokens": 60,
        "max_new_tokens": 6, "learning_rate": 1e-3, "precision": "float32",
    }  # fmt: skip
    return PPOConfig(**(base | more))


def test_ppo_raises_the_mean_reward_on_heldout_prompts(policy, tmp_path):
    heldout = prompts(60, Split.HELDOUT, "unseen")

    def mean_reward(path):
        made = sample_completions(path, heldout, [Sampling(1.0, 1.0, 8, seed=1, count=2)], batch_size=120)
        return float(ascii_share([Conversation((), c.messages) for c in made]).mean())

    before = mean_reward(policy)
    config = settings(
        policy, tmp_path / "tuned", steps=20, rollouts=64, minibatch=32, epochs=4, max_new_tokens=8,
        learning_rate=1e-2, value_learning_rate=1e-2, schedule="constant", lam=1.0, kl_beta=0.01,
        missing_eos_penalty=0.0,
    )  # fmt: skip
    result = train_ppo(config, prompts(60, Split.TRAIN, "seen"), ascii_share)
    after = mean_reward(result.folder)
    # The standard error of either mean is about 0.13.
    assert after > before + 0.7
    assert result.history[-1]["kl"] > 1


def test_a_missing_eos_is_penalised_and_an_answer_without_text_gets_the_least_reward(policy, tmp_path):
    result = train_ppo(
        settings(policy, tmp_path / "out", steps=1, max_new_tokens=1, missing_eos_penalty=2.0),
        prompts(8, Split.TRAIN, "x"),
        lambda chats: np.full(len(chats), 3.0, dtype=np.float32),
    )
    first = result.history[0]
    assert first["reward"] == pytest.approx(3)
    assert first["reward_after_penalty"] == pytest.approx(3 - 2 * (1 - first["ended"]))
    assert first["ended"] < 1


def test_a_run_resumed_from_its_checkpoint_ends_like_one_that_was_not_stopped(policy, tmp_path):
    train = prompts(8, Split.TRAIN, "x")
    whole = train_ppo(settings(policy, tmp_path / "whole", steps=3), train, ascii_share)
    calls = 0

    def stops(chats):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return ascii_share(chats)

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_ppo(settings(policy, out, steps=3, save_steps=1), train, stops)
    assert not out.exists()
    assert [p.name for p in get_checkpoint_folder(out).iterdir()] == ["step-000002"]
    with pytest.raises(BadInput, match="same settings"):
        train_ppo(settings(policy, out, steps=3, save_steps=1, clip=0.3), train, ascii_share)
    resumed = train_ppo(settings(policy, out, steps=3, save_steps=1), train, ascii_share)
    assert len(resumed.history) == 3
    assert resumed.history[2] == pytest.approx(whole.history[2], rel=1e-4, nan_ok=True)
    assert not get_checkpoint_folder(out).exists()


def test_an_adapter_alone_loads_as_the_same_policy_as_the_merged_one(policy, tmp_path):
    from rlhf_hitl.models import load_policy

    train = prompts(8, Split.TRAIN, "x")
    merged = train_ppo(settings(policy, tmp_path / "merged", learning_rate=1e-2), train, ascii_share).folder
    adapter = train_ppo(settings(policy, tmp_path / "a", learning_rate=1e-2, save="adapter"), train, ascii_share).folder
    assert not (adapter / "model.safetensors").exists()
    ids = torch.tensor([[2, 30, 31]])
    with torch.no_grad():
        a, b, base = (load_policy(p)(input_ids=ids).logits for p in (merged, adapter, policy))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert (a - base).abs().max() > 1e-3
    assert json.loads((merged / TRAINING_CARD).read_text())["settings"]["learning_rate"] == 1e-2


@pytest.mark.parametrize("split", [Split.HELDOUT, Split.CALIBRATION])
def test_ppo_refuses_prompts_that_are_not_for_training(policy, tmp_path, split):
    with pytest.raises(BadInput, match="train split"):
        train_ppo(settings(policy, tmp_path / "out"), prompts(1, split, "x"), ascii_share)
    assert not (tmp_path / "out").exists()


def test_ppo_refuses_a_used_folder_and_rewards_that_are_not_finite(policy, tmp_path):
    train = prompts(8, Split.TRAIN, "x")
    with pytest.raises(BadInput, match="not there yet"):
        train_ppo(settings(policy, policy), train, ascii_share)
    with pytest.raises(BadInput, match="8 of 8 rewards not finite"):
        train_ppo(settings(policy, tmp_path / "out"), train, lambda chats: np.full(len(chats), np.nan))
    with pytest.raises(BadInput, match="max_prompt_tokens"):
        train_ppo(settings(policy, tmp_path / "out", max_prompt_tokens=2), train, ascii_share)
    with pytest.raises(BadInput, match="divisor"):
        settings(policy, tmp_path / "out", rollouts=10, minibatch=4)


PROGRAM = """
import json
import sys
import numpy as np
from pathlib import Path
from safetensors.torch import save_file
from rlhf_hitl.policy.ppo.trainer import PPOTrainer
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.types import Message, Prompt, Split

policy, out = sys.argv[1:]
train = [Prompt.create((Message("user", f"x number {i}"),), split=Split.TRAIN) for i in range(8)]
config = PPOConfig(model_name_or_path=policy, output_dir=f"{out}/policy",
                   steps=2, rollouts=8, minibatch=4, max_new_tokens=4,
                   learning_rate=1e-2, precision="float32", save="adapter")
seen = []

def reward(chats):
    seen.extend(chat.prompt[0].content for chat in chats)
    return np.array([len(c.completion[-1].content) for c in chats], dtype=np.float32)

trainer = PPOTrainer(config, train, reward)
trainer.run()
rank = trainer.accelerator.process_index
save_file({k: p.detach() for k, p in trainer.model.trainable_parameters().items()}, f"{out}/rank{rank}.safetensors")
Path(f"{out}/seen{rank}.json").write_text(json.dumps(seen))
"""


def test_two_processes_end_with_the_same_weights_and_different_rollouts(policy, tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "two_processes.py").write_text(textwrap.dedent(PROGRAM))
    run_on_two_processes("two_processes", policy, tmp_path, cwd=tmp_path)
    one, two = (load_file(tmp_path / f"rank{i}.safetensors") for i in (0, 1))
    seen = [json.loads((tmp_path / f"seen{i}.json").read_text()) for i in (0, 1)]
    assert not set(seen[0][:4]) & set(seen[1][:4])
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(one[k].abs().max() > 1e-4 for k in one if "lora_B" in k)
    history = json.loads((tmp_path / "policy" / TRAINING_CARD).read_text())["history"]
    assert len(history) == 2
