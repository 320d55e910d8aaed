"""Tune a LoRA policy with TRL's DPO trainer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from rlhf_hitl.arguments import read_trackers, refuse_settings
from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import fill_in_precision, load_policy, load_processor, load_tokenizer
from rlhf_hitl.policy.dpo_pairs import DPOPair
from rlhf_hitl.policy.dpo_rows import VisionPairCollator, read_pairs
from rlhf_hitl.policy.policy_folder import get_checkpoint_folder, require_free_folder, save_policy
from rlhf_hitl.policy.training import UNSUPPORTED_DPO_SETTINGS, make_policy_lora_config, refuse_heldout
from rlhf_hitl.reward.rendering import explain_unshown
from rlhf_hitl.reward.training.full_config import refuse_missing_trackers
from rlhf_hitl.reward.training.progress import keep_stdout_free
from rlhf_hitl.reward.vision import ImageLoader, VisionReader
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)


@dataclass
class DPOSettings(DPOConfig):
    """TRL's DPOConfig and our settings. Defaults that differ from TRL's fit a LoRA run of a small policy on a CPU.

    bf16 is left off where the hardware only emulates it.
    """

    output_dir: str = field(default="", metadata={"help": "Folder for the tuned policy. It must not exist yet."})
    model_name_or_path: str = field(
        default=DEFAULT_MODEL, metadata={"help": "Model folder, hub id, or a name from `models get`."}
    )
    lora_r: int = field(default=8, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout."})
    merge: bool = field(default=True, metadata={"help": "Save a whole model instead of the adapter only."})
    learning_rate: float = field(
        default=5e-5, metadata={"help": "Learning rate of AdamW; LoRA needs a higher one than full tuning."}
    )
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Pairs in one pass of a device."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "How often every pair is used."})
    max_length: int | None = field(
        default=1024, metadata={"help": "Most tokens of a pair's side; longer pairs are left out and counted."}
    )
    skip_bad: bool = field(
        default=False,
        metadata={
            "help": "Leave out and count pairs that the chat template refuses or makes the same, instead of stopping."
        },
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations: uses less memory and more time."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Steps between two rows of the history."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    report_to: list[str] = field(  # type: ignore[assignment]
        default_factory=lambda: ["none"], metadata={"help": "Trackers such as tensorboard or wandb; or none."}
    )

    def __post_init__(self) -> None:
        fill_in_precision(self)
        self.report_to = read_trackers(self.report_to)
        super().__post_init__()


class PreparedDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are prepared: the one rendering of chats has made them."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), "texts"]


def train_dpo(settings: DPOSettings, pairs: Sequence[DPOPair], load_image: ImageLoader | None = None) -> dict[str, Any]:
    """Tune a LoRA policy with TRL's trainer and write it to `settings.output_dir`. Returns the figures of the training.

    The reference is the policy with its adapter switched off, so no second model is held in memory.

    Args:
        load_image: where images are that the pairs do not hold themselves.

    Raises:
        BadInput: a pair's prompt may not be trained on, the policy cannot read a pair or tell its sides apart, no pair
            fits, `output_dir` is taken, or a setting or tracker cannot be followed.
    """
    refuse_settings([settings], UNSUPPORTED_DPO_SETTINGS)
    refuse_missing_trackers(settings.report_to)
    out = require_free_folder(settings.output_dir)
    refuse_heldout(p.prompt for p in pairs)
    tokenizer, processor = load_tokenizer(settings.model_name_or_path), load_processor(settings.model_name_or_path)
    vision = None if processor is None else VisionReader(processor, load_image)
    read = read_pairs(pairs, tokenizer, settings.max_length, vision)
    read.left_out.refuse_or_warn(len(pairs), skip_bad=settings.skip_bad)
    of_all = say_count(len(pairs), "pair")
    if read.too_long:
        log.warning("%d of %s left out: longer than max_length %s", read.too_long, of_all, settings.max_length)
    if read.unshown:
        log.warning("%s", explain_unshown(read.unshown, len(pairs), "pair"))
    if not read.pairs:
        raise BadInput(
            of_all,
            expected=f"at least one that can be read, of up to {settings.max_length} tokens",
            fix="raise max_length" if read.too_long else "give the policy's tokenizer another chat template",
        )
    trainer_settings = copy.copy(settings)
    trainer_settings.output_dir = str(get_checkpoint_folder(out))  # `output_dir` itself is never incomplete
    trainer = PreparedDPOTrainer(
        model=load_policy(settings.model_name_or_path, torch.bfloat16 if settings.bf16 else torch.float32),
        args=trainer_settings,
        processing_class=processor if read.with_images else tokenizer,
        train_dataset=read.rows,
        data_collator=VisionPairCollator(vision) if read.with_images and vision is not None else None,
        peft_config=make_policy_lora_config(settings.lora_r, settings.lora_alpha, settings.lora_dropout),
    )
    keep_stdout_free(trainer)
    trainer.train(resume_from_checkpoint=settings.resume_from_checkpoint)
    sources = [p.label_source for p in read.pairs]
    history = [row for row in trainer.state.log_history if "loss" in row]
    figures = {
        "human_pairs": sources.count("human"),
        "model_pairs": sources.count("model"),
        "too_long": read.too_long,
        "left_out": read.left_out.as_dict(),
        "unshown": read.unshown,
        "steps": trainer.state.global_step,
        "loss": history[-1]["loss"] if history else None,
    }
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        card = {"method": "dpo", "settings": _select_changed_settings(settings), **figures, "history": history}
        save_policy(
            model,
            tokenizer if processor is None else processor,
            out,
            base=settings.model_name_or_path,
            merge=settings.merge,
            card=card,
        )
    trainer.accelerator.wait_for_everyone()
    return figures


def _select_changed_settings(settings: DPOSettings) -> dict[str, Any]:
    """Return the policy and the settings that differ from the defaults, without folders of this machine."""
    defaults = DPOSettings().to_dict()
    changed = {k: v for k, v in settings.to_dict().items() if defaults.get(k) != v and k != "output_dir"}
    return {"model_name_or_path": settings.model_name_or_path} | changed
