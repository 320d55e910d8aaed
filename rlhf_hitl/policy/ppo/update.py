"""The update of PPO: epochs of minibatches over a step's rollouts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_hitl.policy.ppo import math as ppo_math
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic, RolloutBatch


@dataclass(frozen=True)
class Experience:
    """Rollouts with what the update needs, (n, answer) each. `logprobs` and `values` are from before the update."""

    batch: RolloutBatch
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PPOUpdater:
    """Updates the adapter and the value head, each with its own learning rate and gradient clipping.

    `wrapped` is the model as accelerate prepared it for this process.
    """

    def __init__(self, config: PPOConfig, model: ActorCritic, accelerator: Accelerator):
        from transformers import get_scheduler

        self.config, self.accelerator = config, accelerator
        adapter = [p for name, p in model.trainable_parameters().items() if not name.startswith("value_head")]
        head = list(model.value_head.parameters())
        self.groups = (adapter, head)
        optimizer = torch.optim.AdamW(
            [{"params": adapter, "lr": config.learning_rate}, {"params": head, "lr": config.value_learning_rate}],
            eps=1e-5,  # as in the original PPO
            weight_decay=0.0,
        )
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        updates = config.steps * config.epochs * (config.rollouts // config.minibatch)
        self.scheduler = get_scheduler(config.schedule, self.optimizer.optimizer, 0, updates)

    def update(self, experience: Experience, step: int) -> dict[str, float]:
        """Go through the rollouts once an epoch, in minibatches of a new order. Returns means over real tokens."""
        config, accelerator = self.config, self.accelerator
        n, share = len(experience.batch.lengths), config.minibatch // accelerator.num_processes
        totals = torch.zeros(6, dtype=torch.float64, device=accelerator.device)
        for epoch in range(config.epochs):
            order = np.random.default_rng((config.seed, step, epoch, accelerator.process_index)).permutation(n)
            for minibatch in torch.as_tensor(order, device=accelerator.device).split(share):
                token_count = experience.batch.lengths[minibatch].sum()[None].double()
                tokens = float(accelerator.reduce(token_count, reduction="sum")[0])  # type: ignore[index]
                microbatches = minibatch.split(config.microbatch)
                for i, index in enumerate(microbatches):
                    is_last = i == len(microbatches) - 1
                    with nullcontext() if is_last else accelerator.no_sync(self.wrapped):
                        loss, sums = self._sum_losses(experience, index)
                        # DDP averages over processes; what is wanted is the mean over the tokens of all processes.
                        accelerator.backward(loss * accelerator.num_processes / tokens)
                    totals += sums
                for group in self.groups:
                    accelerator.clip_grad_norm_(group, config.max_grad_norm)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        *sums, count = accelerator.reduce(totals, reduction="sum").tolist()  # type: ignore[union-attr]
        names = ("policy_loss", "value_loss", "entropy", "clip_fraction", "approx_kl")
        return {name: total / count for name, total in zip(names, sums)}

    def _sum_losses(self, experience: Experience, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss summed over the real tokens of some rows, and the sums behind the figures of `update`."""
        part = experience.batch.select_rows(index)
        mask, width = part.mask, part.answer_width
        old_logprobs, old_values = experience.logprobs[index, :width], experience.values[index, :width]
        logprobs, entropy, values = self.wrapped(part)
        policy_loss, clipped = ppo_math.policy_loss(
            logprobs, old_logprobs, experience.advantages[index, :width], self.config.clip
        )
        value_loss, _ = ppo_math.value_loss(
            values, old_values, experience.returns[index, :width], self.config.value_clip
        )
        approx_kl = ppo_math.kl_k3(old_logprobs, logprobs.detach())
        sums = [(x.detach() * mask).sum().double() for x in (policy_loss, value_loss, entropy, clipped, approx_kl)]
        return ((policy_loss + value_loss) * mask).sum(), torch.stack([*sums, mask.sum().double()])
