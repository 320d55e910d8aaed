"""Runs of full reward training: killed and resumed, on two processes, failed, plotted."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config import load_config_from_file
from accelerate.utils import DistributedType
from datasets import DatasetDict, load_dataset
from safetensors.numpy import load_file
from trl import ModelConfig

from checkout import ROOT
from forked_processes import ForkedProcess, run_module, run_on_two_processes
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.labelled_pairs import load_labelled_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.seen_prompts import SeenPrompts
from rlhf_hitl.reward.training.checkpoints import find_latest_checkpoint, is_complete_checkpoint
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import (
    build_reward_trainer,
    run_reward_training,  # fmt: skip
    save_trained_model,
)
from rlhf_hitl.reward.training.lora import refuse_frozen_head
from rlhf_hitl.types import Split, hash_prompt_family, parse_messages

SCRIPT = "rlhf_hitl.scripts.train_reward"


@pytest.fixture
def flags(judged_store, tiny_model, tmp_path):
    """Flags of a run of a few dozen steps, with dropout-free maths and a checkpoint every third step."""
    export_snapshot(judged_store, tmp_path / "export")
    return {
        "dataset": tmp_path / "export", "output_dir": tmp_path / "out", "model_name_or_path": tiny_model,
        "max_length": 64, "learning_rate": 3e-3, "num_train_epochs": 4, "per_device_train_batch_size": 8,
        "logging_steps": 2, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 3, "report_to": "none",
        "bf16": "false",
    }  # fmt: skip


def listed(flags: dict) -> list[str]:
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def run(flags: dict) -> None:
    done = run_module(SCRIPT, *listed(flags))
    assert done.returncode == 0, done.stderr[-3000:]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def furthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[k] - b[k]).max()) for k in a)


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_weights(flags, tmp_path):
    """Killed outright, at a moment nobody chose; what was half written is passed over."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # says, where it fails, when that was
    chance = random.Random(seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(flags | {"output_dir": whole})
    again = flags | {"output_dir": killed, "resume_from_checkpoint": "latest"}
    wanted, after = chance.choice([3, 6, 9, 12]), chance.uniform(0, 0.1)
    process = ForkedProcess(SCRIPT, listed(again), os.environ, [2, 2])
    deadline = time.monotonic() + 200
    while not (killed / f"checkpoint-{wanted}").is_dir():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(after)
    process.kill()
    process.wait()
    assert not (killed / "reward_model.json").exists()
    run(again)
    assert furthest(weights(whole), weights(killed)) < 1e-6
    assert (
        json.loads((whole / "reward_model.json").read_text())["id"]
        == json.loads((killed / "reward_model.json").read_text())["id"]
    )


def test_only_complete_checkpoints_are_resumed_from(flags, tmp_path):
    out = tmp_path / "out"
    for step, state in ((3, "{}"), (12, '{"half'), (21, None)):
        (out / f"checkpoint-{step}").mkdir(parents=True)
        if state is not None:
            (out / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert [is_complete_checkpoint(out / f"checkpoint-{step}") for step in (3, 12, 21)] == [True, False, False]
    assert find_latest_checkpoint(out) == out / "checkpoint-3"
    (out / "checkpoint-3" / "rng_state_0.pth").touch()
    assert is_complete_checkpoint(out / "checkpoint-3")
    # The second process was killed before it had written its own state.
    assert not is_complete_checkpoint(out / "checkpoint-3", processes=2)
    config, model_config = parse_arguments(
        (FullTrainingConfig, ModelConfig), listed(flags | {"resume_from_checkpoint": out / "checkpoint-12"})
    )
    with pytest.raises(BadInput, match="whole checkpoint"):
        run_reward_training(build_reward_trainer(config, model_config), config)


def test_a_terminated_training_leaves_nothing_half_written(judged_store, tiny_model, tmp_path):
    command = ["train-reward", "--backend", "full", "--backbone", tiny_model]
    env = os.environ | {"RLHF_HITL_STORE": judged_store.url, "RLHF_HITL_WORKSPACE": str(tmp_path / "workspace")}
    with open(tmp_path / "errors", "w") as errors:
        process = ForkedProcess("rlhf_hitl", command, env, [2, errors.fileno()])
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("workspace/*/dataset")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert (tmp_path / "errors").read_text().splitlines()[-1].startswith("error: interrupted: no model was made.")
    assert not list(tmp_path.glob("workspace/*/dataset"))


@pytest.mark.timeout(300)
def test_two_processes_see_the_losses_that_one_does(flags, tmp_path):
    """The same batches of 16 pairs, all on one process or half on each."""
    rows = load_dataset(str(flags["dataset"]), cache_dir=str(tmp_path / "cache"))
    DatasetDict(train=rows["train"].select(range(64)), calibration=rows["calibration"].select(range(16))).save_to_disk(
        tmp_path / "even"
    )
    flags |= {"save_strategy": "epoch", "logging_steps": 1, "num_train_epochs": 2, "dataset": tmp_path / "even"}
    logged = {}
    for processes, batch in ((1, 16), (2, 8)):
        out = tmp_path / str(processes)
        given = flags | {"output_dir": out, "per_device_train_batch_size": batch}
        if processes == 1:
            run(given)
        else:
            run_on_two_processes(SCRIPT, *listed(given))
        newest = find_latest_checkpoint(out)
        assert newest is not None
        logged[processes] = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    seen = [[row["loss"] for row in logged[n] if "loss" in row] for n in (1, 2)]
    assert len(seen[0]) > 6
    assert seen[0][-1] < 0.9 * seen[0][0]
    assert seen[1] == pytest.approx(seen[0], abs=1e-3)
    for name in ("eval_loss", "eval_accuracy", "accuracy", "margin", "grad_norm"):
        one, two = ([row[name] for row in logged[n] if name in row] for n in (1, 2))
        assert two == pytest.approx(one, abs=2e-3, rel=1e-2), name


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(flags):
    config, model_config = parse_arguments((FullTrainingConfig, ModelConfig), listed(flags))
    trainer = build_reward_trainer(config, model_config)
    torch.nn.init.constant_(trainer.model.score.weight, float("inf"))
    with pytest.raises(BadInput, match=r"loss nan at step 0.*learning_rate"):
        trainer.train()


def test_a_frozen_score_head_is_refused(flags):
    trainer = build_reward_trainer(*parse_arguments((FullTrainingConfig, ModelConfig), listed(flags)))
    refuse_frozen_head(trainer.model)
    trainer.model.score.weight.requires_grad_(False)
    with pytest.raises(BadInput, match="a score head that is frozen"):
        refuse_frozen_head(trainer.model)


def test_a_full_model_says_what_it_started_from_and_has_seen_and_no_path_of_this_machine(
    flags, judged_store, tiny_model, tmp_path
):
    given = listed(flags | {"save_strategy": "no", "max_steps": 1})
    config, model_config = parse_arguments((FullTrainingConfig, ModelConfig), given)
    trainer = build_reward_trainer(config, model_config)
    run_reward_training(trainer, config)
    assert save_trained_model(trainer, config, tmp_path / "model", tmp_path) is not None
    for name in ("README.md", "reward_model.json"):
        text = (tmp_path / "model" / name).read_text()
        assert tiny_model.name in text
        assert str(tmp_path) not in text
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    model = load_reward_model(tmp_path / "elsewhere")
    assert model.backend == "full"
    rows = load_dataset(str(flags["dataset"]), cache_dir=str(tmp_path / "cache"))
    trained, calibrated = (
        {hash_prompt_family(parse_messages(r["prompt"])) for r in rows[split]} for split in ("train", "calibration")
    )
    assert model.seen == SeenPrompts.of(trained, calibrated)  # whoever trained it, a replay leaves these out
    found, _ = evaluate_reward_model(model, judged_store, split=Split.TRAIN)
    assert found.trained_on == len(load_labelled_pairs(judged_store, Split.TRAIN))


def test_a_run_is_plotted_and_a_missing_tracker_is_named(flags, tmp_path):
    config, model_config = parse_arguments((FullTrainingConfig, ModelConfig), listed(flags | {"save_strategy": "no"}))
    trainer = build_reward_trainer(config, model_config)
    run_reward_training(trainer, config)
    drawn = (tmp_path / "out" / "training.svg").read_text()
    assert "<svg" in drawn
    assert {"loss", "eval_loss", "eval_accuracy"} <= {key for row in trainer.state.log_history for key in row}
    given = listed(flags | {"report_to": "swanlab"})
    with pytest.raises(BadInput, match="pip install swanlab"):
        build_reward_trainer(*parse_arguments((FullTrainingConfig, ModelConfig), given))
    given = listed(flags | {"report_to": "tensorbord"})
    with pytest.raises(BadInput, match="report_to tensorbord: expected a tracker: none, tensorboard"):
        build_reward_trainer(*parse_arguments((FullTrainingConfig, ModelConfig), given))


@pytest.mark.parametrize("kind", ["MULTI_GPU", "FSDP", "DEEPSPEED"])
def test_accelerate_reads_the_files_for_several_gpus(kind):
    files = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
    read = {load_config_from_file(str(f)).distributed_type: f for f in files}
    named = read[DistributedType(kind)].read_text().splitlines()[1]
    assert f"--config_file configs/accelerate/{read[DistributedType(kind)].name} scripts/train_reward.py" in named
