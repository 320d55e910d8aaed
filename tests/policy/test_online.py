"""RLOO and GRPO by TRL: that they raise a real reward, what they refuse, resuming, and two processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from checkout import ROOT
from command_line import run_command
from forked_processes import run_on_two_processes
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.policy.dpo import DPOSettings
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.policy.dpo_rounds import MadePairs, train_dpo_in_rounds
from rlhf_hitl.policy.online import train_online
from rlhf_hitl.policy.online_rewards import RewardCallable, RewardKeeper
from rlhf_hitl.policy.online_settings import GRPOSettings, RLOOSettings
from rlhf_hitl.policy.policy_folder import TRAINING_CARD, get_checkpoint_folder
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.policy.training import DataArguments
from rlhf_hitl.policy.training_prompts import read_training_prompts
from rlhf_hitl.policy.tuning_watch import TuningWatch, WatchArguments
from rlhf_hitl.types import Completion, Message, Prompt, Split

METHODS = {"rloo": RLOOSettings, "grpo": GRPOSettings}


def prompts(n, split=Split.TRAIN):
    return [Prompt.create((Message("user", f"x number {i}"),), split=split) for i in range(n)]


def ascii_share(chats):
    texts = [chat.completion[-1].content for chat in chats]
    return np.array([10 * sum(x.isascii() for x in t) / max(len(t), 1) for t in texts], dtype=np.float32)


def settings(method, policy, out, **more):
    base = {
        "model_name_or_path": str(policy), "output_dir": str(out), "use_cpu": True, "bf16": False, "seed": 1,
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 2,
        "learning_rate": 1e-2,
    }  # fmt: skip
    return METHODS[method](**(base | more))


@pytest.mark.parametrize("method", METHODS)
def test_a_policy_learns_what_earns_more(method, policy, tmp_path, capsys):
    out = tmp_path / "tuned"
    result = train_online(
        settings(method, policy, out, max_steps=25, per_device_train_batch_size=64, beta=0.01, learning_rate=5e-3),
        prompts(32),
        ascii_share,
    )
    rewards = [row["reward_before_penalty"] for row in result["history"]]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 1.0  # the standard error of a mean of 320 is below 0.2
    card = json.loads((out / TRAINING_CARD).read_text())
    assert (card["method"], card["answers"], card["steps"]) == (method, 25 * 64, 25)
    assert card["history"][0]["kl"] == pytest.approx(0, abs=1e-4)  # the first answers are the untouched policy's
    assert (out / "model.safetensors").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["tuned"]
    assert capsys.readouterr().out == ""  # stdout belongs to --json


def test_answers_are_scored_as_they_are_and_the_penalty_follows_the_spread(tiny_model):
    tokenizer: Any = load_tokenizer(tiny_model)
    [prompt] = prompts(1)
    seen, logged = [], {}

    def lengths(chats):
        seen.extend(chat.completion[-1].content for chat in chats)
        return np.array([len(chat.completion[-1].content) for chat in chats], dtype=np.float32)

    eos = {tokenizer.eos_token_id}
    reward = RewardCallable({prompt.id: prompt}, lengths, lambda chats: None, PromptReader(tokenizer), eos, 2.0)
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("sea", "sea sea", "")]
    ids = [said[0] + [*eos], said[1], [*eos]]
    given = reward(["x"] * 3, ["", "", ""], ids, [prompt.id] * 3, logged.__setitem__)
    assert seen == ["sea", "sea sea", ""]
    mean, std = np.mean([3, 7, 0]), np.std([3, 7, 0])
    assert given == pytest.approx([(3 - mean) / std, (7 - mean) / std - 2, -mean / std])
    assert logged == {
        "reward_before_penalty": pytest.approx(10 / 3), "ended": pytest.approx(2 / 3), "empty": pytest.approx(1 / 3),
        "repeated": 0, "distinct": 1, "unreadable": 0, "tokens": pytest.approx(np.mean([len(i) for i in ids])),
    }  # fmt: skip
    reward(["x"], [""], [said[1]], [prompt.id], logged.__setitem__)
    assert reward.seen.as_dict() == {
        "answers": 4, "empty_answers": 1, "unreadable_answers": 0, "cut_off_answers": 2,
        "reward_mean": pytest.approx(17 / 4), "reward_std": pytest.approx(np.std([3, 7, 0, 7])),
    }  # fmt: skip


def test_a_length_bug_is_stopped_by_the_gold_model_and_the_policy_is_that_of_its_best_step(policy, tmp_path):
    lengths, length_bug = [], 40  # what the buggy reward adds for all the length that there may be

    def measure(chats):
        return np.array([len(chat.completion[-1].content) for chat in chats], dtype=np.float32)

    def reward(chats):
        lengths.append(float(measure(chats).mean()))
        return ascii_share(chats) + length_bug * measure(chats) / 40

    watch = TuningWatch(lambda chats: ascii_share(chats) - 2 * measure(chats) / 40, window=128)
    of_run = settings("rloo", policy, tmp_path / "tuned", max_steps=40, per_device_train_batch_size=64, beta=0.0)
    of_run.learning_rate, of_run.missing_eos_penalty = 2e-3, 0.0
    result = train_online(of_run, prompts(32), reward, watch=watch)
    assert "the gold reward" in result["stopped"]
    gold = [row["gold"] for row in result["history"]]
    assert len(gold) < 40
    assert gold[-1] > 0.95 * max(gold)
    card = json.loads((tmp_path / "tuned" / TRAINING_CARD).read_text())
    assert card["stopped"] == result["stopped"]
    assert "stopped early" in (tmp_path / "tuned" / "README.md").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_a_kl_that_explodes_stops_the_run_and_the_policy_of_the_step_before_is_kept(
    method, policy, tmp_path, monkeypatch
):
    sampled_by = []  # the weights that sample the answers of each step

    def copy_weights(self, args, state, control, model, **kwargs):
        sampled_by.append({k: v.detach().clone() for k, v in get_peft_model_state_dict(model).items()})

    monkeypatch.setattr(RewardKeeper, "on_step_begin", copy_weights)
    of_run = settings(method, policy, tmp_path / "tuned", max_steps=20, learning_rate=5e-2, beta=1e-3, max_kl=0.5)
    of_run.merge = False
    result = train_online(of_run, prompts(32), ascii_share)
    assert "nats an answer, more than max_kl 0.5" in result["stopped"]
    assert result["steps"] == len(sampled_by) < 20
    assert result["stopped"] in (tmp_path / "tuned" / "README.md").read_text()
    saved = load_file(tmp_path / "tuned" / "adapter_model.safetensors")
    for name, weight in sampled_by[-2].items():
        torch.testing.assert_close(saved[name], weight, atol=0, rtol=0)
    assert any(not torch.equal(saved[name], weight) for name, weight in sampled_by[-1].items())


def test_a_reward_in_another_unit_gives_the_same_training(policy, tmp_path):
    of_run, losses, rewards = {"max_steps": 4, "per_device_train_batch_size": 16, "beta": 0.1}, [], []
    for unit in (1, 100):
        out = tmp_path / str(unit)
        result = train_online(
            settings("rloo", policy, out, **of_run), prompts(8), lambda chats, unit=unit: unit * ascii_share(chats)
        )
        losses.append([row["loss"] for row in result["history"]])
        rewards.append([row["reward_before_penalty"] for row in result["history"]])
    assert rewards[1] == pytest.approx(100 * np.array(rewards[0]), rel=1e-4)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "100"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-3, rtol=1e-3)


def limit_positions(policy, folder, positions):
    """Return a copy of a policy with so many positions."""
    shutil.copytree(policy, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    return str(folder)


def test_prompts_are_left_out_that_leave_no_positions_for_an_answer(policy, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    reader = PromptReader(load_tokenizer(policy))  # type: ignore[arg-type]
    short, long = (Prompt.create((Message("user", text),), split=Split.TRAIN) for text in ("sea", "sea " * 9))
    few = limit_positions(policy, tmp_path / "few", len(reader.tokenize(short)) + 6)
    how: dict[str, Any] = {"policy": few, "max_prompt_tokens": 99, "max_new_tokens": 6, "skip_bad": False}
    read = read_training_prompts([short, long], reader, None, **how)
    assert (read.prompts, read.too_long) == ([short], 1)
    assert "less 6 for an answer" in caplog.text
    read = read_training_prompts([short, long], reader, None, **how | {"policy": str(policy)})
    assert read.too_long == 0


def test_bad_input_is_refused_before_anything_is_trained(policy, tmp_path):
    out, train = tmp_path / "out", prompts(8)
    few_positions = limit_positions(policy, tmp_path / "few", 8)
    for bad, named, more in (
        (prompts(8, Split.HELDOUT), "train split", {}),
        (prompts(8, Split.CALIBRATION), "train split", {}),
        ([], "import prompts", {}),
        (train[:1], "import more prompts", {}),
        (train, "max_prompt_tokens", {"max_prompt_tokens": 2}),
        (train, "8 positions, less 6 for an answer", {"model_name_or_path": few_positions}),
        (train, "use_vllm", {"use_vllm": True}),
        (train, "log_completions", {"log_completions": True}),
        (train, "lora_r", {"lora_r": 0}),
    ):
        with pytest.raises(BadInput, match=named):
            train_online(settings("rloo", policy, out, **more), bad, ascii_share)
    with pytest.raises(BadInput, match="not there yet"):
        train_online(settings("grpo", policy, policy), train, ascii_share)
    with pytest.raises(BadInput, match="finite number"):
        train_online(settings("grpo", policy, out), train, lambda chats: np.full(len(chats), np.nan))
    assert not out.exists()


def test_a_reward_that_never_differs_is_named(policy, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    few = settings("rloo", policy, tmp_path / "out", max_steps=1)
    result = train_online(few, prompts(8), lambda chats: np.full(len(chats), 0.5))
    assert "all 8 rewards of the first step are 0.5" in caplog.text
    assert result["reward_std"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_like_one_that_was_not_stopped(method, policy, tmp_path):
    train = prompts(8)
    of_run = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "resume_from_checkpoint": "latest"}
    whole = train_online(settings(method, policy, tmp_path / "whole", **of_run), train, ascii_share)
    calls = []

    def stops(chats):
        calls.append(len(chats))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ascii_share(chats)

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_online(settings(method, policy, out, **of_run), train, stops)
    assert not out.exists()
    newest = get_checkpoint_folder(out) / "checkpoint-2"
    if method == "rloo":  # as a kill leaves it while a checkpoint is written: with some of its files
        shutil.copytree(newest, newest.with_name("checkpoint-3"), ignore=shutil.ignore_patterns("*.json"))
    else:
        of_run["resume_from_checkpoint"] = str(shutil.copytree(newest, tmp_path / "elsewhere" / "kept"))
    with pytest.raises(BadInput, match=r"reward_model m_2.* reward_model None, as in"):
        train_online(settings(method, policy, out, **of_run), train, ascii_share, card={"reward_model_id": "m_2"})
    resumed = train_online(settings(method, policy, out, **of_run), train, ascii_share)
    assert resumed["answers"] == whole["answers"]
    assert len(resumed["history"]) == 3
    assert resumed["history"][-1]["reward"] == pytest.approx(whole["history"][-1]["reward"], abs=1e-5)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-5)
    assert not get_checkpoint_folder(out).exists()


def test_a_checkpoint_is_written_where_all_answers_were_learnt_from(policy, tmp_path):
    """TRL keeps no answers: a training that goes on in the middle would sample others."""
    of_run = {"save_strategy": "steps", "save_steps": 1, "num_iterations": 2}
    with pytest.raises(BadInput, match=r"^save_steps 1: expected a multiple of the 2 steps"):
        train_online(settings("grpo", policy, tmp_path / "out", **of_run), prompts(8), ascii_share)


def test_without_beta_it_is_said_that_nothing_measures_the_kl(policy, tmp_path, caplog):
    result = train_online(settings("rloo", policy, tmp_path / "out", max_steps=1, beta=0.0), prompts(8), ascii_share)
    [warning] = result["warnings"]
    assert "max_kl 50 stops nothing" in warning
    assert warning in caplog.text


def test_only_a_whole_checkpoint_is_gone_on_from(policy, tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(BadInput, match="that was written whole"):
        train_online(
            settings("rloo", policy, tmp_path / "out", resume_from_checkpoint=str(tmp_path / "checkpoint-1")),
            prompts(8),
            ascii_share,
        )


def test_what_tensorboard_shows_stays_in_the_folder_of_the_policy(policy, tmp_path):
    train_online(
        settings("rloo", policy, tmp_path / "rloo", max_steps=1, report_to=["tensorboard"]), prompts(8), ascii_share
    )
    assert list((tmp_path / "rloo" / "logs").glob("*tfevents*"))
    pairs = []
    for prompt in prompts(4):
        good, bad = (Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("sea", "sun"))
        pairs.append(DPOPair(prompt, good, bad, "human"))
    of_dpo = DPOSettings(
        model_name_or_path=str(policy), output_dir=str(tmp_path / "dpo"), use_cpu=True, bf16=False,
        report_to=["tensorboard"],
    )  # fmt: skip
    train_dpo_in_rounds(of_dpo, lambda number, policy: MadePairs(pairs, {}), rounds=2)
    assert list((tmp_path / "dpo" / "logs").glob("*tfevents*"))
    assert list((tmp_path / "dpo" / "logs" / "round-1").glob("*tfevents*"))
    assert {p.name for p in tmp_path.iterdir()} == {"rloo", "dpo"}


PROGRAM = """
import sys
import numpy as np
from safetensors.torch import save_file
from rlhf_hitl.policy import dpo, online
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.policy.online_settings import RLOOSettings
from rlhf_hitl.types import Completion, Message, Prompt, Split

