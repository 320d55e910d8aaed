"""Full training: its configuration, its data, its command, and what it leaves."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkout import ROOT
from forked_processes import run_module, run_on_two_processes
from reward_examples import WORDS, chat
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.models import find_best_device, find_best_dtype
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.types import UNRANKED


@pytest.mark.timeout(240)
def test_full_training_on_two_processes_loads_in_plain_transformers(judged_store, tiny_model, tmp_path):
    from transformers import AutoModelForSequenceClassification

    export_snapshot(judged_store, tmp_path / "export")
    given = {
        "config": ROOT / "configs" / "reward.yaml", "model_name_or_path": tiny_model,
        "dataset": tmp_path / "export", "output_dir": tmp_path / "full", "num_train_epochs": 3, "learning_rate": 3e-3,
        "gradient_accumulation_steps": 1, "save_strategy": "no", "report_to": "none",
    }  # fmt: skip
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    run_on_two_processes("rlhf_hitl.scripts.train_reward", *flags)
    model = load_reward_model(tmp_path / "full")
    assert evaluate_reward_model(model, judged_store)[0].accuracy.value > 0.7
    chats = [chat("question 3 about sea", w) for w in WORDS]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "full").eval()
    renderer = model.cache.backbone.renderer
    # The loaded model reads in bf16 where the processor computes in it, plain transformers in fp32.
    near = 1e-4 if find_best_dtype(find_best_device()) is torch.float32 else 2e-2
    for one, reward in zip(chats, model.rewards(chats)):
        ids, pads = list(renderer.render(one).ids), [renderer.pad_id] * 3  # rows as in a batch, padded on either side
        for row, mask in ((ids + pads, [1] * len(ids) + [0] * 3), (pads + ids, [0] * 3 + [1] * len(ids))):
            found = plain(torch.tensor([row]), attention_mask=torch.tensor([mask])).logits.item()
            assert found == pytest.approx(reward, abs=near)
    _, stds, _ = model.margins(chats[:5], chats[5:10])
    assert (stds > 0).all()


def test_full_training_from_the_store_registers_a_lora_model(judged_store, tiny_model, tmp_path):
    from rlhf_hitl.reward.training.full_from_store import train_full_from_store

    config = tmp_path / "config.yaml"
    config.write_text(
        "use_peft: true\nlearning_rate: 5.0e-3\nnum_train_epochs: 2\nper_device_train_batch_size: 16\n"
        "save_strategy: epoch\nreport_to: tensorboard\n"
    )
    model = train_full_from_store(judged_store, str(tiny_model), tmp_path, config=config, max_length=128)
    assert np.abs(model.head.weights).max() > 0  # the score head was trained, not frozen
    assert get_reward_model(judged_store).id == model.id
    folder = tmp_path / "reward" / model.id
    card = json.loads((folder / "reward_model.json").read_text())
    assert card["backend"] == "full"
    assert card["data_hash"].startswith("sha256:")
    assert len(list(folder.glob("checkpoint-*"))) == 2  # no output_dir was named: what the run wrote is here
    assert list(folder.rglob("events.out.tfevents*"))
    assert (folder / "training.svg").is_file()


def test_the_command_follows_the_file_of_full_training_and_prints_one_json_object(judged_store, tiny_model, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tiny_model}\nmax_length: 96\nlogging_steps: 1\neval_strategy: epoch\n"
        "num_train_epochs: 1\ncenter_rewards_coefficient: 0.01\npad_to_multiple_of: 8\n"
    )
    workspace = tmp_path / "not" / "there" / "yet"
    run = run_module(
        "rlhf_hitl", "train-reward", "--backend", "full", "--config", config, "--json", "--store", judged_store.url,
        env=os.environ | {"RLHF_HITL_WORKSPACE": str(workspace)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    card = json.loads((Path(json.loads(run.stdout)["path"]) / "reward_model.json").read_text())
    assert card["backbone"]["max_length"] == 96


@pytest.fixture
def pairs_folder(tmp_path):
    """Saves a dataset of one pair a prompt in each split and returns its folder."""
    from datasets import Dataset, DatasetDict

    def save(**splits: list[str]) -> str:
        def row(prompt: str) -> dict:
            (question,) = chat(prompt, "").prompt
            answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
            return {"prompt": [{"role": "user", "content": question.content}], **answers}

        DatasetDict({k: Dataset.from_list([row(p) for p in v]) for k, v in splits.items()}).save_to_disk(tmp_path / "d")
        return str(tmp_path / "d")

    return save


@pytest.mark.parametrize("held", ["heldout", "test"])
def test_full_training_refuses_a_row_whose_prompt_is_held_out(pairs_folder, held):
    from rlhf_hitl.reward.training.dataset_loading import load_training_rows

    with pytest.raises(BadInput, match="train row 1: "):
        load_training_rows(pairs_folder(**{"train": ["sea", "The  Sun", "fox"], held: ["the sun"]}))


def test_full_training_without_calibration_rows_evaluates_nothing(pairs_folder, tiny_model, tmp_path):
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    flags = {"--dataset": pairs_folder(train=["sea", "sun"]), "--output_dir": str(tmp_path / "out")}
    flags |= {"--model_name_or_path": str(tiny_model), "--eval_strategy": "epoch", "--pad_to_multiple_of": "64"}
    trainer: Any = build_reward_trainer(
        *parse_arguments((FullTrainingConfig, ModelConfig), [x for pair in flags.items() for x in pair])
    )
    assert trainer.args.eval_strategy == "no"
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] == 64
    trainer.model.score.weight.data.fill_(0.1)
    trainer.model.eval()
    plain = trainer.compute_loss(trainer.model, dict(batch)).item()
    trainer.args.center_rewards_coefficient = 0.5
    centred = trainer.compute_loss(trainer.model, dict(batch)).item()
    chosen, rejected = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.view(-1, 2).T
    assert centred - plain == pytest.approx(0.5 * ((chosen + rejected) ** 2).mean().item(), rel=1e-4)


def test_full_training_learns_from_soft_labels_ties_and_weights(tiny_model, tmp_path):
    """The loss by hand: Davidson's with the labels' own share of ties, each label as heavy as it says."""
    from datasets import Dataset, DatasetDict
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    def row(prompt: str, p: tuple[float, float, float], weight: float) -> dict:
        (question,) = chat(prompt, "").prompt
        answers = {side: [{"role": "assistant", "content": f"{side} one"}] for side in ("chosen", "rejected")}
        label = dict(zip(("p_chosen", "p_tie", "p_rejected"), p)) | {"weight": weight}
        return {"prompt": [{"role": "user", "content": question.content}], **answers, **label}

    rows = [row("sea", (0.75, 0.25, 0.0), 4), row("sun", (0.0, 1.0, 0.0), 1), row("fox", (0.5, 0.0, 0.5), 1)]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "d")
    flags = {"--dataset": str(tmp_path / "d"), "--output_dir": str(tmp_path / "out"), "--length_coefficient": "2"}
    flags |= {"--model_name_or_path": str(tiny_model), "--per_device_train_batch_size": "3", "--share_prompts": "false"}
    trainer: Any = build_reward_trainer(
        *parse_arguments((FullTrainingConfig, ModelConfig), [x for pair in flags.items() for x in pair])
    )
    [nu] = trainer.prevalences
    assert nu == pytest.approx(2 * (1 / 3) / (1 - 1 / 3))  # 2 of the 6 votes are ties
    trainer.model.score.weight.data.normal_(std=0.3)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    weights, outcomes = batch["weight"].numpy(), [[0, 1], [0, 0], [1, 0], [UNRANKED, UNRANKED]]
    shares = np.zeros((3, 4))
    for row, ranks, vote_shares in zip(shares, batch["ranks"].tolist(), batch["shares"].tolist()):
        row[[outcomes.index(ranking) for ranking in ranks]] = vote_shares
    assert sorted(map(tuple, shares)) == [(0, 1, 0, 0), (0.5, 0, 0.5, 0), (0.75, 0.25, 0, 0)]
    shares = shares[:, :3]
    rewards = trainer.model(batch["input_ids"], batch["attention_mask"]).logits.squeeze(-1).detach().numpy()
    m = rewards[::2] - rewards[1::2]
    odds = np.stack([np.exp(m / 2), np.full(3, nu), np.exp(-m / 2)], axis=1)
    by_hand = -(shares * np.log(odds / odds.sum(1, keepdims=True))).sum(1) @ weights / 6
    d = np.full(3, np.log(11 / 13))  # "chosen one" and "rejected one", and one each for the logarithm
    by_hand += 2 * (m @ d) ** 2 / (m @ m * (d @ d))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("column", [{"weight": -1.0}, {"weight": float("nan")}, {"p_chosen": 0.7, "p_tie": 0.6}])
def test_full_training_refuses_an_invalid_weight_or_invalid_shares(column):
    from rlhf_hitl.reward.training.dataset_rows import read_shares, read_weight

    with pytest.raises(BadInput, match="weight" if "weight" in column else "p_tie"):
        (read_weight if "weight" in column else read_shares)(column)


@pytest.mark.parametrize(
    "flag", ["load_in_4bit true", "load_in_8bit true", "use_dora true", "trust_remote_code true", "eos_token x"]
)
def test_full_training_refuses_unsupported_settings(flag, tmp_path):
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    name, value = flag.split()
    with pytest.raises(BadInput, match=name):
        build_reward_trainer(
            *parse_arguments((FullTrainingConfig, ModelConfig), ["--output_dir", str(tmp_path), f"--{name}", value])
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stepz: 3", r"config\.yaml: max_stepz: expected a setting .*\. Fix: did you mean max_steps\?"),
        ("max_steps: three", r"config\.yaml: max_steps three: expected a whole number"),
        ("- three", r"config\.yaml: expected lines of NAME: VALUE"),
        ("a: [", r"config\.yaml:1: expected YAML \("),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_with_its_file(tmp_path, text, message):
    from trl import ModelConfig

    from rlhf_hitl.arguments import parse_arguments
    from rlhf_hitl.reward.training.full_config import FullTrainingConfig

    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        parse_arguments((FullTrainingConfig, ModelConfig), ["--config", str(tmp_path / "config.yaml")])
    for flags in (["--config"], ["--config", str(tmp_path)]):
        with pytest.raises(BadInput, match=r"YAML file|FILE\.yaml"):
            parse_arguments((FullTrainingConfig, ModelConfig), flags)


def test_full_training_script_answers_a_bad_flag_with_one_line():
    run = run_module("rlhf_hitl.scripts.train_reward", "--no_such_flag", 1)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: --no_such_flag: expected a setting")
    assert "Traceback" not in run.stderr
