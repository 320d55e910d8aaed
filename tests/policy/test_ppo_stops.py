"""PPO that stops, is stopped, goes on, and runs in two processes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time

import numpy as np
import pytest
import torch
import yaml

from forked_processes import ForkedProcess, run_module, run_on_two_processes
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.best_weights import copy_trainable
from rlhf_hitl.policy.policy_folder import TRAINING_CARD, get_checkpoint_folder
from rlhf_hitl.policy.ppo.config import MEMORY_SETTINGS, PPOConfig
from rlhf_hitl.policy.ppo.trainer import PPOTrainer, train_ppo
from rlhf_hitl.policy.training import explain_out_of_memory
from rlhf_hitl.policy.tuning_watch import TuningWatch
from rlhf_hitl.types import Message, Prompt, Split

TRAIN = [Prompt.create((Message("user", f"x number {i}"),), split=Split.TRAIN) for i in range(8)]


def settings(policy, out, **more):
    base = {
        "model_name_or_path": str(policy), "output_dir": str(out), "steps": 4, "rollouts": 8, "minibatch": 4,
        "max_new_tokens": 6, "learning_rate": 1e-3, "precision": "float32", "save": "adapter",
    }  # fmt: skip
    return PPOConfig(**(base | more))


def count_ascii(chats):
    return np.array([10 * sum(c.isascii() for c in chat.completion[-1].content) for chat in chats], dtype=np.float32)


def read_adapter(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def has_learnt(folder):
    return any(weight.abs().max() > 0 for name, weight in read_adapter(folder).items() if "lora_B" in name)


def test_an_update_ends_before_the_minibatch_that_is_too_far_from_what_sampled(policy, tmp_path):
    config = settings(policy, tmp_path / "a", epochs=4, minibatch=2, learning_rate=0.02, max_update_kl=0.01)
    held = PPOTrainer(config, TRAIN, count_ascii).run_step(0)
    assert 0 < held["updates"] < 16
    config = settings(policy, tmp_path / "b", epochs=4, minibatch=2, learning_rate=0.02, max_update_kl=1e9)
    free = PPOTrainer(config, TRAIN, count_ascii).run_step(0)
    assert free["updates"] == 16
    assert free["approx_kl"] > 0.01


def test_a_kl_that_explodes_stops_the_run_and_the_last_good_policy_is_kept(policy, tmp_path):
    config = settings(
        policy, tmp_path / "out", learning_rate=0.05, max_kl=0.5, max_update_kl=1e9, warmup_steps=0, steps=6, epochs=2
    )
    trainer = PPOTrainer(config, TRAIN, count_ascii)
    weights, run_step = [], trainer.run_step
    trainer.run_step = lambda step: (weights.append(copy_trainable(trainer.model)), run_step(step))[1]
    result = trainer.run()
    assert "more than max_kl 0.5" in result.stopped
    *kept, last = result.history
    assert last["kl"] > 0.5 >= max(f["kl"] for f in kept)
    card = json.loads((result.folder / TRAINING_CARD).read_text())
    assert card["stopped"] == result.stopped
    assert result.stopped in (result.folder / "README.md").read_text()
    saved = read_adapter(result.folder)
    for name, weight in weights[-2].items():  # the last that was measured and found good
        if "lora" in name:
            key = name.removeprefix("policy.").replace(".default", "")
            torch.testing.assert_close(saved[key], weight, atol=0, rtol=0)


@pytest.mark.parametrize("steps", [1, 2])
def test_what_the_last_update_made_of_the_policy_is_measured_before_it_is_saved(policy, tmp_path, steps):
    trainer = PPOTrainer(settings(policy, tmp_path / "out", steps=steps, minibatch=8, max_kl=1.0), TRAIN, count_ascii)
    trainer.updater.compute_learning_rates = lambda step: (0.5 if step == steps - 1 else 1e-3, 1e-3)
    result = trainer.run()
    *kept, last = result.history
    assert len(kept) == result.steps == steps
    assert last["kl"] > 1 > max(figures["kl"] for figures in kept)
    assert "more than max_kl 1" in str(result.stopped)
    assert has_learnt(result.folder) == (steps > 1), "the last policy that was measured and found good"


def test_the_last_figures_are_those_of_the_policy_that_is_saved(policy, tmp_path):
    scored = []

    def reward(chats):
        scored.append(count_ascii(chats).mean())
        return count_ascii(chats)

    result = train_ppo(settings(policy, tmp_path / "out"), TRAIN, reward, watch=TuningWatch(count_ascii))
    assert result.stopped is None
    assert (result.steps, len(result.history), len(scored)) == (4, 5, 5)
    last = result.history[-1]
    assert last["reward"] == last["gold"] == pytest.approx(scored[-1])
    assert "kl" in last
    assert "policy_loss" not in last
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["reward"] == last["reward"]


def test_a_reward_that_is_no_number_is_refused_at_first_and_stops_the_run_later(policy, tmp_path):
    calls = []

    def fails(at):
        def reward(chats):
            calls.append(len(chats))
            return count_ascii(chats) if len(calls) != at else np.full(len(chats), math.inf)

        return reward

    with pytest.raises(BadInput, match="8 of 8 rewards not finite"):
        train_ppo(settings(policy, tmp_path / "a"), TRAIN, fails(1))
    calls.clear()
    result = train_ppo(settings(policy, tmp_path / "b"), TRAIN, fails(3))
    assert result.stopped == "the reward is inf"
    assert len(result.history) == 3
    assert has_learnt(result.folder), "of the first step"

    def refuses(chats):
        calls.append(len(chats))
        if len(calls) == 3:
            raise BadInput("reward inf", expected="a finite number", fix="train it again")
        return count_ascii(chats)

    calls.clear()
    result = train_ppo(settings(policy, tmp_path / "c"), TRAIN, refuses)
    assert result.stopped == "the reward is nan", "as where a reward model refuses its own reward"
    assert has_learnt(result.folder)


def test_a_loss_that_is_no_number_is_not_learnt_from(policy, tmp_path):
    trainer = PPOTrainer(settings(policy, tmp_path / "out"), TRAIN, count_ascii)
    update = trainer.updater.update

    def spoil(experience, step):
        if step == 1:
            experience.advantages[0, 0] = math.nan
        return update(experience, step)

    trainer.updater.update = spoil
    result = trainer.run()
    assert result.stopped == "the policy loss is nan"
    assert all(weight.isfinite().all() for weight in read_adapter(result.folder).values())


def test_a_length_bug_is_stopped_by_the_gold_model_and_the_policy_is_that_of_the_best_step(policy, tmp_path):
    def measure(chats):
        texts = [chat.completion[-1].content for chat in chats]
        share = np.array([sum(c.isascii() for c in t) / max(1, len(t)) for t in texts], dtype=np.float32)
        return share, np.array([len(t) for t in texts], dtype=np.float32)

    def reward(chats):
        share, length = measure(chats)
        return share + 0.5 * length

    def gold(chats):
        share, length = measure(chats)
        return 10 + share - 0.1 * length

    config = settings(
        policy, tmp_path / "out", steps=30, rollouts=64, minibatch=64, answers_per_prompt=4, learning_rate=5e-3,
        kl_beta=0.0, missing_eos_penalty=0.0, max_update_kl=1e9, schedule="constant",
    )  # fmt: skip
    watch = TuningWatch(gold, window=128)
    trainer = PPOTrainer(config, TRAIN, reward, watch=watch)
    result = trainer.run()
    assert "lowers the gold reward" in str(result.stopped)
    assert len(result.history) < 30
    seen = [figures["gold"] for figures in result.history]
    assert seen[-1] > 0.95 * max(seen)
    card = json.loads((result.folder / TRAINING_CARD).read_text())
    assert card["stopped"] == result.stopped
    assert (result.folder / "samples.jsonl").read_text().count("\n") == 4
    assert (result.folder / "training.svg").is_file()


def test_tensorboard_gets_the_settings_and_the_figures(policy, tmp_path):
    config = settings(policy, tmp_path / "out", steps=1, report_to=["tensorboard"])
    trainer = PPOTrainer(config, TRAIN, count_ascii)
    [written] = get_checkpoint_folder(tmp_path / "out").rglob("hparams.yml")
    shown = yaml.safe_load(written.read_text())
    assert (shown["clip"], shown["kl_target"], shown["report_to"]) == (0.2, "None", "['tensorboard']")
    assert trainer.run().stopped is None


def test_learning_rates_rise_and_fall(policy, tmp_path):
    rates = PPOTrainer(settings(policy, tmp_path / "o", warmup_steps=1, learning_rate=1.0), TRAIN, count_ascii).updater
    assert [rates.compute_learning_rates(step)[0] for step in range(4)] == pytest.approx([0.5, 0.75, 0.5, 0.25])


def test_where_a_reward_model_has_no_memory_the_error_says_what_to_halve(policy, tmp_path):
    def needs_too_much(chats):
        torch.empty(2**50)
        return count_ascii(chats)

    halve = r"^memory \(.*halve rollouts \(with minibatch\), or max_new_tokens, or max_prompt_tokens$"
    with pytest.raises(BadInput, match=halve):
        PPOTrainer(settings(policy, tmp_path / "a"), TRAIN, needs_too_much).measure(0)
    with pytest.raises(BadInput, match=r"gold one.*halve rollouts"):
        PPOTrainer(settings(policy, tmp_path / "b"), TRAIN, count_ascii, watch=TuningWatch(needs_too_much)).measure(0)


def test_errors_of_memory_and_models_name_what_to_change(policy, tmp_path):
    config = settings(policy, tmp_path / "out")
    with pytest.raises(BadInput, match=r"memory.*halve microbatch_tokens"), explain_out_of_memory(*MEMORY_SETTINGS):
        torch.empty(2**50)
    with pytest.raises(BadInput, match="answers_per_prompt 3: expected a divisor of rollouts"):
        settings(policy, tmp_path / "out", answers_per_prompt=3)
    with pytest.raises(BadInput, match="0 prompts: expected at least one"):
        train_ppo(config, [], count_ascii)
    with pytest.raises(BadInput, match="value_head 'deep': expected linear or mlp"):
        settings(policy, tmp_path / "out", value_head="deep")
    endless = tmp_path / "endless"
    endless.mkdir()
    for file in policy.iterdir():
        (endless / file.name).write_bytes(file.read_bytes())
    named = json.loads((endless / "tokenizer_config.json").read_text())
    named["eos_token"] = None
    (endless / "tokenizer_config.json").write_text(json.dumps(named))
    with pytest.raises(BadInput, match="a tokenizer with an EOS token"):
        train_ppo(settings(endless, tmp_path / "out"), TRAIN, count_ascii)


PROGRAM = """
import json
import sys
import time
import numpy as np
from pathlib import Path
from safetensors.torch import save_file
from rlhf_hitl.policy.ppo.trainer import PPOTrainer
from rlhf_hitl.policy.ppo.config import MEMORY_SETTINGS, PPOConfig
from rlhf_hitl.types import Message, Prompt, Split

