"""Tune a LoRA policy with TRL's DPO trainer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import logsigmoid
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


#: The columns of a row that say what its label is worth.
LABEL_COLUMNS = ("share", "weight")


class LabelDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are prepared (the one rendering of chats has made them), and with a loss on labels.

    TRL's rows have no weight and no soft label. With the loss `sigmoid`, this trainer's loss of a row is that of its
    label: the cross-entropy of the share of the votes for the chosen side and the probability that DPO gives it
    (Mitchell 2023, "A note on DPO with noisy preferences"), times the label's weight relative to the mean. For rows of
    one vote each, all worth the same, it is TRL's. Other losses are TRL's, and take each row as certain.

    Attributes:
        mean_weight: of the rows' labels.
    """

    args: DPOSettings
    model: torch.nn.Module
    mean_weight: float = 1.0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        weights: Any = self.train_dataset["weight"]  # type: ignore[index]
        self.mean_weight = sum(weights) / len(weights)
        self.data_collator = _LabelCollator(self.data_collator)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), "texts", *LABEL_COLUMNS]

    @property
    def learns_labels(self) -> bool:
        """Whether the loss is plain DPO's, of which that of labels is made."""
        a = self.args
        is_plain = self.loss_types == ["sigmoid"] and a.f_divergence_type == "reverse_kl" and a.ld_alpha is None
        return is_plain and not (a.use_weighting or a.precompute_ref_log_probs or self.aux_loss_enabled)

    def _compute_loss(self, model, inputs, return_outputs):
        share, weight = (inputs.pop(name) for name in LABEL_COLUMNS)
        if not self.learns_labels:
            return super()._compute_loss(model, inputs, return_outputs)
        # The outputs of the policy, and then of the reference: TRL hands neither on.
        calls: list[Any] = []
        hook = self.model.register_forward_hook(lambda *call: calls.append(call[-1]))
        try:
            computed = super()._compute_loss(model, inputs, return_outputs)
        finally:
            hook.remove()
        mask = inputs["completion_mask"][..., 1:]
        policy, reference = (call.log_probs[:, -mask.shape[1] :].sum(1) for call in calls[:2])
        chosen, rejected = (policy - reference).chunk(2)
        losses = compute_label_loss(self.beta * (chosen - rejected), share)
        loss = (losses * weight / self.mean_weight).mean()
        return (loss, computed[1]) if return_outputs else loss


def compute_label_loss(margins: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the losses (n,) of labels: the cross-entropy of the shares of the votes for the chosen sides and the
    probabilities that DPO gives them.

    Args:
        margins: (n,) beta times how much more the policy has raised the chosen side than the rejected one.
        shares: (n,) of the votes that prefer a side.
    """
    return -shares * logsigmoid(margins) - (1 - shares) * logsigmoid(-margins)


@dataclass(frozen=True)
class _LabelCollator:
    """Adds to a batch what the rows' labels are worth."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self.collate(rows) | {name: torch.tensor([row[name] for row in rows]) for name in LABEL_COLUMNS}


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
    trainer = LabelDPOTrainer(
        model=load_policy(settings.model_name_or_path, torch.bfloat16 if settings.bf16 else torch.float32),
        args=trainer_settings,
        processing_class=processor if read.with_images else tokenizer,
        train_dataset=read.rows,
        data_collator=VisionPairCollator(vision) if read.with_images and vision is not None else None,
        peft_config=make_policy_lora_config(settings.lora_r, settings.lora_alpha, settings.lora_dropout),
    )
    if not trainer.learns_labels and any(pair.share < 1 or pair.weight != 1 for pair in read.pairs):
        log.warning("these settings of the loss take every label as certain: only plain DPO learns its votes")
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
