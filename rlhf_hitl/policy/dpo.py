"""Tune a LoRA policy with TRL's DPO trainer, on labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from torch.nn.functional import softplus
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from rlhf_hitl.arguments import refuse_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_policy, load_processor, load_tokenizer
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.policy.dpo_rows import VisionPairCollator, read_pairs
from rlhf_hitl.policy.policy_folder import require_free_folder
from rlhf_hitl.policy.training import (
    UNSUPPORTED_DPO_SETTINGS,
    describe_training_inputs,
    explain_out_of_memory,
    make_policy_lora_config,
    refuse_heldout,
    refuse_unknown_choices,
)
from rlhf_hitl.policy.trl_settings import PolicySettings
from rlhf_hitl.policy.trl_training import (
    describe_settings,
    find_dtype,
    is_model_in_parts,
    list_changed_settings,
    prepare_settings,
    run_training,
    save_trained_policy,
)
from rlhf_hitl.reward.rendering import explain_unshown
from rlhf_hitl.reward.training.full_config import refuse_missing_trackers
from rlhf_hitl.reward.vision import ImageLoader, VisionReader
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

#: The largest share of ties that `fit_tie_odds` takes at its word: where all are ties no odds fit.
MOST_TIES = 0.9
#: Losses for which TRL has no other divergence than this one.
LOSSES_OF_REVERSE_KL = ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down")


@dataclass
class DPOSettings(PolicySettings, DPOConfig):
    """TRL's DPOConfig and our settings."""

    per_device_train_batch_size: int = field(default=4, metadata={"help": "Pairs in one pass of a device."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "How often every pair is used."})
    max_length: int | None = field(
        default=1024, metadata={"help": "Most tokens of a pair's side; longer pairs are left out and counted."}
    )
    ties: Literal["davidson", "half", "leave_out"] = field(
        default="davidson",
        metadata={
            "help": "What a tie teaches: davidson (Davidson's model, as in full reward models), half (half a vote for "
            "each side), or leave_out."
        },
    )
    precompute_ref_log_probs: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Compute the reference once, before training. The default does so where a pair is used more than "
            "once, no pair has images, and the launcher does not put the weights in parts."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown_choices("dpo", vars(self))
        # TRL refuses these two when it makes a trainer, which is after answers were sampled.
        if "exo_pair" in self.loss_type and self.label_smoothing == 0:
            raise BadInput(
                f"label_smoothing {self.label_smoothing}",
                expected="above 0 with the loss exo_pair",
                fix="set label_smoothing=1e-3",
            )
        without = [name for name in self.loss_type if name in LOSSES_OF_REVERSE_KL]
        if self.f_divergence_type != "reverse_kl" and without:
            raise BadInput(
                f"f_divergence_type {self.f_divergence_type}",
                expected=f"reverse_kl with the loss {without[0]}",
                fix="leave f_divergence_type out, or choose another loss_type",
            )


#: The columns of a row that say what its label is worth.
LABEL_COLUMNS = ("share", "tie", "weight", "judged")
#: What the figures of a training may hold.
FIGURES = (
    "rater_pairs", "simulated_rater_pairs", "model_pairs", "pairs_with_ties", "mean_share", "mean_weight", "too_long",
    "left_out", "not_paired", "sampled", "unshown", "reference_precomputed", "steps", "loss",
)  # fmt: skip


class LabelDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are prepared (the one rendering of chats has made them), and with a loss on labels.

    TRL's rows have no weight, no soft label and no ties. With the loss `sigmoid`, this trainer's loss of a row is that
    of its label (`compute_label_loss`), times the label's weight relative to the mean. For rows of one vote each, all
    worth the same and no tie, it is TRL's. Other losses are TRL's, and take each row as certain.

    Attributes:
        mean_weight: of the rows' labels.
        tie_odds: Davidson's nu, from the share of ties among raters' votes; 0 where ties are half a vote each. Rows of
            the reward model, whose label says which side a rater prefers who sees a difference, are learnt at 0.
    """

    args: DPOSettings
    model: torch.nn.Module
    mean_weight: float = 1.0
    tie_odds: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        rows: Any = self.train_dataset
        weights, ties, judged = (torch.tensor(rows[name], dtype=torch.float64) for name in ("weight", "tie", "judged"))
        self.mean_weight = float(weights.mean())
        votes = weights * judged
        if self.args.ties == "davidson" and votes.sum() > 0:
            self.tie_odds = fit_tie_odds(float((votes * ties).sum() / votes.sum()))
        self.data_collator = _LabelCollator(self.data_collator)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), "texts", *LABEL_COLUMNS]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Return the rows with the reference's log-probabilities. TRL's way is by a file in a temporary folder, which
        other processes do not have where rows are in memory; only it prepares a model whose weights are in parts."""
        if is_model_in_parts():
            return super()._precompute_ref_logps(dataset, name, batch_size)
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))  # type: ignore[arg-type]
        sides: tuple[list[float], list[float]] = ([], [])
        for batch in loader:
            gathered = self.accelerator.gather_for_metrics(self.compute_ref_log_probs(self.model, batch))
            for side, values in zip(sides, gathered):
                side += values.double().tolist()
        return dataset.add_column("ref_chosen_logps", sides[0]).add_column("ref_rejected_logps", sides[1])  # type: ignore[call-arg]

    @property
    def learns_labels(self) -> bool:
        """Whether the loss is plain DPO's, of which that of labels is made."""
        a = self.args
        is_plain = self.loss_types == ["sigmoid"] and a.f_divergence_type == "reverse_kl" and a.ld_alpha is None
        return is_plain and not (a.use_weighting or self.aux_loss_enabled)

    def _compute_loss(self, model, inputs, return_outputs):
        share, tie, weight, judged = (inputs.pop(name) for name in LABEL_COLUMNS)
        if not self.learns_labels:
            return super()._compute_loss(model, inputs, return_outputs)
        # The outputs of the policy, and then of the reference if it is computed now: TRL hands neither on.
        calls: list[Any] = []
        hook = self.model.register_forward_hook(lambda *call: calls.append(call[-1]))
        try:
            computed = super()._compute_loss(model, inputs, return_outputs)
        finally:
            hook.remove()
        mask = inputs["completion_mask"][..., 1:]
        policy, *others = (call.log_probs[:, -mask.shape[1] :].sum(1) for call in calls)
        if self.precompute_ref_logps:
            reference = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]).to(policy)
        else:
            reference = others[0]
        chosen, rejected = (policy - reference).chunk(2)
        losses = compute_label_loss(self.beta * (chosen - rejected), share, tie, self.tie_odds * judged)
        loss = (losses * weight / self.mean_weight).mean()
        return (loss, computed[1]) if return_outputs else loss


