"""The arithmetic of PPO: on numbers worked by hand, and against the same formulas in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_hitl.policy.ppo import math as ppo_math
from rlhf_hitl.policy.ppo.token_logprobs import compute_token_logprobs
from rlhf_hitl.policy.reward_scale import RewardScale


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_the_length_mask_covers_the_first_tokens():
    assert ppo_math.make_length_mask(torch.tensor([1, 3]), 3).tolist() == [[1, 0, 0], [1, 1, 1]]


def test_whitening_gives_real_tokens_zero_mean_and_unit_variance_and_padding_zero():
    x, mask = tensor([1, 2, 50], [3, 6, 50]), tensor([1, 1, 0], [1, 1, 0])
    # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
    white = ppo_math.whiten(x, mask)
    expected = [v / math.sqrt(3.5) for v in (-2, -1, 0, 3)]
    assert white[mask > 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert white[mask == 0].tolist() == [0, 0]


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


def compute_slowly(rows, gamma, lam, beta, clip, value_clip):
    """Return what `ppo_math` computes of answers, as lists of lists without padding, in plain loops."""
    tokens = [(i, t) for i, row in enumerate(rows) for t in range(len(row["old"]))]
    advantages = {}
    for i, row in enumerate(rows):
        last = len(row["old"]) - 1
        carried = 0.0
        for t in range(last, -1, -1):
            reward = -beta * (row["old"][t] - row["reference"][t]) + (row["score"] if t == last else 0.0)
            following = row["values"][t + 1] if t < last else 0.0
            carried = reward + gamma * following - row["values"][t] + gamma * lam * carried
            advantages[i, t] = carried
    returns = {(i, t): advantages[i, t] + rows[i]["values"][t] for i, t in tokens}
    mean = sum(advantages.values()) / len(tokens)
    variance = sum((a - mean) ** 2 for a in advantages.values()) / len(tokens)
    white = {at: (a - mean) / math.sqrt(variance + 1e-8) for at, a in advantages.items()}
    policy_loss, value_loss, k3 = {}, {}, {}
    for i, t in tokens:
        ratio = math.exp(rows[i]["new"][t] - rows[i]["old"][t])
        policy_loss[i, t] = -min(ratio * white[i, t], min(max(ratio, 1 - clip), 1 + clip) * white[i, t])
        old, new, wanted = rows[i]["values"][t], rows[i]["new_values"][t], returns[i, t]
        near = min(max(new, old - value_clip), old + value_clip)
        value_loss[i, t] = 0.5 * max((new - wanted) ** 2, (near - wanted) ** 2)
        k3[i, t] = ratio - 1 - math.log(ratio)
    return {"advantages": advantages, "returns": returns, "white": white} | {
        "policy_loss": policy_loss, "value_loss": value_loss, "k3": k3
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_all_formulas_are_those_of_plain_loops(seed):
    random = np.random.default_rng(seed)
    names = ("old", "new", "reference", "values", "new_values")
    rows = [
        {name: random.normal(size=n).tolist() for name in names} | {"score": float(random.normal())}
        for n in random.integers(1, 7, size=5)
    ]
    options = {"gamma": 0.97, "lam": 0.9, "beta": 0.3, "clip": 0.2, "value_clip": 0.4}
    slow = compute_slowly(rows, **options)

    lengths = torch.tensor([len(r["old"]) for r in rows])
    mask = ppo_math.make_length_mask(lengths, 7).double()
    padded = {
        name: torch.tensor([r[name] + [99.0] * (7 - len(r[name])) for r in rows], dtype=torch.float64) for name in names
    }
    kl = ppo_math.kl_k1(padded["old"], padded["reference"])
    scores = torch.tensor([r["score"] for r in rows], dtype=torch.float64)
    rewards = ppo_math.compute_token_rewards(scores, kl, lengths, options["beta"])
    advantages, returns = ppo_math.compute_gae(rewards, padded["values"], mask, options["gamma"], options["lam"])
    white = ppo_math.whiten(advantages, mask)
    fast = {
        "advantages": advantages, "returns": returns, "white": white,
        "policy_loss": ppo_math.policy_loss(padded["new"], padded["old"], white, options["clip"])[0],
        "value_loss": ppo_math.value_loss(padded["new_values"], padded["values"], returns, options["value_clip"])[0],
        "k3": ppo_math.kl_k3(padded["old"], padded["new"]),
    }  # fmt: skip
    for name, expected in slow.items():
        for (i, t), value in expected.items():
            assert float(fast[name][i, t]) == pytest.approx(value, abs=1e-6), (name, i, t)


@pytest.mark.parametrize("vocabulary", [50, 2**22])  # all rows at once; four at a time
def test_token_log_probabilities_and_their_gradients_are_those_of_all_logits(vocabulary):
    torch.manual_seed(0)
    states, weights = torch.randn(9, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    tokens, upstream = torch.randint(50, (9,)), torch.randn(9, dtype=torch.float64)
    one, other = states.clone().requires_grad_(), states.clone().requires_grad_()
    found, entropy = compute_token_logprobs(
        one, tokens, lambda x: x @ weights.T / 0.7, vocabulary=vocabulary, with_entropy=True
    )
    (found * upstream).sum().backward()
    expected = (other @ weights.T / 0.7).log_softmax(-1)
    (expected[torch.arange(9), tokens] * upstream).sum().backward()
    torch.testing.assert_close(found, expected[torch.arange(9), tokens], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(one.grad, other.grad, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1), atol=1e-9, rtol=1e-9)
    assert not entropy.requires_grad


def test_the_reward_scale_is_that_of_all_rewards_so_far_in_whatever_parts_they_come():
    rewards = torch.tensor(np.random.default_rng(0).normal(7, 3, size=24))
    scale = RewardScale()
    for part in rewards.split(8):
        scale.add(part, lambda v: v)
    spread = rewards.std(unbiased=False)
    assert scale.spread == pytest.approx(float(spread))
    assert scale.scale(rewards)[0] == pytest.approx(float((rewards[0] - rewards[:8].mean()) / spread))


def test_a_constant_reward_is_said_to_teach_nothing(caplog):
    scale = RewardScale()
    scale.add(torch.full((4,), 2.5), lambda v: v)
    assert "all 4 rewards of the first step are 2.5" in caplog.text
    assert scale.scale(torch.full((4,), 2.5)).tolist() == [0, 0, 0, 0]
