"""TRL's RewardTrainer with a loss on whole labels: rankings with shares and weights, ties included."""

from __future__ import annotations

import math
from math import comb
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import RewardTrainer

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.losses import (
    centring_penalty,
    compute_pair_margins_and_leans,
    davidson_luce_loss,
    estimate_tie_prevalences,
    length_penalty,
    score_agreement,
)
from rlhf_hitl.reward.seen_prompts import SeenPrompts
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.token_budget import TokenBudgetSampler
from rlhf_hitl.reward.training.tokenised_rows import LABEL_COLUMNS
from rlhf_hitl.reward.training.trainable_classifier import Fp32ScoreHead
from rlhf_hitl.types import UNRANKED
from rlhf_hitl.wording import say_count

MAX_TIE_GROUPS = 10_000  # groups of one row's completions that may tie: the loss counts them all


class LabelRewardTrainer(RewardTrainer):
    """RewardTrainer that learns from every row's rankings, with their shares of the votes and the row's weight.

    The loss is Davidson-Luce's, with the prevalences of ties in the training labels. For pairs that is Davidson's loss,
    without ties Plackett-Luce's, for pairs without ties Bradley-Terry's. Weights are relative to their mean over the
    training labels, so that a learning rate means the same with any.

    Attributes:
        source: the folder of the model that training started from.
        base: the name of that model.
        processor: of a model that reads images, which is saved with it; None for others.
        seen_before: the prompts that it had seen.
        prevalences: of ties of 2, 3, ... completions.
    """

    args: FullTrainingConfig
    source: str
    base: str
    processor: Any
    seen_before: SeenPrompts
    prevalences: list[float]
    mean_weight: float

    def read_labels(self, train: Dataset, calibration: Dataset | None) -> None:
        """Take the prevalences of ties and the mean weight from the training labels. Tie sizes that only the
        calibration labels have must be possible too.

        Raises:
            BadInput: labels that teach nothing (all ties, or all of weight 0), or ties among too many completions.
        """
        self.mean_weight = float(np.mean(train["weight"]))
        counted_rankings = [
            (ranking, share * weight / (self.mean_weight or 1))
            for ranks, shares, weight in zip(train["ranks"], train["shares"], train["weight"])
            for ranking, share in zip(ranks, shares)
        ]
        if not any(count > 0 and max(ranking) > 0 for ranking, count in counted_rankings):
            raise BadInput(
                say_count(len(train), "training label"),
                expected="at least one with a preference and a weight above 0",
                fix="rate or import more comparisons",
            )
        if calibration is not None:
            counted_rankings += [(ranking, 0.0) for ranks in calibration["ranks"] for ranking in ranks]
        self.prevalences = estimate_tie_prevalences(*zip(*counted_rankings))
        most = max(len(ranking) for ranking, _ in counted_rankings)
        groups = sum(comb(most, size) for size, nu in enumerate(self.prevalences, 2) if nu > 0)
        if groups > MAX_TIE_GROUPS:
            raise BadInput(
                f"rankings of {most} completions with ties of up to {len(self.prevalences) + 1}",
                expected=f"{MAX_TIE_GROUPS:,} groups that may tie, or fewer: here are {groups:,}",
                fix="set learn_from: pairs",
            )

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # `tokenise_rows` has prepared it

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["ids", "starts", "texts", "images", *LABEL_COLUMNS]

    def _get_train_sampler(self, train_dataset=None):
        if self.args.token_budget is None:
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset["ids"]  # type: ignore[index]
        most = max(map(len, rows))  # conversations in a row: a padded batch has at most so many times its rows
        as_trees = self.data_collator.as_trees  # type: ignore[union-attr]
        return TokenBudgetSampler(
            [sum(shared_prefix.measure_tree(row)) if as_trees else most * max(map(len, row)) for row in rows],
            self.args.token_budget,
            processes=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        sampler = getattr(loader.batch_sampler, "batch_sampler", None)
        # The Trainer looks for set_epoch two wrappers deep; skipping batches on resume adds one more wrapper.
        if isinstance(sampler, TokenBudgetSampler):
            loader.batch_sampler.set_epoch = sampler.set_epoch  # type: ignore[attr-defined]
        return loader

    def _get_num_items_in_batch(self, batch_samples, device):
        """Return the rows of a step over all processes and accumulated batches: batches may differ in size."""
        rows = torch.tensor(sum(len(batch["weight"]) for batch in batch_samples), device=device)
        return torch.as_tensor(self.accelerator.gather(rows)).sum()

    def rewards(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Return the rewards (conversations,) of a collated batch, row by row, and the model's outputs."""
        if "trees" not in inputs:
            outputs = model(**inputs, use_cache=False)
            return outputs.logits.flatten(), outputs
        ids, trees = inputs["input_ids"], inputs["trees"]
        score_heads = [module for module in model.modules() if isinstance(module, Fp32ScoreHead)]
        for head in score_heads:
            head.last_tokens = shared_prefix.find_last_tokens(trees).to(ids.device)
        try:
            outputs = model(**shared_prefix.build_model_inputs(self.model, ids, inputs["position_ids"], trees))
        finally:
            for head in score_heads:
                head.last_tokens = None
        return outputs.logits.flatten(), outputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight, ranks, shares, log_lengths = (inputs.pop(name) for name in LABEL_COLUMNS)
        flat_rewards, outputs = self.rewards(model, inputs)
        exists = (ranks != UNRANKED).any(1)  # (n, K): every completion was ranked by somebody, the rest is padding
        rewards = flat_rewards.new_zeros(exists.shape).masked_scatter(exists, flat_rewards)
        n, votes, _ = ranks.shape
        losses = davidson_luce_loss(rewards.repeat_interleave(votes, 0), ranks.flatten(0, 1), self.prevalences)
        loss = ((losses.view(n, votes) * shares).sum(1) * weight / self.mean_weight).mean()
        margins, leans = compute_pair_margins_and_leans(rewards, ranks, shares)
        signed_margins = torch.where(leans == 0, torch.nan, margins * leans.sign())
        metrics = {"accuracy": score_agreement(margins, leans), "margin": signed_margins}
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * centring_penalty(rewards).mean()
        if self.args.length_coefficient:
            first, second = torch.triu_indices(exists.shape[1], exists.shape[1], 1)
            both_exist = exists[:, first] & exists[:, second]
            length_differences = log_lengths[:, first] - log_lengths[:, second]
            penalty = length_penalty(margins[both_exist], length_differences[both_exist])
            loss = loss + self.args.length_coefficient * penalty
            metrics["length_share"] = penalty[None]
        if not torch.isfinite(loss):
            raise BadInput(
                f"loss {loss.item()} at step {self.state.global_step}",
                expected="a finite loss",
                fix="lower learning_rate, or train in bf16 or fp32 where it was fp16; earlier checkpoints stay",
            )
        if model.training and num_items_in_batch is not None:  # the Trainer averages over batches and processes
            batches = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            loss = loss * len(weight) * batches / num_items_in_batch
        self._record_metrics("train" if model.training else "eval", metrics)
        return (loss, outputs) if return_outputs else loss

    def _record_metrics(self, mode: str, metrics: dict[str, torch.Tensor]) -> None:
        """Record one value for each pair of every process: TRL averages them, and a mean of batches' means would
        differ."""
        for name, values in metrics.items():
            padded: Any = values.detach()
            for dim in range(padded.dim()):  # the processes' batches may differ in size
                padded = self.accelerator.pad_across_processes(padded, dim=dim, pad_index=math.nan)  # type: ignore[arg-type]
            gathered: Any = self.accelerator.gather_for_metrics(padded)
            if present := gathered[~gathered.isnan()].tolist():
                self._metrics[mode][name].extend(present)
