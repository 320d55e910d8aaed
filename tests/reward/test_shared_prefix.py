"""Prompts computed once give the same states, rewards, losses and weights as one conversation at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from forked_processes import run_module, run_on_two_processes
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.batching import batch_by_length
from rlhf_hitl.reward.extractor import FeatureExtractor
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.reward.training.token_budget import TokenBudgetSampler
from rlhf_hitl.types import Message

WORDS = ["sea", "sun", "poem", "paris", "thanks", "friend", "lazy", "quick", "brown", "fox", "capital", "today"]
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def decoder(kind: str, **settings: Any):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300} | settings
    if kind in ("Llama", "Qwen2", "Mistral"):
        sizes |= {"intermediate_size": 96, "num_key_value_heads": 2}
    attention = sizes.pop("attn_implementation", None)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return getattr(transformers, f"{kind}Model")._from_config(config, attn_implementation=attention).eval()


# Rows


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_every_conversation_is_whole_in_its_row_and_at_its_own_positions(trees):
    row = shared_prefix.pack_trees(trees)
    conversations = [ids for each in trees for ids in each]
    assert row.ids.shape[1] == sum(map(sum, row.trees)) <= sum(map(len, conversations))
    for ids, path, end in zip(conversations, row.paths(), shared_prefix.find_last_tokens(row.trees)):
        assert row.ids[0, path].tolist() == ids
        assert row.positions[0, path].tolist() == list(range(len(ids)))
        assert path[-1] == end
    assert len(set(shared_prefix.find_last_tokens(row.trees).tolist())) == len(
        conversations
    )  # each ends in a token of its own


def test_the_trunk_is_the_common_beginning_and_leaves_each_branch_a_token():
    assert shared_prefix.measure_tree([[1, 2, 3, 4], [1, 2, 5]]) == (2, 2, 1)
    assert shared_prefix.measure_tree([[1, 2], [1, 2]]) == (1, 1, 1)
    assert shared_prefix.measure_tree([[1, 2, 3], [1, 2]]) == (1, 2, 1)
    assert shared_prefix.measure_tree([[1, 2], [3]]) == (0, 2, 1)
    assert shared_prefix.measure_tree([[1, 2]]) == (0, 2)


# Models


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"attn_implementation": "flex_attention"}),
        ("Qwen2", {}),
        ("Mistral", {"sliding_window": None}),
        ("GPT2", {}),
    ],
)
@torch.compiler.set_stance("force_eager")  # the compiler takes half a minute for each length, and it is PyTorch's
def test_states_of_a_tree_are_those_of_its_conversations(kind, settings):
    model = decoder(kind, **settings)
    assert shared_prefix.supports_trees(model)
    # What flex attention gives is held against the same weights in sdpa.
    plain = decoder(kind) if settings.get("attn_implementation") == "flex_attention" else model
    rng = np.random.default_rng(0)

    def some(n: int) -> list[int]:
        return rng.integers(3, 300, n).tolist()

    prompt, other = some(40), some(7)
    trees = [[prompt + some(n) for n in (5, 30, 1)], [some(9)], [other + some(3), other + some(3)], [some(4), some(6)]]
    row = shared_prefix.pack_trees(trees)
    with torch.no_grad():
        together = model(
            **shared_prefix.build_model_inputs(model, row.ids, row.positions, row.trees)
        ).last_hidden_state[0]
        for ids, path in zip([ids for each in trees for ids in each], row.paths()):
            alone = plain(torch.tensor([ids])).last_hidden_state[0]
            assert (together[path] - alone).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("Llama", {"attn_implementation": "eager"}, "its attention is eager"),
        ("Mistral", {"sliding_window": 8}, "attention over windows"),
        ("Bert", {"intermediate_size": 96}, "attention in both directions"),
        ("Bloom", {}, "its attention is eager"),
    ],
)
def test_a_model_without_support_for_trees_is_recognised_and_logged(kind, settings, why, caplog):
    caplog.set_level("INFO", "rlhf_hitl")
    assert not shared_prefix.supports_trees(decoder(kind, **settings))
    assert caplog.messages == [f"prompts are computed once for each completion: {why}"]


def test_a_model_that_claims_support_for_trees_wrongly_is_detected(caplog):
    """One that places tokens by itself, as some architectures do."""

    class Own(transformers.LlamaModel):
        def forward(self, *args, position_ids=None, **kwargs):
            return super().forward(*args, **kwargs)

    caplog.set_level("INFO", "rlhf_hitl")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    assert not shared_prefix.supports_trees(Own._from_config(config))
    assert "gives other states" in caplog.text


# Scoring


def chats(n: int) -> list:
    rng = np.random.default_rng(1)
    made = []
    for i in range(n):
        prompt = (Message("user", f"question {i % 5} about {' '.join(WORDS[: i % 5])}"),)
        answer = (Message("assistant", " ".join(rng.choice(WORDS, rng.integers(1, 30)))),)
        made.append(Conversation(prompt, answer))
    return made


def margins(backbone: Backbone, folder: Path, size: int) -> np.ndarray:
    """Of each conversation to the first, scored so many at a time by a head that spreads them over some logits."""
    cache = FeatureCache(folder, backbone)
    some = chats(24)
    found = [cache.features(some[at : at + size], keep=False) for at in range(0, len(some), size)]
    rewards = np.concatenate(found) @ np.random.default_rng(0).normal(size=backbone.width) / 3
    return rewards - rewards[0]


@pytest.mark.parametrize("way", ["fused", "trees", "padded"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_margins_do_not_depend_on_the_batch_the_padding_or_in_rank_on_the_precision(tiny_model, tmp_path, side, way):
    taken = set[str]()

    def watch(extractor: FeatureExtractor, name: str) -> None:
        run = getattr(extractor, f"_compute_{name}")

        def watched(*args: Any) -> Any:
            taken.add(name)
            return run(*args)

        setattr(extractor, f"_compute_{name}", watched)

    def scored(dtype: str, size: int, budget: int) -> np.ndarray:
        backbone = Backbone(str(tiny_model), layer=-1, pooling="last", dtype=dtype)
        backbone.renderer.tokenizer.padding_side = side
        extractor = backbone.extractor
        extractor.supports_trees, extractor.token_budget = way != "padded", budget
        extractor.fused = extractor.fused if way == "fused" else None
        for name in ("fused", "in_trees", "padded"):
            watch(extractor, name)
        return margins(backbone, tmp_path, size)

    reference = scored("float32", 1, 1)
    assert reference.std() > 0.3
    for size, budget in ((1, 4096), (3, 1), (3, 4096), (16, 200), (16, 4096)):
        assert np.abs(scored("float32", size, budget) - reference).max() < 1e-4
        apart = reference[:, None] - reference[None]
        rounded = scored("bfloat16", size, budget)
        is_clear = np.abs(apart) > 0.05
        assert (np.sign(rounded[:, None] - rounded[None]) == np.sign(apart))[is_clear].all()
    assert taken == {"in_trees" if way == "trees" else way}


# Training


@pytest.fixture
def train(tiny_model, tmp_path):
    """Makes a trainer on 11 pairs of any lengths, with a score head that is not 0 and a step that is easy to follow."""
    from trl import ModelConfig

    from rlhf_hitl.reward.training.full_config import FullTrainingConfig
    from rlhf_hitl.reward.training.full_training import build_reward_trainer

    rows = []
    for i, chat in enumerate(chats(11)):
        rejected = [{"role": "assistant", "content": " ".join(WORDS[i % 7 : i % 7 + i + 1])}]
        rows.append(
            {
                "prompt": [{"role": "user", "content": chat.prompt[0].content}],
                "chosen": [{"role": "assistant", "content": chat.completion[0].content}],
                "rejected": rejected,
                "weight": 1.0 + i % 3,
            }
        )
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "d")

    def make(**flags: Any):
        given = {
            "dataset": tmp_path / "d", "output_dir": tmp_path / "out", "model_name_or_path": tiny_model, "bf16": False,
            "optim": "sgd", "learning_rate": 0.02, "lr_scheduler_type": "constant", "max_grad_norm": 0,
            "center_rewards_coefficient": 0.1, "report_to": "none",
        }  # fmt: skip
        args = [x for name, value in (given | flags).items() for x in (f"--{name}", str(value))]
        trainer: Any = build_reward_trainer(*parse_arguments((FullTrainingConfig, ModelConfig), args))
        torch.manual_seed(0)
        for name, weight in trainer.model.named_parameters():
            if "score" in name:
                torch.nn.init.normal_(weight, std=0.3)
        return trainer

    return make


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


@pytest.mark.parametrize("flags", [{}, {"use_peft": True, "lora_r": 4}, {"attn_implementation": "eager"}])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_same_batch_has_the_same_loss_and_gradient_as_on_the_plain_path(train, flags, checkpointing):
    found = []
    for shares in (True, False):
        trainer = train(
            share_prompts=shares, gradient_checkpointing=checkpointing, length_coefficient=0.5, **flags,
            per_device_train_batch_size=11,
        )  # fmt: skip
        if checkpointing:
            trainer.model.gradient_checkpointing_enable()
        trainer.model.train()
        [batch] = trainer.get_train_dataloader()
        assert ("trees" in batch) == (shares and "attn_implementation" not in flags)
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        found.append((loss.item(), gradient))
    (loss, gradient), (plain_loss, plain_gradient) = found
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert (gradient - plain_gradient).norm() < 1e-5 * plain_gradient.norm()


def test_training_and_evaluating_end_where_the_plain_path_ends(train):
    ended, evaluated = [], []
    for shares in (True, False):
        trainer = train(share_prompts=shares, per_device_train_batch_size=2, num_train_epochs=2)
        before = weights(trainer)
        trainer.train()
        assert (weights(trainer) - before).abs().max() > 1e-3
        ended.append(weights(trainer))
        evaluated.append(trainer.evaluate(trainer.train_dataset))
    assert (ended[0] - ended[1]).abs().max() < 1e-4
    assert evaluated[0]["eval_loss"] == pytest.approx(evaluated[1]["eval_loss"], abs=1e-4)
    assert evaluated[0]["eval_accuracy"] == evaluated[1]["eval_accuracy"]


@pytest.mark.parametrize("shares", [True, False])
def test_a_step_over_batches_of_any_size_is_the_step_of_one_batch_of_all_pairs(train, shares):
    ended, losses = [], []
    for flags in ({"per_device_train_batch_size": 11}, {"token_budget": 200, "gradient_accumulation_steps": 99}):
        trainer = train(share_prompts=shares, logging_steps=1, max_steps=1, **flags)
        sizes = {len(batch["weight"]) for batch in trainer.get_train_dataloader()}
        assert sizes == {11} if "token_budget" not in flags else len(sizes) > 1
        trainer.train()
        ended.append(weights(trainer))
        losses.append(trainer.state.log_history[0]["loss"])
    assert (ended[0] - ended[1]).abs().max() < 1e-5
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.timeout(240)
def test_a_step_on_two_processes_is_the_step_on_one(train, tiny_model, tmp_path):
    """Eleven pairs in one budget: one batch on one process, batches of five and six on two."""
    train()  # writes the dataset
    given = {
        "model_name_or_path": tiny_model, "dataset": tmp_path / "d", "token_budget": 100_000, "num_train_epochs": 3,
        "learning_rate": 1, "optim": "sgd", "lr_scheduler_type": "constant", "bf16": "false", "report_to": "none",
        "logging_steps": 1,
    }  # fmt: skip
    ended, logged = [], []
    for processes in (1, 2):
        out = tmp_path / f"on-{processes}"
        settings = given | {"output_dir": out, "save_strategy": "epoch"}
        flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        if processes == 1:
            done = run_module("rlhf_hitl.scripts.train_reward", *flags)
            assert done.returncode == 0, done.stderr
        else:
            run_on_two_processes("rlhf_hitl.scripts.train_reward", *flags)
        ended.append(load_file(out / "model.safetensors"))
        state = json.loads((out / "checkpoint-3" / "trainer_state.json").read_text())
        logged.append([row["loss"] for row in state["log_history"] if "loss" in row])
        assert len(list((out / "checkpoint-3").glob("rng_state*"))) == processes  # so many there were
    start = load_file(tiny_model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (ended[0][name] - start[name]).abs().max() > 1e-4
    assert all((ended[0][k] - ended[1][k]).abs().max() < 1e-5 for k in ended[0])
    assert logged[0] == pytest.approx(logged[1], abs=1e-4)


def test_a_token_budget_of_zero_is_refused(train):
    with pytest.raises(BadInput, match="token_budget 0"):
        train(token_budget=0)


# Batches


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 2000), st.integers(1, 4), st.integers(0, 3)
)
def test_every_pair_is_in_one_batch_within_the_budget_and_processes_keep_step(lengths, budget, processes, epoch):
    samplers = [TokenBudgetSampler(lengths, budget, processes=processes, rank=r) for r in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    drawn = [list(sampler) for sampler in samplers]
    assert {len(own) for own in drawn} == {len(sampler) for sampler in samplers}
    batches = [batch for own in drawn for batch in own]
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)
    counts = np.bincount([i for b in batches for i in b], minlength=len(lengths))
    assert counts.min() >= 1
    assert counts.sum() - len(lengths) < processes  # some twice, only where every batch is of one
    assert drawn == [list(sampler) for sampler in samplers]


def test_epochs_differ_in_order_and_batches_and_a_seed_repeats_them():
    lengths = [5] * 20 + [9] * 20
    sampler = TokenBudgetSampler(lengths, 30)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert len(first) == len(second) == len(sampler)
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))
    assert list(TokenBudgetSampler(lengths, 30)) == first != list(TokenBudgetSampler(lengths, 30, seed=1))


def test_a_run_resumed_within_a_later_epoch_goes_on_with_the_batches_that_are_left(train):
    from accelerate import skip_first_batches

    loader = train(token_budget=150).get_train_dataloader()
    loader.set_epoch(2)
    whole = [batch["weight"].tolist() for batch in loader]
    rest = skip_first_batches(loader, 2)
    rest.set_epoch(2)
    rest.batch_sampler.batch_sampler.set_epoch(2)  # as the Trainer does
    assert [batch["weight"].tolist() for batch in rest] == whole[2:]


def test_batches_by_length_start_with_the_longest_and_fill_the_budget():
    assert batch_by_length([1, 9, 4, 5, 2], 10) == [[1], [3, 2], [4, 0]]
