"""Full training on rankings of K completions: reading, packing, and their likelihood."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from safetensors.torch import load_file
from trl import ModelConfig

from forked_processes import run_module, run_on_two_processes
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.losses import davidson_luce_loss
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.training.dataset_loading import load_training_rows
from rlhf_hitl.reward.training.dataset_rows import read_ranking
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer, run_reward_training
from rlhf_hitl.types import UNRANKED, Split

WORDS = ["sea", "sun", "poem", "paris", "friend", "lazy", "quick", "brown", "fox", "capital", "today"]


def say(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def row(i: int, rankings: list[list[int]], **more: Any) -> dict[str, Any]:
    """A prompt with completions of any lengths, as many as the rankings have ranks."""
    texts = [" ".join(WORDS[(i + k) % 5 :][: 1 + (3 * i + 5 * k) % 6]) + f" {k}" for k in range(len(rankings[0]))]
    made = {"prompt": say(f"question {i} about {WORDS[i % 11]}", "user"), "completions": [say(t) for t in texts]}
    return made | {"rankings": rankings, "weight": float(len(rankings))} | more


#: Of two, three and four; ties, partial rankings, raters of two minds, and a completion that nobody ranked.
MIXED = [
    row(0, [[0, 1]]),
    row(1, [[2, 0, 1], [2, 0, 1], [0, 0, 0]]),
    row(2, [[0, 1, UNRANKED, 1]]),
    row(3, [[1, 0], [0, 0]]),
    row(4, [[3, 2, 1, 0]]),
    row(5, [[0, 1, 1], [UNRANKED, 0, 1]]),
    row(6, [[0, 0, 1, 2], [1, 0, 2, 3]], weight=0.5),
    row(7, [[1, 0]]),
    row(8, [[0, 1, 2]]),
    row(9, [[0, 0, 0, 1]]),
    row(10, [[1, 0, 2], [0, 1, 2], [0, 2, 1]]),
]


@pytest.fixture
def make(tiny_model, tmp_path):
    """Makes a trainer on rows, with a score head that is not 0 and a step that is easy to follow."""

    def made(rows: list[dict] | Path = MIXED, **flags: Any):
        if not isinstance(rows, Path):
            DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "d")
        given = {
            "dataset": rows if isinstance(rows, Path) else tmp_path / "d", "output_dir": tmp_path / "out",
            "model_name_or_path": tiny_model, "learn_from": "rankings", "bf16": False, "optim": "sgd",
            "learning_rate": 0.02, "lr_scheduler_type": "constant", "max_grad_norm": 0, "report_to": "none",
            "per_device_train_batch_size": 100,
        }  # fmt: skip
        args = [x for name, value in (given | flags).items() for x in (f"--{name}", str(value))]
        trainer: Any = build_reward_trainer(*parse_arguments((FullTrainingConfig, ModelConfig), args))
        torch.manual_seed(0)
        torch.nn.init.normal_(trainer.model.score.weight, std=0.3)
        return trainer

    return made


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def loss_and_gradient(trainer: Any) -> tuple[float, torch.Tensor]:
    """Of all rows in one batch."""
    trainer.model.eval()
    [batch] = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def judged_by(store, folder: Path, lines: list[dict], split: Split = Split.TRAIN) -> None:
    (folder / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import_path(store, folder / "votes.jsonl", format="kwise", split=split)


def line(prompt: str, ranking: list, rater: str = "ann", k: int = 2) -> dict:
    texts = ["thanks friend thanks", "lazy dog", "nothing nothing at all", "no"][:k]
    return {"prompt": prompt, "completions": [f"{text} {prompt}" for text in texts], "ranking": ranking, "rater": rater}


# The loss


def test_for_pairs_both_forms_have_the_same_loss_and_gradient(sqlite_store, tmp_path, make):
    votes = [line("a", [0, 1]), line("b", [1, 0]), line("b", [[0, 1]], "bob"), line("b", [0, 1], "cy")]
    votes += [line("c", [[0, 1]]), line("d", [0, 1]), line("d", [0, 1], "bob")]
    judged_by(sqlite_store, tmp_path, votes)
    export_snapshot(sqlite_store, tmp_path / "export", include_ties=True)
    flags = {"center_rewards_coefficient": 0.1, "length_coefficient": 0.5}
    (of_pairs, pulls), (of_rankings, others) = (
        loss_and_gradient(make(tmp_path / "export", learn_from=how, **flags)) for how in ("pairs", "rankings")
    )
    assert of_pairs == pytest.approx(of_rankings, rel=1e-5)
    assert (pulls - others).norm() < 1e-5 * pulls.norm()


@pytest.mark.parametrize("shares", [True, False])
def test_the_loss_is_that_of_every_row_by_itself(make, shares):
    trainer = make(share_prompts=shares)
    trainer.model.eval()
    [batch] = trainer.get_train_dataloader()
    assert ("trees" in batch) == shares
    expected = 0.0
    for one in trainer.train_dataset:
        rewards = torch.stack([trainer.model(torch.tensor([ids])).logits.flatten() for ids in one["ids"]], 1)
        assert rewards.shape[1] == len(one["ranks"][0])
        each = [
            davidson_luce_loss(rewards, torch.tensor([ranks]), trainer.prevalences).item() for ranks in one["ranks"]
        ]
        expected += one["weight"] * sum(share * loss for share, loss in zip(one["shares"], each))
    expected /= sum(one["weight"] for one in MIXED)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-4)
    assert len(trainer.train_dataset[2]["ids"]) == 3  # what nobody ranked is not computed


def test_prompts_that_are_shared_leave_loss_gradient_and_figures_as_they_are(make):
    flags = {"center_rewards_coefficient": 0.1, "length_coefficient": 0.5}
    together, apart = (make(share_prompts=shares, **flags) for shares in (True, False))
    (loss, gradient), (plain_loss, plain_gradient) = map(loss_and_gradient, (together, apart))
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert (gradient - plain_gradient).norm() < 1e-5 * plain_gradient.norm()
    figures, plain = together._metrics["eval"], apart._metrics["eval"]
    # Of each row the pairs of which its raters lean to one side.
    assert len(figures["accuracy"]) == len(figures["margin"]) == 1 + 3 + 2 + 1 + 6 + 3 + 6 + 1 + 3 + 3 + 3
    assert figures["accuracy"] == plain["accuracy"]
    right = [margin > 0 for margin in figures["margin"]]
    assert right == [bool(a) for a in figures["accuracy"]]


def test_a_batch_of_ties_alone_has_no_accuracy_to_log_and_stops_nothing(make):
    trainer = make([row(0, [[0, 0]]), row(1, [[0, 1]])], per_device_train_batch_size=1, logging_steps=1, max_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert sorted("accuracy" in entry for entry in logged) == [False, True]


def test_ties_that_only_the_calibration_labels_have_are_possible(make, tmp_path):
    DatasetDict(
        train=Dataset.from_list([row(0, [[0, 1, 2]]), row(1, [[0, 1]])]),
        calibration=Dataset.from_list([row(2, [[0, 0, 0]])]),
    ).save_to_disk(tmp_path / "with-ties")
    trainer = make(tmp_path / "with-ties")
    assert trainer.prevalences[0] == 0 < trainer.prevalences[1]
    assert trainer.evaluate()["eval_loss"] > 0


# Steps


@pytest.mark.parametrize("shares", [True, False])
def test_a_step_over_batches_of_any_size_is_the_step_of_one_batch(make, shares):
    ended, losses = [], []
    for flags in ({}, {"token_budget": 150, "gradient_accumulation_steps": 99}):
        trainer = make(share_prompts=shares, logging_steps=1, max_steps=1, **flags)
        batches = list(trainer.get_train_dataloader())
        assert len(batches) == 1 or len({batch["ranks"].shape[2] for batch in batches}) > 1
        if "token_budget" in flags:
            assert len(batches) > 2
            assert all(batch["input_ids"].numel() <= 150 or len(batch["weight"]) == 1 for batch in batches)
        trainer.train()
        ended.append(weights(trainer))
        losses.append(trainer.state.log_history[0]["loss"])
    assert (ended[0] - ended[1]).abs().max() < 1e-5
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_run_that_is_resumed_ends_with_the_same_weights(make, tmp_path):
    flags = {"per_device_train_batch_size": 3, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = make(**flags)
    before = weights(whole)
    run_reward_training(whole, whole.args)
    again = make(**flags, resume_from_checkpoint=tmp_path / "out" / "checkpoint-3")
    run_reward_training(again, again.args)
    assert (weights(whole) - before).abs().max() > 1e-3
    assert (weights(whole) - weights(again)).abs().max() < 1e-6


@pytest.mark.timeout(240)
def test_a_step_on_two_processes_is_the_step_on_one(tiny_model, tmp_path):
    """Eleven rows in one budget: one batch on one process, two of other sizes and other K on two."""
    DatasetDict(train=Dataset.from_list(MIXED), calibration=Dataset.from_list(MIXED[4:9])).save_to_disk(tmp_path / "d")
    given = {
        "model_name_or_path": tiny_model, "dataset": tmp_path / "d", "learn_from": "rankings", "token_budget": 100_000,
        "num_train_epochs": 3, "learning_rate": 1, "optim": "sgd", "lr_scheduler_type": "constant", "bf16": "false",
        "report_to": "none", "logging_steps": 1, "save_strategy": "epoch", "eval_strategy": "epoch",
    }  # fmt: skip
    ended, logged = [], []
    for processes in (1, 2):
        out = tmp_path / f"on-{processes}"
        settings = given | {"output_dir": out, "per_device_eval_batch_size": 2 // processes}
        flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        if processes == 1:
            done = run_module("rlhf_hitl.scripts.train_reward", *flags)
            assert done.returncode == 0, done.stderr
        else:
            run_on_two_processes("rlhf_hitl.scripts.train_reward", *flags)
        ended.append(load_file(out / "model.safetensors"))
        logged.append(json.loads((out / "checkpoint-3" / "trainer_state.json").read_text())["log_history"])
        assert load_reward_model(out).card["learnt_from"] == "rankings"
    start = load_file(tiny_model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (ended[0][name] - start[name]).abs().max() > 1e-4
    assert all((ended[0][k] - ended[1][k]).abs().max() < 1e-5 for k in ended[0])
    for name in ("loss", "accuracy", "margin", "eval_loss", "eval_accuracy", "eval_margin"):
        one, two = ([entry[name] for entry in log if name in entry] for log in logged)
        assert len(one) == 3
        assert two == pytest.approx(one, abs=1e-4), name


# What is made of them


def test_rankings_taken_apart_are_the_pairs_of_the_export(sqlite_store, tmp_path):
    votes = [line("a", [0, 1, 2], k=3), line("a", [[1, 0], 2], "bob", k=3), line("a", [2, 0], "cy", k=3)]
    votes += [line("b", [0, 1]), line("b", [1, 0], "bob"), line("c", [3, [1, 2], 0], k=4)]
    judged_by(sqlite_store, tmp_path, votes)
    export_snapshot(sqlite_store, tmp_path / "out", include_ties=True)

    def read_pairs(learn_from: str) -> list:
        rows = load_training_rows(str(tmp_path / "out"), learn_from)["train"]
        pairs = [p for row in rows for p in read_ranking(row).pairs()]
        sides = [(p.first, p.second, *p.shares) if p.shares[0] >= p.shares[2] else
                 (p.second, p.first, *p.shares[::-1]) for p in pairs]  # fmt: skip
        even = [(*sorted(s[:2], key=repr), *s[2:]) if s[2] == s[4] else s for s in sides]
        return sorted([(*e[:2], *(round(x, 9) for x in (*e[2:], p.weight))) for e, p in zip(even, pairs)], key=repr)

    assert len(read_pairs("pairs")) == 3 + 1 + 6
    assert read_pairs("rankings") == read_pairs("pairs")


def test_the_command_learns_from_rankings_and_says_so(sqlite_store, tiny_model, tmp_path):
    for split, n in ((Split.TRAIN, 40), (Split.CALIBRATION, 10), (Split.HELDOUT, 12)):
        votes = [line(f"{split} {i}", [0, [1, 2]] if i % 3 else [0, 2, 1], k=3) for i in range(n)]
        judged_by(sqlite_store, tmp_path, votes, split)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {tiny_model}\nlearn_from: rankings\nnum_train_epochs: 4\nlearning_rate: 3.0e-3\n"
        "eval_strategy: epoch\nlogging_steps: 1\nbf16: false\n"
    )
    run = run_module(
        "rlhf_hitl", "train-reward", "--backend", "full", "--config", config, "--json", "--store", sqlite_store.url,
        env=os.environ | {"RLHF_HITL_WORKSPACE": str(tmp_path / "w")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout)
    assert (result["learnt_from"], result["train_labels"], result["train_votes"]) == ("rankings", 40, 40)
    assert "learnt from | rankings" in (Path(result["path"]) / "README.md").read_text()
    model = load_reward_model(result["path"])
    assert evaluate_reward_model(model, sqlite_store)[0].accuracy.value > 0.8
    export_snapshot(sqlite_store, tmp_path / "export")
    heldout: Any = load_dataset(str(tmp_path / "export"), "rankings", cache_dir=str(tmp_path / "cache"))["heldout"]
    first, second, _ = read_ranking(heldout[0]).chats
    _, stds, _ = model.margins([first], [second])
    assert 0 < stds[0] < 10


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rankings": [[0, 2, 1, 3]]}, r"ranking \[0, 2, 1, 3\] of 3"),
        ({"rankings": [[0, 2, 2]]}, "without a gap"),
        ({"rankings": [[0, -1, -1]]}, "two or more"),
        ({"rankings": [[0, -2, 1]]}, "without a gap"),
        ({"rankings": [[0, 1, None]]}, "3 ranks"),
        ({"rankings": [[0, 0.5, 1]]}, "3 ranks"),
        ({"rankings": [None]}, "ranking None"),
        ({"rankings": []}, "one ranking or more"),
        ({"rankings": None}, "one ranking or more"),
        ({"completions": [say("alone")], "rankings": [[0]]}, "a ranking of 1 completion: expected"),
        ({"completions": None}, "a ranking of 0 completions"),
        ({"weight": -1.0}, "weight -1.0"),
        ({"weights": [1.0, 1.0]}, r"weights \[1.0, 1.0\]: expected 1 number"),
        ({"weights": [-1.0]}, r"weights \[-1.0\]"),
        ({"weights": [float("nan")]}, r"weights \[nan\]"),
    ],
)
def test_an_invalid_ranking_is_named(change, message):
    with pytest.raises(BadInput, match=message):
        read_ranking(row(0, [[0, 1, 2]]) | change)


def test_a_ranking_counts_as_much_as_its_rater_is_trusted_with():
    ranking = read_ranking(row(0, [[0, 1], [0, 1], [1, 0]], weights=[1.0, 0.5, 0.5], weight=2.0))
    assert dict(zip(ranking.ranks, ranking.shares)) == {(0, 1): 0.75, (1, 0): 0.25}
    assert (ranking.weight, ranking.votes) == (2.0, 3)
    untrusted = read_ranking(row(0, [[0, 1], [1, 0]], weights=[0.0, 0.0], weight=0.0))
    assert (untrusted.shares, untrusted.weight) == ((0.5, 0.5), 0)


def test_a_pair_is_learnt_from_what_its_votes_are_worth_where_the_row_says_it():
    pair = {"prompt": say("q", "user"), "chosen": say("a"), "rejected": say("b"), "p_chosen": 0.6, "p_tie": 0.2}
    pair |= {"p_rejected": 0.2, "votes": 3, "weight": 2.0}
    believed = read_ranking(pair)
    assert dict(zip(believed.ranks, believed.shares)) == {(0, 1): 0.6, (0, 0): 0.2, (1, 0): 0.2}
    learnt = read_ranking(pair | {"w_chosen": 1.5, "w_tie": 0.0, "w_rejected": 0.5})
    assert dict(zip(learnt.ranks, learnt.shares)) == {(0, 1): 0.75, (1, 0): 0.25}
    with pytest.raises(BadInput, match="w_chosen nan"):
        read_ranking(pair | {"w_chosen": float("nan"), "w_tie": 0.0, "w_rejected": 0.5})


def test_labels_that_teach_nothing_are_refused(make, tmp_path):
    with pytest.raises(BadInput, match="whose completions all have text"):
        make([row(0, [[0, 1]]) | {"completions": [say("fine"), say(" \n")]}])
    with pytest.raises(BadInput, match="1 training label:"):
        make([row(0, [[0, 0, 0]])])
    with pytest.raises(BadInput, match=r"ties of up to 8.*learn_from: pairs"):
        make([row(0, [list(range(20)), [0] * 8 + list(range(1, 13))])])
    make([row(0, [[0, 1, 2]])])  # rankings, and asked for pairs
    with pytest.raises(BadInput, match=r"prompt, chosen, rejected.*set learn_from"):
        make(tmp_path / "d", learn_from="pairs")
    with pytest.raises(BadInput, match="learn_from 'votes'"):
        make(learn_from="votes")
    DatasetDict(test=Dataset.from_list(MIXED)).save_to_disk(tmp_path / "no-train")
    with pytest.raises(BadInput, match="a split `train`"):
        make(tmp_path / "no-train")


def test_a_prompt_that_is_held_out_is_refused(make, tmp_path):
    DatasetDict(train=Dataset.from_list(MIXED), heldout=Dataset.from_list(MIXED[3:4])).save_to_disk(tmp_path / "leak")
    with pytest.raises(BadInput, match="train row 3"):
        make(tmp_path / "leak")