def compute_label_loss(
    margins: torch.Tensor,
    shares: torch.Tensor,
    ties: torch.Tensor | None = None,
    tie_odds: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Return the losses (n,) of labels: the cross-entropy of the shares of the votes and the probabilities that DPO
    gives to "chosen better", "rejected better" and a tie.

    Two answers with a margin of m are tied with odds nu : 2 cosh(m / 2) (Davidson 1970; for DPO: Chen et al. 2024, "On
    extending direct preference optimization to accommodate ties", whose nu is half of ours). At nu = 0 a tie is half a
    vote for each side: log(2 cosh(m / 2)) is the mean of the two losses of a vote. Then the loss is that of soft labels
    (Mitchell 2023, "A note on DPO with noisy preferences"), and without ties and soft labels DPO's.

    Args:
        margins: (n,) beta times how much more the policy has raised the chosen side than the rejected one.
        shares: (n,) of the votes that prefer a side, those that prefer the chosen one.
        ties: (n,) of all votes, those that call it a tie. None: there are none.
        tie_odds: Davidson's nu, one or (n,).
    """
    ties = torch.zeros_like(margins) if ties is None else ties
    normaliser = margins / 2 + softplus(-margins)  # log(exp(m/2) + exp(-m/2))
    odds = torch.as_tensor(tie_odds, dtype=margins.dtype, device=margins.device).expand_as(margins)
    normaliser = torch.logaddexp(normaliser, odds.log())
    log_odds = torch.where(odds > 0, odds, 1.0).log()
    decided = normaliser - (2 * shares - 1) * margins / 2
    return (1 - ties) * decided + ties * (normaliser - log_odds)


def fit_tie_odds(share: float) -> float:
    """Return Davidson's nu at which this share of the votes are ties where DPO starts, at margins of 0."""
    share = min(share, MOST_TIES)
    return 2 * share / (1 - share)


@dataclass(frozen=True)
class _LabelCollator:
    """Adds to a batch what the rows' labels are worth."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self.collate(rows) | {name: torch.tensor([row[name] for row in rows]) for name in LABEL_COLUMNS}


def train_dpo(
    settings: DPOSettings,
    pairs: Sequence[DPOPair],
    load_image: ImageLoader | None = None,
    *,
    not_paired: Mapping[str, int] | None = None,
    sampled: Mapping[str, Any] | None = None,
    start_adapter: Path | None = None,
    card: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Tune a LoRA policy with TRL's trainer and write it to `settings.output_dir`. Returns the figures of the training.

    The reference is the policy with its adapter switched off, so no second model is held in memory.

    Args:
        load_image: where images are that the pairs do not hold themselves.
        not_paired: what made no pair, by reason, for the card.
        sampled: counts of the fresh answers that pairs were made of, for the card.
        start_adapter: the folder of an adapter to go on from. The reference is still the policy without any.
        card: more of what the policy's card should say.

    Raises:
        BadInput: a pair's prompt may not be trained on, the policy cannot read a pair or tell its sides apart, no pair
            fits, `output_dir` is taken, a setting or tracker cannot be followed, or the memory does not suffice.
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
    changed = list_changed_settings(settings)  # before there is a trainer: it makes others, which reset accelerate
    of_trainer = prepare_settings(settings, out)
    if of_trainer.precompute_ref_log_probs is None:
        is_used_again = settings.num_train_epochs > 1 and not read.with_images
        of_trainer.precompute_ref_log_probs = is_used_again and not is_model_in_parts()
    with explain_out_of_memory("per_device_train_batch_size", "max_length"):
        trainer = LabelDPOTrainer(
            model=load_policy(settings.model_name_or_path, find_dtype(settings)),
            args=of_trainer,
            processing_class=processor if read.with_images else tokenizer,
            train_dataset=read.rows,
            data_collator=VisionPairCollator(vision) if read.with_images and vision is not None else None,
            peft_config=make_policy_lora_config(settings.lora_r, settings.lora_alpha, settings.lora_dropout),
        )
    if not trainer.learns_labels and any(pair.share < 1 or pair.tie or pair.weight != 1 for pair in read.pairs):
        log.warning("these settings of the loss take every label as certain: only plain DPO learns its votes")
    if start_adapter is not None:
        set_peft_model_state_dict(trainer.model, load_peft_weights(str(start_adapter), device="cpu"))  # type: ignore[arg-type]
    labels = [pair.label for pair in read.pairs]
    inputs = describe_training_inputs(settings.model_name_or_path, {"pairs": labels}, card or {})
    inputs = {"method": "dpo", **describe_settings(changed), **inputs}
    history = run_training(trainer, "per_device_train_batch_size", "max_length", inputs=inputs)
    figures = {
        **count_pairs(read.pairs),
        "too_long": read.too_long,
        "left_out": read.left_out.as_dict(),
        "not_paired": dict(not_paired or {}),
        **({} if sampled is None else {"sampled": dict(sampled)}),
        "unshown": read.unshown,
        "reference_precomputed": trainer.precompute_ref_logps,
        "steps": trainer.state.global_step,
        "loss": history[-1]["loss"] if history else None,
    }
    save_trained_policy(
        trainer,
        tokenizer if processor is None else processor,
        out,
        base=settings.model_name_or_path,
        merge=settings.merge,
        card={
            "method": "dpo",
            "settings": changed,
            **figures,
            **(card or {}),
            "history": history,
        },
        prompts=[pair.prompt for pair in read.pairs],
    )
    return figures


def count_pairs(pairs: Sequence[DPOPair]) -> dict[str, float]:
    """Return how many pairs there are of each source, on how many of the raters' a simulated one has voted, how many
    have votes for a tie, and the means of share and weight."""
    sources = [p.label_source for p in pairs]
    return {
        "rater_pairs": sources.count("human"),
        "simulated_rater_pairs": sum(p.simulated for p in pairs),
        "model_pairs": sources.count("model"),
        "pairs_with_ties": sum(p.tie > 0 for p in pairs),
        "mean_share": sum(p.share for p in pairs) / len(pairs),
        "mean_weight": sum(p.weight for p in pairs) / len(pairs),
    }