train = [Prompt.create((Message("user", f"x number {i}"),), split=Split.TRAIN) for i in range(8)]

def train_with_dpo(policy, out, batch_size):
    pairs = []
    for i, p in enumerate(train):
        good, bad = (Completion.create(p.id, (Message("assistant", t),), "p") for t in ("sea " * (i + 1), "sun"))
        pairs.append(DPOPair(p, good, bad, "human", share=1 - i / 16, weight=1 + i % 3, tie=0.2 * (i % 2)))
    dpo.train_dpo(dpo.DPOSettings(
        model_name_or_path=policy, output_dir=out, use_cpu=True, bf16=False, num_train_epochs=2, seed=1,
        per_device_train_batch_size=batch_size, learning_rate=1e-2), pairs)

def reward(chats):
    return np.array([len(c.completion[-1].content) for c in chats], dtype=np.float32)

def keep(trainer, *args, **more):
    state = {k: p.detach() for k, p in trainer.model.named_parameters() if p.requires_grad}
    save_file(state, f"{out}/rank{trainer.accelerator.process_index}.safetensors")
    return save(trainer, *args, **more)

if __name__ == "__main__":
    policy, out = sys.argv[1:]
    train_with_dpo(policy, f"{out}/dpo", 2)
    save, online.save_trained_policy = online.save_trained_policy, keep
    online.train_online(RLOOSettings(
        model_name_or_path=policy, output_dir=f"{out}/rloo", bf16=False, max_steps=2, seed=1, learning_rate=1e-2,
        per_device_train_batch_size=2, num_generations=4, max_completion_length=4), train, reward)
