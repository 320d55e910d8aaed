"""What the tests of DPO and PPO share."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="module")
def policy(tiny_model, tmp_path_factory):
    """The tiny model with its own output layer: with the tied one an adapter cannot move the logits far."""
    import torch
    from transformers import LlamaForCausalLM

    from rlhf_hitl.models import load_policy

    folder = tmp_path_factory.mktemp("policy")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    config = load_policy(tiny_model).config
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(8)
    model.save_pretrained(folder)
    return folder
