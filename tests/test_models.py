"""How a model's name is resolved, and the errors where there is no such model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlhf_hitl import model_fetching, models
from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.models import load_policy, load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Message


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of fetched models of this test's own."""
    monkeypatch.setenv("RLHF_HITL_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_resolves_to_itself(tiny_model):
    assert models.resolve_model(tiny_model) == tiny_model
    assert models.resolve_model(str(tiny_model)) == tiny_model


def test_a_hub_id_stays_a_hub_id():
    assert models.resolve_model("owner/some-model") == "owner/some-model"


def test_a_short_name_is_its_folder_once_fetched_and_says_how_to_fetch_it_before(cache, tiny_model):
    with pytest.raises(NotFound, match="rlhf-hitl models get smollm2-135m-instruct"):
        models.resolve_model("smollm2-135m-instruct")
    shutil.copytree(tiny_model, cache / "smollm2-135m-instruct")
    assert models.resolve_model("smollm2-135m-instruct") == cache / "smollm2-135m-instruct"
    assert model_fetching.fetch_model("smollm2-135m-instruct") == cache / "smollm2-135m-instruct"
    assert models.get_display_name("smollm2-135m-instruct") == "smollm2-135m-instruct"


@pytest.mark.model
def test_smollm2_answers_and_is_read_the_same_with_and_without_other_answers():
    """Everywhere else the tests run a tiny model, or the first layer of this one."""
    try:
        models.resolve_model(DEFAULT_MODEL)
    except NotFound:
        pytest.skip(f"rlhf-hitl models get {DEFAULT_MODEL}")
    tokenizer, policy = load_tokenizer(DEFAULT_MODEL), load_policy(DEFAULT_MODEL, torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = policy.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in str(tokenizer.decode(tokens))
    backbone = Backbone(DEFAULT_MODEL, dtype="float32")
    assert backbone.layers == (15, 20, 25)
    assert backbone.extractor.supports_trees
    prompt = (Message("user", "What is the capital of France?"),)
    chats = [Conversation(prompt, (Message("assistant", text),)) for text in ("Paris.", "It is Paris, on the Seine.")]
    rendered = [backbone.renderer.render(chat) for chat in chats]
    together, alone = backbone.compute(rendered), [backbone.compute([one])[0] for one in rendered]
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-2)
    assert np.abs(together[0] - together[1]).max() > 1


def test_no_bar_of_transformers_is_drawn_beside_ours_and_ours_ends_full(tiny_model, tmp_path, capfd):
    from transformers.utils import logging as transformers_logging

    from rlhf_hitl.reward.feature_cache import FeatureCache

    assert transformers_logging.is_progress_bar_enabled()
    load_policy(tiny_model)
    assert "Loading weights" not in capfd.readouterr().err
    asked = [Conversation((Message("user", f"Tea {n}?"),), (Message("assistant", "Yes."),)) for n in range(20)]
    FeatureCache(tmp_path, Backbone(str(tiny_model), max_length=64)).features(asked)
    drawn = capfd.readouterr().err
    assert "Loading weights" not in drawn
    assert "100%|" in drawn.replace("\r", "\n").strip().splitlines()[-1]
    assert transformers_logging.is_progress_bar_enabled(), "whoever loads models by other means has it as before"


def test_a_missing_folder_or_one_without_a_model_is_named(tmp_path):
    for missing in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere/at/all", tmp_path):
        with pytest.raises(NotFound, match="model '"):
            models.resolve_model(missing)


def test_names_in_the_store_are_no_paths_of_this_machine(tiny_model):
    assert models.get_display_name(tiny_model) == tiny_model.name
    assert models.get_display_name("owner/some-model") == "owner/some-model"


def test_an_unknown_short_name_lists_the_known_ones():
    with pytest.raises(BadInput, match="smollm2-135m-instruct"):
        model_fetching.fetch_model("gpt-17")


def test_without_a_hub_a_hub_id_is_one_line_that_says_what_to_do():
    # The tests run offline (see conftest), which is what an unreachable hub looks like.
    with pytest.raises(BadInput, match=r"models get smollm2-135m-instruct") as found:
        models.load_policy("owner/some-model")
    assert "'owner/some-model'" in str(found.value)


def test_a_tokenizer_without_a_chat_template_is_refused_unless_it_is_not_wanted(tiny_model, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="chat template"):
        models.load_tokenizer(folder)
    assert models.load_tokenizer(folder, chats=False).eos_token == "<|end|>"


def test_a_tokenizer_without_pad_pads_with_eos_and_on_the_left(tiny_model, tmp_path):
    folder = tmp_path / "nopad"
    shutil.copytree(tiny_model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = models.load_tokenizer(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


def test_only_safetensors_are_read(tiny_model, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    state = models.load_policy(tiny_model).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="safetensors"):
        models.load_policy(folder)


def test_a_policy_comes_in_the_precision_asked_for(tiny_model):
    assert models.load_policy(tiny_model, torch.bfloat16).dtype == torch.bfloat16
    assert models.load_policy(tiny_model).dtype == torch.float32
    assert not models.load_policy(tiny_model).training


READ_ALL = """
import sys
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_policy, load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.classifier import load_classifier
from rlhf_hitl.reward.training.trainable_classifier import load_trainable_classifier
for read in (Backbone, load_classifier, load_trainable_classifier, load_policy, load_tokenizer):
    try:
        read(sys.argv[1])
        print("read")
    except BadInput:
        print(read.__name__)
"""


def test_code_that_comes_with_a_model_is_never_run_and_nobody_is_asked(tiny_model, tmp_path):
    """transformers asks on stdin unless it is told: "y" stands there."""
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    kinds = {f"Auto{kind}": f"evil.{kind}" for kind in ("Config", "Model", "ModelForCausalLM", "Tokenizer")}
    config |= {"model_type": "evil", "auto_map": kinds | {"AutoModelForSequenceClassification": "evil.Model"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    )
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path / "model")], input="y\n" * 99, capture_output=True, text=True
    )
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in done.stdout + done.stderr
    refused = ["Backbone", "load_classifier", "load_trainable_classifier", "load_policy", "load_tokenizer"]
    assert done.stdout.split() == refused, done.stderr
