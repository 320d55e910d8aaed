"""LoRA in full training: an adapter that trains the score head too, merged into the weights at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel, TaskType
from trl import ModelConfig, get_peft_config

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.training.trainable_classifier import Fp32ScoreHead, load_trainable_classifier


def make_score_lora_config(model_config: ModelConfig, score_head: str) -> Any:
    """Return TRL's LoraConfig for a sequence classifier with this score head; None without use_peft."""
    return get_peft_config(
        replace(
            model_config,
            lora_target_modules=model_config.lora_target_modules or "all-linear",
            lora_task_type=TaskType.SEQ_CLS,  # with any other the score head stays frozen
            lora_modules_to_save=sorted({score_head, *(model_config.lora_modules_to_save or [])}),
        )
    )


def refuse_frozen_head(model: Any) -> None:
    """Raise BadInput where training would leave the score head as it is: the rewards would not change."""
    # Found by class: PEFT keeps two of them, one to train and the original, under longer names.
    heads = [m for m in model.modules() if isinstance(m, Fp32ScoreHead)]
    if not any(head.weight.requires_grad for head in heads):
        raise BadInput(
            "a score head that is frozen", expected="one that is trained", fix="name it in lora_modules_to_save"
        )


def merge_lora(model: PeftModel, state: dict[str, torch.Tensor], source: str, pad_id: int) -> Any:
    """Return a copy of a trained model with its LoRA merged into the weights.

    A copy, as under FSDP and ZeRO-3 the weights of the model itself are in parts.
    """
    base = load_trainable_classifier(source, pad_token_id=pad_id)
    copy = PeftModel(base, model.peft_config["default"])
    copy.load_state_dict(state)
    return copy.merge_and_unload()
