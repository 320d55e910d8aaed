"""Invalid data and damaged reward models are named, refused or handled, never dropped silently."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from trl import ModelConfig

from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer, run_reward_training
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.store import people, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Split, Verdict


def judged(store, rater: str, prompt: str, *answers: str, best: int = 0) -> Comparison:
    """A comparison of these answers, judged for one of them."""
    asked = Prompt.create((Message("user", prompt),))
    made = [Completion.create(asked.id, (Message("assistant", a),), "p") for a in answers]
    comparison = Comparison.create(asked, made)
    with store.write() as conn:
        insert_comparisons(store, conn, [comparison])
    lease = queue.lease(store, rater, seconds=1800)
    assert lease is not None
    ranking = ((made[best].id,), tuple(c.id for i, c in enumerate(made) if i != best))
    queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ranking))
    return comparison


def heldout(n: int) -> list[str]:
    found = (f"held out {i}" for i in range(10_000))
    return [t for t in found if Prompt.create((Message("user", t),)).split is Split.HELDOUT][:n]


def rows(folder, *answers: tuple[str, str], **columns) -> dict:
    made = [
        {
            "prompt": [{"role": "user", "content": f"question {i}"}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for i, (chosen, rejected) in enumerate(answers)
    ]
    DatasetDict(train=Dataset.from_list(made)).save_to_disk(folder / "data")
    return {"dataset": folder / "data", "output_dir": folder / "out", "report_to": "none"} | columns


def trainer(flags: dict):
    config, model_config = parse_arguments(
        (FullTrainingConfig, ModelConfig), [x for k, v in flags.items() for x in (f"--{k}", str(v))]
    )
    return build_reward_trainer(config, model_config), config


def test_an_evaluation_leaves_out_and_counts_labels_of_empty_completions(judged_store, trained_model, tmp_path):
    model = trained_model
    before, _ = evaluate_reward_model(model, judged_store)
    judged(judged_store, people.add_rater(judged_store, "bea", Role.RATER).id, heldout(1)[0], "an answer", " \n")
    after, _ = evaluate_reward_model(model, judged_store)
    assert (after.n, after.dropped) == (before.n, before.dropped + 1)


def test_full_training_leaves_out_rows_without_text_or_labelled_by_a_model_with_a_warning(tiny_model, tmp_path, caplog):
    answers = ("fine", "thanks"), ("fine", "  "), ("sun", "sea"), ("sea", "fine")
    flags = rows(tmp_path, *answers, model_name_or_path=tiny_model)
    data = load_from_disk(flags["dataset"])
    data["train"] = data["train"].add_column("label_source", ["human", "human", "human", "model"])
    data.save_to_disk(tmp_path / "labelled")
    made, _ = trainer(flags | {"dataset": tmp_path / "labelled"})
    assert len(made.train_dataset) == 2
    assert "1 train row left out: of completions without text" in caplog.text
    assert "1 train row left out: labelled by a model" in caplog.text


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rejected", None, "messages 'None': expected a list of messages"),
        ("p_chosen", None, "p_chosen None"),
        ("p_chosen", "most", "p_chosen most"),
        ("votes", "three", "votes 'three'"),
        ("votes", None, "votes None"),
        ("weight", None, "weight None"),
    ],
)
def test_an_invalid_row_is_named_before_training_starts(tiny_model, tmp_path, column, value, message):
    flags = rows(tmp_path, ("fine", "thanks"), ("sun", "sea"), model_name_or_path=tiny_model)
    made = load_from_disk(flags["dataset"])["train"].to_list()
    made[0] |= {column: made[0].get(column, 1.0 if column != "votes" else 1)}
    if isinstance(value, str):
        made = [row | {column: value} for row in made]
    else:
        made[1] |= {column: value}
    DatasetDict(train=Dataset.from_list(made)).save_to_disk(tmp_path / "bad")
    with pytest.raises(BadInput, match=f"bad: train row {0 if isinstance(value, str) else 1}: {message}"):
        trainer(flags | {"dataset": tmp_path / "bad"})


def test_full_training_reads_the_splits_it_learns_from_and_leaves_the_folder_as_it_is(tiny_model, tmp_path):
    flags = rows(tmp_path, ("fine", "thanks"), ("sun", ""), model_name_or_path=tiny_model)
    data = load_from_disk(flags["dataset"])
    data["test"] = Dataset.from_list([{"text": "of another kind"}])
    data.save_to_disk(tmp_path / "more")
    before = sorted(tmp_path.glob("more/**/*"))
    made, _ = trainer(flags | {"dataset": tmp_path / "more"})
    assert len(made.train_dataset) == 1
    assert sorted(tmp_path.glob("more/**/*")) == before


@pytest.mark.parametrize("most", [0, 1, -3])
def test_a_max_length_too_short_for_an_answer_is_refused(tiny_model, tmp_path, most):
    with pytest.raises(BadInput, match=f"max_length {most}: expected 8 tokens or more"):
        trainer(rows(tmp_path, ("fine", "thanks"), model_name_or_path=tiny_model, max_length=most))


def test_full_training_without_usable_rows_is_refused(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="1 train row, none usable"):
        trainer(rows(tmp_path, ("fine", "  "), model_name_or_path=tiny_model))


def test_full_training_reads_no_more_than_the_model_has_positions_for(tiny_model, tmp_path):
    flags = rows(tmp_path, ("fine " * 1200, "thanks"), model_name_or_path=tiny_model, max_length=100_000)
    made, _ = trainer(flags)
    [[longer, _]] = made.train_dataset["ids"]
    assert len(longer) == made.model.config.max_position_embeddings == 1024


def test_a_conversation_of_a_hundred_thousand_tokens_is_cut_counted_and_scored(judged_store, tiny_model, tmp_path):
    backbone = Backbone(str(tiny_model), layer=1, pooling="last", max_length=128, dtype="float32")
    model = train_head(judged_store, backbone, tmp_path)
    long = "the quick brown fox jumps over the lazy dog " * 12_000
    prompts_cut = model.cache.dropped
    asked = (Message("user", long),)
    rewards = model.rewards([Conversation(asked, (Message("assistant", a),)) for a in ("thanks", "nothing", long)])
    assert np.isfinite(rewards).all()
    assert len(set(rewards.tolist())) == 3
    assert model.cache.dropped == prompts_cut + 3
    assert model.cache.cut == 1
    again = FeatureCache(model.cache.root, backbone)  # which finds all of it on disk, and says the same
    again.features([Conversation(asked, (Message("assistant", a),)) for a in ("thanks", "nothing", long)])
    assert (again.dropped, again.cut) == (3, 1)


def test_labels_all_on_one_side_make_a_model_that_is_finite_and_prefers_that_side(sqlite_store, backbone, tmp_path):
    store, rater = sqlite_store, people.add_rater(sqlite_store, "ann", Role.RATER).id
    for i in range(60):
        judged(store, rater, f"about {i}", f"thanks friend {i}", f"lazy dog {i}")
    for text in heldout(3):
        judged(store, rater, text, f"thanks friend {text}", f"lazy dog {text}")
    model = train_head(store, backbone, tmp_path)
    found, _ = evaluate_reward_model(model, store)
    assert found.accuracy.value == 1
    assert 0 <= found.ece <= 1
    assert np.isfinite(model.head.weights).all()


def test_a_reward_that_is_not_finite_is_named(judged_store, trained_model, tmp_path):
    model = trained_model
    model.head = replace(model.head, weights=np.full_like(model.head.weights, np.nan))
    with pytest.raises(BadInput, match="reward of comparison x_"):
        list(model.score(find_comparisons(judged_store)))
    with pytest.raises(BadInput, match="margin of comparison x_"):
        evaluate_reward_model(model, judged_store)
    with pytest.raises(BadInput, match="reward nan of 'an answer'"):
        model.rewards([Conversation((Message("user", "asked"),), (Message("assistant", "an answer"),))])


def test_a_third_best_reward_that_is_not_finite_is_named(judged_store, trained_model, tmp_path):
    model = trained_model
    [comparison] = list(find_comparisons(judged_store))[:1]
    inputs = np.zeros((3, len(model.head.weights)))
    inputs[2] = np.nan
    with pytest.raises(BadInput, match="reward of comparison x_"):
        model._score(comparison, inputs, None, model.id)


def test_a_head_no_better_than_lengths_alone_is_warned_about(sqlite_store, backbone, tmp_path, caplog):
    store, rater = sqlite_store, people.add_rater(sqlite_store, "ann", Role.RATER).id
    for i in range(60):  # the longer answer wins, whatever it says
        words = [w for _, w in sorted(zip(f"{i * 7919:06}", ["sea", "sun", "fox", "poem", "paris", "quick"]))]
        judged(store, rater, f"about {i}", " ".join(words), " ".join(words[::-1][: 1 + i % 4]))
    model = train_head(store, backbone, tmp_path)
    assert "no better than the answers' lengths alone" in caplog.text
    readme = (tmp_path / "reward" / model.id / "README.md").read_text()
    assert "no better than the lengths of the answers alone" in readme


@pytest.mark.parametrize("file", ["reward_model.json", "reward_head.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_model_is_named(judged_store, trained_model, tmp_path, file, kept):
    folder = tmp_path / "reward" / trained_model.id
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(BadInput, match="train it again"):
        load_reward_model(folder)


def test_training_leaves_out_labels_of_empty_completions_with_a_warning(
    judged_store, trained_model, backbone, tmp_path, caplog
):
    before = trained_model.card["train_labels"]
    rater = people.add_rater(judged_store, "bea", Role.RATER).id
    text = next(t for t in map(str, range(100)) if Prompt.create((Message("user", t),)).split is Split.TRAIN)
    judged(judged_store, rater, text, "an answer", " \n")
    caplog.clear()
    assert train_head(judged_store, backbone, tmp_path).card["train_labels"] == before
    assert "1 train label left out: of completions without text" in caplog.text


def test_a_head_is_not_read_with_another_backbone(judged_store, trained_model, backbone, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    model = trained_model
    tokenizer = AutoTokenizer.from_pretrained(backbone.name)
    tokenizer.save_pretrained(tmp_path / "narrow")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "narrow")
    card = tmp_path / "reward" / model.id / "reward_model.json"
    fields = json.loads(card.read_text())
    card.write_text(json.dumps(fields | {"backbone": fields["backbone"] | {"name": str(tmp_path / "narrow")}}))
    with pytest.raises(BadInput, match="64 features, got 32"):
        load_reward_model(card.parent)


@pytest.mark.parametrize(
    ("setting", "value"), [("hidden_size", 128), ("num_key_value_heads", 4), ("intermediate_size", 99)]
)
def test_a_checkpoint_of_another_architecture_is_not_resumed_from(tiny_model, tmp_path, setting, value):
    flags = rows(tmp_path, ("fine", "thanks"), ("sea", "sun"), model_name_or_path=tiny_model, max_steps=1)
    made, config = trainer(flags | {"save_strategy": "steps", "save_steps": 1})
    run_reward_training(made, config)
    file = tmp_path / "out" / "checkpoint-1" / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {setting: value}))
    made, config = trainer(flags | {"resume_from_checkpoint": "latest", "max_steps": 2})
    with pytest.raises(BadInput, match=rf"{setting} {value}: expected {setting} {settings[setting]}"):
        run_reward_training(made, config)


def test_a_checkpoint_of_other_adapters_is_not_resumed_from(tiny_model, tmp_path):
    flags = rows(tmp_path, ("fine", "thanks"), ("sea", "sun"), model_name_or_path=tiny_model, max_steps=1)
    of_lora = flags | {"use_peft": True, "lora_r": 4}
    made, config = trainer(of_lora | {"save_strategy": "steps", "save_steps": 1})
    run_reward_training(made, config)
    onwards = {"resume_from_checkpoint": "latest", "max_steps": 2}
    with pytest.raises(BadInput, match=r"of training LoRA: expected the whole model"):
        run_reward_training(*trainer(flags | onwards))
    with pytest.raises(BadInput, match=r"whose adapter has .* of \[4, \d+\]: expected \[8, \d+\]"):
        run_reward_training(*trainer(of_lora | onwards | {"lora_r": 8}))
    made, config = trainer(of_lora | onwards)
    run_reward_training(made, config)
    assert made.state.global_step == 2
