"""Anybody's sequence classifiers: scored as in plain transformers, calibrated, evaluated, routed with, trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from trl import ModelConfig

from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.classifier import load_classifier, wrap_classifier
from rlhf_hitl.reward.evaluation.evaluate import evaluate_reward_model
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.pretrained import find_score_head
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.reward.training.classifier_adoption import adopt_classifier
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer, save_trained_model
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing.router import RoutingConfig, route_pool
from rlhf_hitl.routing.scoring import score_pool
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.types import Message

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 1}
ANSWERS = ["fine thanks", "the sun and the sea today", "nothing", "paris paris paris"]


def chat(prompt: str, completion: str):
    return Conversation((Message("user", prompt),), (Message("assistant", completion),))


@pytest.fixture(scope="module")
def encoder_tokenizer(tiny_model):
    """Of an encoder: [CLS] and [SEP], no chat template, no EOS."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    tokenizer.cls_token, tokenizer.sep_token, tokenizer.eos_token = "<|system|>", "<|end|>", None
    return tokenizer


def llama(folder, tiny_model, _):
    load_tokenizer(tiny_model).save_pretrained(folder)
    model = LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.config.pad_token_id = load_tokenizer(tiny_model).pad_token_id
    return model


def bert(folder, _, tokenizer):
    tokenizer.save_pretrained(folder)
    return BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **SMALL))


def roberta(folder, _, tokenizer):
    tokenizer.save_pretrained(folder)
    pad = tokenizer.pad_token_id
    return RobertaForSequenceClassification(
        RobertaConfig(vocab_size=len(tokenizer), pad_token_id=pad, max_position_embeddings=600, **SMALL)
    )


@pytest.fixture(scope="module", params=[llama, bert, roberta], ids=lambda make: make.__name__)
def classifier(request, tiny_model, encoder_tokenizer, tmp_path_factory):
    """The folder of a saved classifier whose head and bias are not small."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    torch.manual_seed(1)
    model = request.param(folder, tiny_model, encoder_tokenizer)
    head = find_score_head(model)[1]
    torch.nn.init.normal_(head.weight)
    if head.bias is not None:
        torch.nn.init.constant_(head.bias, 0.7)
    model.save_pretrained(folder)
    return folder


def plain_logits(folder, tokenizer, prompt: str, answers: list[str]) -> list[float]:
    """As its user would have them from transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    out = []
    for text in answers:
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
            given = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), return_tensors="pt")
            given.pop("token_type_ids", None)
        else:
            ids = [
                tokenizer(t, add_special_tokens=False)["input_ids"] for t in (f"user: {prompt}\n", f"assistant: {text}")
            ]
            cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
            first, second = [cls, *ids[0], sep], [*ids[1], sep]
            given = {"input_ids": torch.tensor([first + second])}
            if model.config.type_vocab_size > 1:
                given["token_type_ids"] = torch.tensor([[0] * len(first) + [1] * len(second)])
        out.append(model(**given).logits.item())
    return out


def test_rewards_are_the_logits_of_plain_transformers(classifier, tmp_path):
    model = wrap_classifier(str(classifier), tmp_path, dtype="float32")
    tokenizer = load_tokenizer(classifier, chats=False)
    rewards = model.rewards([chat("hello my friend", a) for a in ANSWERS])
    assert rewards == pytest.approx(plain_logits(classifier, tokenizer, "hello my friend", ANSWERS), abs=1e-4)


@pytest.mark.parametrize("kind", [bert, roberta])
def test_a_conversation_longer_than_learnt_positions_is_cut_to_them(kind, tiny_model, encoder_tokenizer, tmp_path):
    kind(tmp_path, tiny_model, encoder_tokenizer).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.max_position_embeddings = 40
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = wrap_classifier(str(tmp_path), tmp_path / "features", max_length=1024, dtype="float32")
    # RoBERTa's positions are counted from after the padding's.
    offset = encoder_tokenizer.pad_token_id + 1 if kind is roberta else 0
    assert model.cache.backbone.renderer.max_length == 40 - offset
    long = "the quick brown fox jumps over the lazy dog " * 20
    assert np.isfinite(model.rewards([chat(long, a) for a in (*ANSWERS, long)])).all()