policy, out, hang = sys.argv[1:]
train = [Prompt.create((Message("user", f"x number {i}"),), split=Split.TRAIN) for i in range(8)]
config = PPOConfig(model_name_or_path=policy, output_dir=f"{out}/policy", steps=3, rollouts=8, minibatch=4, epochs=2,
                   max_new_tokens=4, learning_rate=5e-3, precision="float32", save="adapter", save_steps=1,
                   kl_target=1.0, kl_horizon=50)
seen = []

def reward(chats):
    if hang == "hang" and len(seen) >= 16:
        Path(f"{out}/hangs").touch()
        time.sleep(600)
    seen.extend(chat.prompt[0].content for chat in chats)
    return np.array([len(c.completion[-1].content) for c in chats], dtype=np.float32)

trainer = PPOTrainer(config, train, reward)
trainer.run()
rank = trainer.accelerator.process_index
save_file({k: p.detach() for k, p in trainer.model.trainable_parameters().items()}, f"{out}/rank{rank}.safetensors")
Path(f"{out}/seen{rank}.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (folder / "tunes_with_ppo.py").write_text(PROGRAM)
    return folder


@pytest.fixture(scope="module")
def whole(policy, program, tmp_path_factory):
    """The history of a run in one process that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    run = run_module("tunes_with_ppo", policy, out, "no", cwd=program)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((out / "policy" / TRAINING_CARD).read_text())["history"]


def assert_same(history, expected):
    assert len(history) == len(expected) == 4
    for one, other in zip(history, expected):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5, nan_ok=True)


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_with_the_same_losses(policy, program, whole, tmp_path):
    with open(tmp_path / "log", "w") as log:
        process = ForkedProcess("tunes_with_ppo", [policy, tmp_path, "hang"], os.environ, [log.fileno()] * 2, program)
        deadline = time.monotonic() + 120
        while not (tmp_path / "hangs").exists():
            is_late = process.poll() is not None or time.monotonic() > deadline
            assert not is_late, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.05)
        process.kill()  # SIGKILL
        assert process.wait() == -9
    checkpoints = get_checkpoint_folder(tmp_path / "policy")
    assert [p.name for p in checkpoints.iterdir()] == ["step-000002"]
    run = run_module("tunes_with_ppo", policy, tmp_path, "no", cwd=program)
    assert run.returncode == 0, run.stderr[-3000:]
    seen = json.loads((tmp_path / "seen0.json").read_text())
    assert len(seen) == 16, "one step of three was left, and to measure the policy after it"
    assert_same(json.loads((tmp_path / "policy" / TRAINING_CARD).read_text())["history"], whole)
    assert not checkpoints.exists()


def test_a_checkpoint_of_another_run_is_refused_and_both_are_named(policy, tmp_path):
    start, calls = tmp_path / "start", []
    shutil.copytree(policy, start)

    def stops(chats):
        calls.append(len(chats))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return count_ascii(chats)

    config = settings(start, tmp_path / "stopped", save_steps=1)
    card = {"reward_model_id": "m_1", "conservative": 0.5}
    with pytest.raises(KeyboardInterrupt):
        train_ppo(config, TRAIN, stops, card=card)
    assert not (tmp_path / "stopped").exists()

    def resume(config=config, train=TRAIN, watch=None, **other):
        return PPOTrainer(config, train, count_ascii, watch=watch, card=card | other).checkpoints.load_newest()

    resume()
    fix = "Fix: .*resume: false"
    with pytest.raises(BadInput, match=rf"^clip 0.3: expected clip 0.2, as in .*step-000001. {fix}"):
        resume(dataclasses.replace(config, clip=0.3))
    with pytest.raises(BadInput, match=r"^prompts 7 \(ids \w+\): expected prompts 8 "):
        resume(train=TRAIN[:7])
    with pytest.raises(BadInput, match=r"^reward_model m_2: expected reward_model m_1"):
        resume(reward_model_id="m_2")
    with pytest.raises(BadInput, match=r"^conservative 0: expected conservative 0\.5"):
        resume(conservative=0)
    with pytest.raises(BadInput, match=r"^gold_reward_model m_3: expected gold_reward_model None"):
        resume(watch=TuningWatch(count_ascii, gold_model_id="m_3"))
    with pytest.raises(BadInput, match=r"^gold_reward_model a function: expected gold_reward_model None"):
        resume(watch=TuningWatch(count_ascii))
    with pytest.raises(BadInput, match=r"^watch_window 64: expected watch_window 128"):
        resume(watch=TuningWatch(None, window=64))
    os.utime(start / "model.safetensors", ns=(1, 1))  # as where it was trained again under its name
    with pytest.raises(BadInput, match=r"^model_name_or_path .*\(files \w+\): expected model_name_or_path "):
        resume()
    # As the error says: begun anew it is a run of its own, whose checkpoints have the same names.
    anew = train_ppo(dataclasses.replace(config, clip=0.3, resume=False), TRAIN, count_ascii)
    assert anew.steps == config.steps


def test_two_processes_have_the_losses_of_one(policy, program, whole, tmp_path):
    from safetensors.torch import load_file

    run_on_two_processes("tunes_with_ppo", policy, tmp_path, "no", cwd=program)
    one, two = (load_file(tmp_path / f"rank{i}.safetensors") for i in (0, 1))
    seen = [json.loads((tmp_path / f"seen{i}.json").read_text()) for i in (0, 1)]
    assert not set(seen[0][:4]) & set(seen[1][:4])
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(one[k].abs().max() > 1e-4 for k in one if "lora_B" in k)
    assert_same(json.loads((tmp_path / "policy" / TRAINING_CARD).read_text())["history"], whole)
