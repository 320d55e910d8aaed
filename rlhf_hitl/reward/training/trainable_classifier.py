"""The model that full training trains: a sequence classifier on any language model, with a score head in fp32."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_config
from rlhf_hitl.reward.pretrained import (
    find_score_head,
    is_sequence_classifier,
    load_sequence_classifier,
    locate_full_model,
)


class Fp32ScoreHead(torch.nn.Linear):
    """A score head that computes in fp32 under any autocast: in bf16 small margins flip or tie.

    With `last_tokens`, the indices in a row where its conversations end, every token gets the rewards of all of them:
    whichever token transformers' classifier takes for the end of the row, it returns (1, conversations).
    """

    last_tokens: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        states = input if self.last_tokens is None else input[:, self.last_tokens]
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            rewards = torch.nn.functional.linear(states.float(), self.weight.float(), bias)
        return rewards if self.last_tokens is None else rewards.transpose(1, 2).expand(-1, input.shape[1], -1)


def load_trainable_classifier(name: str, **options: Any) -> PreTrainedModel:
    """Load a sequence classifier with one label in float32 from the weights of any language model or classifier.

    A score head that the weights hold is trained on. A new one starts with all rewards equal, so that it has no margin
    that nobody taught it.

    Raises:
        BadInput: a classifier with several labels, or an architecture of which transformers has no classifier.
    """
    path = locate_full_model(name)
    config = load_config(path)
    if config.num_labels != 1 and is_sequence_classifier(path):
        raise BadInput(
            f"model_name_or_path {name!r}, a classifier with {config.num_labels} labels",
            expected="a language model, or a classifier with 1 label",
            fix="start from the language model it was made of",
        )
    model, lacking = load_sequence_classifier(path, num_labels=1, **options)
    head_name, loaded_head = find_score_head(model)
    head = Fp32ScoreHead(loaded_head.in_features, 1, bias=loaded_head.bias is not None)
    if f"{head_name}.weight" in lacking:
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    else:
        head.load_state_dict(loaded_head.state_dict())
    model.set_submodule(head_name, head)
    if "pad_token_id" in options:  # where transformers' classifiers look for it in models of several parts
        model.config.get_text_config().pad_token_id = options["pad_token_id"]
    return model