def test_a_classifier_is_adopted_calibrated_evaluated_and_used_for_routing(
    classifier, judged_store, add_comparisons, tmp_path
):
    add_comparisons(judged_store, 12)
    model = adopt_classifier(judged_store, str(classifier), tmp_path, dtype="float32")
    assert model.card["train_labels"] > 50
    assert model.head.temperature != 1
    assert get_reward_model(judged_store).id == model.id
    chats = [chat("hello", a) for a in ANSWERS]
    _, stds, _ = model.margins(chats[:2], chats[2:])
    assert (stds > 0).all()
    again = load_reward_model(tmp_path / "reward" / model.id)
    assert again.seen.calibration
    assert not again.seen.is_complete  # what the classifier was trained on, nobody says
    assert again.rewards(chats) == pytest.approx(model.rewards(chats), abs=1e-6)
    assert 0 <= evaluate_reward_model(model, judged_store)[0].accuracy.value <= 1
    assert score_pool(judged_store, model).scored == len(list(find_comparisons(judged_store, judged=False))) > 0
    assert sum(route_pool(judged_store, model, RoutingConfig()).counts.values()) == 12


def test_full_training_goes_on_from_a_classifier(classifier, judged_store, tmp_path, request):
    lora = {"llama": "true", "bert": "false", "roberta": "true"}[request.node.callspec.id]
    export_snapshot(judged_store, tmp_path / "export")
    flags = {"dataset": tmp_path / "export", "output_dir": tmp_path / "out", "model_name_or_path": classifier}
    flags |= {"max_length": 128, "learning_rate": 3e-3, "num_train_epochs": 2, "use_peft": lora, "report_to": "none"}
    config, model_config = parse_arguments(
        (FullTrainingConfig, ModelConfig), [x for k, v in flags.items() for x in (f"--{k}", str(v))]
    )
    trainer = build_reward_trainer(config, model_config)
    before = find_score_head(load_classifier(str(classifier)))[1].weight
    trainer.train()
    model = save_trained_model(trainer, config, tmp_path / "model", tmp_path)
    assert model is not None
    assert model.seen is not None
    assert not model.seen.is_complete  # it began with a classifier of others
    if lora == "true":
        on_top = train_head(judged_store, Backbone(str(tmp_path / "model"), layer=1, pooling="last"), tmp_path)
        assert on_top.seen == model.seen  # nor does a head that reads it know
    after = find_score_head(load_classifier(str(tmp_path / "model")))[1].weight
    assert not torch.equal(before, after)
    assert evaluate_reward_model(model, judged_store)[0].accuracy.value > 0.7
    first = chat("question 3", "sea sun thanks")
    plain = plain_logits(tmp_path / "model", load_tokenizer(classifier, chats=False), "question 3", ["sea sun thanks"])
    near = 1e-4 if model.cache.backbone.dtype is torch.float32 else 1e-2  # the model reads in bf16 where that is fast
    assert model.rewards([first]) == pytest.approx(plain, rel=near)


def edit_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def copied(classifier, folder):
    folder.mkdir()
    for file in classifier.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_another_number_of_labels_is_refused_for_scoring_and_for_training(classifier, tmp_path):
    folder = copied(classifier, tmp_path / "two")
    edit_config(folder, id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    with pytest.raises(BadInput, match="2 labels"):
        wrap_classifier(str(folder), tmp_path)


def test_a_language_model_is_not_a_classifier_and_a_missing_head_is_not_invented(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="ForSequenceClassification"):
        wrap_classifier(str(tiny_model), tmp_path)
    folder = copied(tiny_model, tmp_path / "headless")
    edit_config(folder, architectures=["LlamaForSequenceClassification"], id2label={"0": "reward"})
    with pytest.raises(BadInput, match=r"without score\.weight"):
        wrap_classifier(str(folder), tmp_path)


def test_pickled_weights_are_refused(classifier, tmp_path):
    folder = copied(classifier, tmp_path / "pickled")
    state = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    for read in (lambda: wrap_classifier(str(folder), tmp_path), lambda: Backbone(str(folder))):
        with pytest.raises(BadInput, match="safetensors"):
            read()
