"""PPO: what its model computes, and that it raises a real reward."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import torch
from sampled_completions import sample_completions

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.online_rewards import RewardCallable
from rlhf_hitl.policy.policy_folder import TRAINING_CARD
from rlhf_hitl.policy.ppo.batches import collate_rollouts
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic
from rlhf_hitl.policy.ppo.reference import Reference, fuse_reference
from rlhf_hitl.policy.ppo.trainer import PPOTrainer, train_ppo
from rlhf_hitl.policy.ppo.update import Experience
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.training import make_policy_lora_config
from rlhf_hitl.reward.readability import Obstacle, Unreadable
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Message, Prompt, Split


def prompts(n, split, word):
    return [Prompt.create((Message("user", f"{word} number {i}"),), split=split) for i in range(n)]


def ascii_share(chats):
    """0 to 10: how much of an answer is ASCII."""
    texts = [chat.completion[-1].content for chat in chats]
    return np.array([10 * sum(c.isascii() for c in t) / max(len(t), 1) for t in texts], dtype=np.float32)


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
    assert all(p.grad is not None for p in actor.value_head.parameters())
    actor.zero_grad()


def test_the_reference_that_is_computed_fused_is_the_one_of_the_library(policy):
    from peft import get_peft_model

    from rlhf_hitl.models import load_policy

    base = load_policy(policy)
    fused = fuse_reference(base)
    assert fused is not None
    model = ActorCritic(get_peft_model(base, make_policy_lora_config(4, 8)), temperature=0.7).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(next(p for name, p in model.trainable_parameters().items() if "lora_B" in name))
    batch = collate_rollouts([[2, 30, 31], [2, 30, 31, 32, 33], [2, 7]], [[40, 41], [8], [9, 10, 11]], 0, "cpu")
    expected = model.compute_reference_logprobs(batch)
    found = Reference(model, fused).compute_logprobs(batch, budget=9)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (model.evaluate(batch).logprobs - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["linear", "mlp", "shared", "critic"])
def test_the_value_loss_trains_what_the_value_head_says(policy, tmp_path, kind):
    trainer = PPOTrainer(settings(policy, tmp_path / "out", value_head=kind), prompts(8, Split.TRAIN, "x"), ascii_share)
    model = trainer.model
    torch.nn.init.normal_(model.value_head[-1].weight if kind == "mlp" else model.value_head.weight)
    model(collate_rollouts([[2, 30, 31]], [[40, 41]], 0, "cpu"))[1].sum().backward()
    trained = {name for name, p in model.trainable_parameters().items() if p.grad is not None}
    assert any(name.startswith("value_head") for name in trained)
    assert any(".default." in name for name in trained) == (kind == "shared")
    assert any(".critic." in name for name in trained) == (kind == "critic")
    result = trainer.run()
    assert "critic" not in json.loads((result.folder / "config.json").read_text())
    assert not list(result.folder.rglob("critic"))
    assert result.history[-1]["kl"] != 0


def test_gradients_accumulated_over_microbatches_are_those_of_one_batch(policy, tmp_path):
    gradients = []
    for budget in (10_000, 40):
        trainer = PPOTrainer(
            settings(policy, tmp_path / f"{budget}", microbatch_tokens=budget, value_head="shared"),
            prompts(8, Split.TRAIN, "x"),
            ascii_share,
        )
        rollouts = trainer.sampler.sample(trainer.model, trainer.sampling_policy, 0)
        shape = rollouts.batch.mask.shape
        torch.manual_seed(0)
        old, values, advantages, returns = (torch.randn(shape) * 0.1 for _ in range(4))
        torch.nn.init.normal_(trainer.model.value_head.weight)
        experience = Experience(rollouts.batch, rollouts.figures.logprobs + old, values, advantages, returns)
        rows = torch.arange(shape[0])
        assert (len(rollouts.batch.split_rows(rows, budget)) > 2) == (budget == 40)
        trainer.updater._accumulate_gradients(experience, rows)
        gradients.append({k: p.grad for k, p in trainer.model.trainable_parameters().items() if p.grad is not None})
    one, other = gradients
    assert one.keys() == other.keys()
    assert max(float(g.abs().max()) for g in one.values()) > 1e-3
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-5)


def test_what_was_recorded_at_sampling_is_what_a_pass_over_the_answers_gives(policy, tmp_path):
    config = settings(policy, tmp_path / "out", sampling_tokens=60, temperature=0.8)
    trainer = PPOTrainer(config, prompts(8, Split.TRAIN, "x"), ascii_share)
    for name, parameter in trainer.model.trainable_parameters().items():
        if "lora_B" in name or "value_head" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    rollouts = trainer.sampler.sample(trainer.model, trainer.sampling_policy, 0)
    evaluated = trainer._evaluate(rollouts)
    for name in ("logprobs", "values", "entropy"):
        torch.testing.assert_close(getattr(rollouts.figures, name), getattr(evaluated, name), atol=1e-5, rtol=1e-5)
    assert evaluated.logprobs.abs().max() > 1


def test_another_precision_of_sampling_leaves_the_importance_ratio_right(policy, tmp_path):
    config = settings(policy, tmp_path / "out", sampling_precision="bfloat16", minibatch=8, learning_rate=1e-2, steps=3)
    trainer = PPOTrainer(config, prompts(8, Split.TRAIN, "x"), ascii_share)
    first, second = trainer.run_step(0), trainer.run_step(1)
    assert first["approx_kl"] == pytest.approx(0, abs=1e-9), "the ratio of what has not been updated is 1"
    assert second["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert second["kl"] != 0
    sampling = trainer.sampling_policy.prepare(trainer.model.policy)  # type: ignore[arg-type]
    ids = torch.tensor([[2, 30, 31, 40]])
    with torch.no_grad():
        ours, exact = sampling(input_ids=ids).logits.float(), trainer.model.policy(input_ids=ids).logits
        with trainer.model.policy.disable_adapter():
            reference = trainer.model.policy(input_ids=ids).logits
    assert (ours - exact).abs().mean() < (ours - reference).abs().mean() / 2, "the copy has the adapter in it"


def test_a_step_of_100_thousand_prompts_chooses_in_milliseconds_and_each_pass_has_every_prompt(policy, tmp_path):
    trainer = PPOTrainer(settings(policy, tmp_path / "out"), prompts(5, Split.TRAIN, "x"), ascii_share)
    sampler = trainer.sampler
    chosen = [i for step in range(5) for i in sampler.choose_prompts(step)]  # 40 rollouts: eight passes
    assert all(sorted(chosen[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 40, 5))
    sampler.prompts = sampler.prompts * 20_000
    sampler._shuffle.cache_clear()
    sampler.choose_prompts(0)
    start = time.process_time()
    for step in range(1, 11):
        sampler.choose_prompts(step)
    assert (time.process_time() - start) / 10 < 0.01


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
        policy, tmp_path / "tuned", steps=20, rollouts=64, minibatch=32, microbatch_tokens=2048, epochs=4,
        max_new_tokens=8, learning_rate=1e-2, value_learning_rate=1e-2, schedule="constant", lam=1.0, kl_beta=0.01,
        missing_eos_penalty=0.0,
    )  # fmt: skip
    result = train_ppo(config, prompts(60, Split.TRAIN, "seen"), ascii_share)
    after = mean_reward(result.folder)
    # The standard error of either mean is about 0.13.
    assert after > before + 0.7
    assert result.history[-1]["kl"] > 1


def make_silent(policy, folder, token):
    """Copy a policy so that it nearly always says one token."""
    from rlhf_hitl.models import load_policy, load_tokenizer
    from rlhf_hitl.policy.token_sampling import PromptReader

    shutil.copytree(policy, folder)
    model, reader = load_policy(policy), PromptReader(load_tokenizer(policy))
    with torch.no_grad():
        ids = torch.tensor([reader.tokenize(prompts(1, Split.TRAIN, "x")[0])])
        state = model.model(ids).last_hidden_state[0, -1]
        model.lm_head.weight[token] = state * 60 / state.square().sum()
    model.save_pretrained(folder)
    return folder


def test_an_answer_without_text_gets_its_reward_and_its_penalty_and_is_counted(policy, tmp_path):
    special = 3  # a token that is no text and ends nothing
    silent = make_silent(policy, tmp_path / "silent", special)
    met = []

    def reward(chats):
        met.extend(chats)
        return np.array([4.0 + len(c.completion[-1].content) for c in chats])

    result = train_ppo(
        settings(silent, tmp_path / "out", steps=1, max_new_tokens=1, missing_eos_penalty=2.0),
        prompts(8, Split.TRAIN, "x"),
        reward,
    )
    figures, all_texts = result.history[0], [c.completion[-1].content for c in met]
    texts = all_texts[:8]  # of the step; the others are of the policy after it
    empty = sum(not t for t in texts) / 8
    assert figures["empty"] == empty > 0.5
    assert figures["reward"] == pytest.approx(4 + np.mean([len(t) for t in texts]))
    assert figures["ended"] < 1
    assert figures["reward_after_penalty"] == pytest.approx(figures["reward_scaled"] - 2 * (1 - figures["ended"]))
    card = json.loads((result.folder / TRAINING_CARD).read_text())
    of_all = sum(not t for t in all_texts)
    assert (card["answers"], card["empty_answers"], card["unreadable_answers"]) == (16, of_all, 0)
    assert card["cut_off_answers"] == round(sum(8 * (1 - figures["ended"]) for figures in result.history))
    assert f"| empty answers | {of_all} |" in (result.folder / "README.md").read_text()


def test_what_the_reward_model_cannot_read_earns_what_an_answer_without_text_earns(policy, tmp_path):
    """The same rule as of RLOO, GRPO and the gold model."""

    def refuse_all_but(chats, *texts):
        if chats[0].completion[-1].content in texts:
            return None
        return Unreadable(Obstacle.NOTHING_LEFT, "p", "an answer", expected="text", fix="none")

    def find_problem(chats):
        text = chats[0].completion[-1].content
        return None if len(text) % 2 == 0 else refuse_all_but(chats, "yes")

    def reward(chats):
        assert not any(find_problem([chat]) for chat in chats)
        return np.array([7.0 + len(c.completion[-1].content) for c in chats])

    train = prompts(8, Split.TRAIN, "x")
    config = settings(policy, tmp_path / "out", rollouts=32, minibatch=32)
    trainer = PPOTrainer(config, train, reward, find_problem)
    rollouts = trainer.sampler.sample(trainer.model, trainer.sampling_policy, 0)
    odd = [len(text) % 2 for text in rollouts.texts]
    assert rollouts.unreadable.tolist() == odd
    assert 0 < sum(odd) < 32
    assert rollouts.rewards.tolist() == [7.0 if is_odd else 7.0 + len(t) for is_odd, t in zip(odd, rollouts.texts)]
    measured = trainer.measure(0)
    assert trainer.watch._steps[0].rewards == rollouts.rewards.tolist(), "the watch sees what is learnt from"
    assert measured.figures["reward"] == pytest.approx(float(rollouts.rewards.mean()))
    online = RewardCallable({p.id: p for p in train}, reward, find_problem, trainer.sampler.reader, {1}, 0.0)
    ids = [row[: int(n)].tolist() for row, n in zip(rollouts.batch.answers, rollouts.batch.lengths)]
    asked, logged = [p.id for p in rollouts.prompts], {}
    scaled = online(["x"] * 32, [""] * 32, ids, asked, logged.__setitem__)
    assert scaled == pytest.approx(measured.scaled.tolist(), abs=1e-6)
    assert logged["unreadable"] == sum(odd) / 32
    with pytest.raises(BadInput, match="first 8 answers, all unreadable"):
        train_ppo(settings(policy, tmp_path / "none"), train, reward, lambda chats: refuse_all_but(chats, "yes", ""))


def test_a_reward_model_reads_an_answer_without_text_where_it_may_be_empty(trained_model):
    prompt, nothing = (Message("user", "hello"),), (Message("assistant", ""),)
    empty = Conversation(prompt, nothing, may_be_empty=True)
    assert trained_model.find_problem([empty]) is None
    assert np.isfinite(trained_model.rewards([empty], keep=False)).all()
    assert trained_model.find_problem([Conversation(prompt, nothing)]).obstacle is Obstacle.NO_TEXT


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