"""


def test_two_processes_train_one_policy(policy, tmp_path):
    """DPO gives what one process gives, with the reference computed once. Of RLOO a prompt's four answers lie in both
    processes, which end with the same weights; TRL draws answers from a stream of each process's own, so they are not
    those that one process samples."""
    (tmp_path / "two_processes.py").write_text(PROGRAM)
    run_on_two_processes("two_processes", policy, tmp_path, cwd=tmp_path)
    namespace: dict[str, Any] = {"__name__": "one_process"}
    exec(PROGRAM, namespace)
    namespace["train_with_dpo"](policy, str(tmp_path / "one"), 4)
    one, both = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "dpo"))
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, atol=1e-5, rtol=1e-5)
    losses = [
        [row["loss"] for row in json.loads((tmp_path / name / TRAINING_CARD).read_text())["history"]]
        for name in ("one", "dpo")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][0] > losses[0][-1]
    rank0, rank1 = (load_file(tmp_path / f"rank{i}.safetensors") for i in (0, 1))
    assert all(torch.equal(rank0[k], rank1[k]) for k in rank0)
    assert any(rank0[k].abs().max() > 1e-4 for k in rank0 if "lora_B" in k)
    card = json.loads((tmp_path / "rloo" / TRAINING_CARD).read_text())
    assert (card["processes"], card["answers"], len(card["history"])) == (2, 8, 2)


# The settings and files of settings for many GPUs.


@pytest.mark.parametrize("method", METHODS)
def test_the_command_trains_on_the_newest_reward_model_which_has_another_tokenizer(
    method, trained_model, policy, tmp_path
):
    """The policy's tokenizer has another vocabulary and template: the reward model reads the text."""
    other = tmp_path / "other"
    shutil.copytree(policy, other)
    tokenizer: Any = load_tokenizer(policy)
    retrained = tokenizer.train_new_from_iterator(["hello there, you", "question 1 about the sea"], 300)
    retrained.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"
    retrained.save_pretrained(other)
    assert len(retrained) != len(tokenizer)
    out, url = tmp_path / "tuned", f"sqlite:///{tmp_path}/preferences.db"
    done = run_command(
        f"train-{method}", "--store", url, "--policy", other, "--out", out, "--json", *(
            word for setting in ("use_cpu=true", "max_steps=2", "max_completion_length=6", "conservative=1",
                                 "per_device_train_batch_size=8") for word in ("--set", setting)
        ), env=os.environ | {"RLHF_HITL_WORKSPACE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["policy"], result["reward_model_id"]) == (str(out), trained_model.id)
    assert (result["answers"], result["conservative"]) == (16, 1.0)
    assert {"reward", "kl", "empty"} <= set(result["last"])
    assert "without stored answers" not in done.stderr
    kinds = (DataArguments, WatchArguments, METHODS[method])
    data, _, again = parse_arguments(kinds, ["--config", str(out / "config.yaml")])
    assert (data.reward_model, data.conservative, again.max_steps) == (trained_model.id, 1.0, 2)
    assert again.generation_batch_size == 8, "computed, and not given twice"


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_its_files(file):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config: Any = load_config_from_file(str(file))
    assert config.num_processes == (1 if file.stem == "single" else 8)
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    kinds = {"single": (False, False, False), "ddp": (True, False, False), "fsdp2": (False, True, False)}
    wanted = kinds.get(file.stem, (False, False, True))
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed) == wanted
    if file.stem == "fsdp2":
        assert arguments.fsdp_version == 2
    if file.stem == "zero3":
        assert int(arguments.zero_stage) == 3


@pytest.mark.parametrize("method", METHODS)
def test_trl_reads_the_settings_of_vllm_beside_training(method):
    file = str(ROOT / "configs" / "vllm.yaml")
    data, parsed = parse_arguments((DataArguments, METHODS[method]), ["--config", file, "--output_dir", "out"])
    assert (parsed.use_vllm, parsed.vllm_mode, parsed.generation_batch_size) == (True, "colocate", 64)
    assert parsed.vllm_max_model_length == parsed.max_prompt_tokens + parsed.max_completion_length
    assert data.conservative == 0
