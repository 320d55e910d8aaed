"""What runs of TRL's trainers on policies share: where checkpoints go, resuming, memory, and saving the policy."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import DistributedType
from accelerate.utils import parse_flag_from_env
from huggingface_hub import constants
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import get_last_checkpoint

from rlhf_hitl.models import load_policy
from rlhf_hitl.policy.before_after import MOST_TOKENS, sample_before_and_after
from rlhf_hitl.policy.policy_folder import get_checkpoint_folder, save_policy
from rlhf_hitl.policy.training import explain_out_of_memory
from rlhf_hitl.policy.trl_settings import PolicySettings
from rlhf_hitl.policy.tuning_record import OF_ONE_RUN
from rlhf_hitl.reward.training.progress import keep_stdout_free
from rlhf_hitl.types import Prompt

#: Settings that every record of a tuning names, also where they are the defaults.
ALWAYS_RECORDED = (
    "model_name_or_path",
    "lora_r",
    "lora_alpha",
    "learning_rate",
    "beta",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "seed",
)

Settings = TypeVar("Settings", bound=PolicySettings)


def prepare_settings(settings: Settings, out: Path) -> Settings:
    """Return a copy of settings for TRL's trainer, whose own folder is that of the checkpoints: `out` itself is never
    incomplete. The trainer's ping to its makers is switched off where nothing else is set."""
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # the variable was read when the library was imported
    of_trainer = copy.copy(settings)
    of_trainer.output_dir = str(get_checkpoint_folder(out))
    return of_trainer


def find_dtype(settings: Any) -> torch.dtype:
    """Return the precision of the frozen weights."""
    return torch.bfloat16 if settings.bf16 else torch.float32


def is_model_in_parts() -> bool:
    """Whether the launcher of these processes has the weights sharded: FSDP or DeepSpeed."""
    return any(parse_flag_from_env(name) for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))


def run_training(trainer: Trainer, *memory_settings: str) -> list[dict[str, Any]]:
    """Run a trainer, from its checkpoint where its settings name one, and return the rows that it logged.

    `resume_from_checkpoint` takes `latest` for the newest one, if there is any.

    Raises:
        BadInput: the memory does not suffice; it names `memory_settings`.
    """
    keep_stdout_free(trainer)
    checkpoint: Any = trainer.args.resume_from_checkpoint
    if checkpoint == "latest":
        folder = str(trainer.args.output_dir)
        checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
    with explain_out_of_memory(*memory_settings):
        trainer.train(resume_from_checkpoint=checkpoint)
    return [row for row in trainer.state.log_history if "loss" in row]


def is_sharded(trainer: Trainer) -> bool:
    """Whether no process has all weights."""
    return trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def save_trained_policy(
    trainer: Trainer,
    tokenizer: Any,
    out: Path,
    *,
    base: str,
    merge: bool,
    card: dict[str, Any],
    prompts: Sequence[Prompt],
    max_new_tokens: int | None = None,
) -> None:
    """Write the policy of a trainer with its card; all processes call it, and the main one writes.

    Under FSDP and ZeRO-3 the weights are in parts. Then the adapter is gathered and put on a copy of the base model.
    Nothing is sampled from that copy: it is on a CPU.

    Args:
        prompts: of the training, of which a record is kept; some are answered before and after.
        max_new_tokens: most tokens of these answers.
    """
    accelerator = trainer.accelerator
    accelerator.wait_for_everyone()
    model: Any = accelerator.unwrap_model(trainer.model)
    if is_sharded(trainer):
        state: Any = accelerator.get_state_dict(trainer.model)
        if accelerator.is_main_process:
            unset_hf_deepspeed_config()  # otherwise what this process alone loads waits for the others
            adapter = get_peft_model_state_dict(model, state_dict=state)
            model = PeftModel(load_policy(base, find_dtype(trainer.args)), model.peft_config["default"])
            set_peft_model_state_dict(model, adapter)
    if accelerator.is_main_process:
        of_text = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
        samples = []
        if not is_sharded(trainer):
            samples = sample_before_and_after(
                model, of_text, prompts, max_new_tokens=max_new_tokens or MOST_TOKENS, seed=trainer.args.seed
            )
        save_policy(model, tokenizer, out, base=base, merge=merge, card=card, prompts=prompts, samples=samples)
    accelerator.wait_for_everyone()


def list_changed_settings(settings: PolicySettings) -> dict[str, Any]:
    """Return the settings that differ from the defaults and those in ALWAYS_RECORDED, without folders of this
    machine."""
    defaults = type(settings)().to_dict()  # type: ignore[attr-defined]
    given = settings.to_dict()  # type: ignore[attr-defined]
    changed = {k: v for k, v in given.items() if defaults.get(k) != v and k not in OF_ONE_RUN}
    return {name: given[name] for name in ALWAYS_RECORDED} | changed
