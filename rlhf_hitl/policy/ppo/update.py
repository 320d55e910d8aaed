"""The update of PPO: epochs of minibatches over a step's rollouts."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_hitl.policy.ppo import math as ppo_math
from rlhf_hitl.policy.ppo.batches import RolloutBatch
from rlhf_hitl.policy.ppo.config import MEMORY_SETTINGS, PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic
from rlhf_hitl.policy.training import explain_out_of_memory

#: What an update sums over tokens: the figures of `update`, by name.
FIGURES = ("policy_loss", "value_loss", "clip_fraction", "approx_kl")


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
        self.config, self.accelerator = config, accelerator
        named = model.trainable_parameters().items()
        adapter = [p for name, p in named if name.startswith("policy.") and ".critic." not in name]
        value = [p for name, p in named if not name.startswith("policy.") or ".critic." in name]
        self.groups, self.rates = (adapter, value), (config.learning_rate, config.value_learning_rate)
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in zip(self.groups, self.rates)],
            eps=1e-5,  # as in the original PPO
            weight_decay=0.0,
        )
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)

    def compute_learning_rates(self, step: int) -> tuple[float, float]:
        """Return the learning rates of adapter and value head in a step: they rise, and with `linear` fall to zero."""
        warm = min(1.0, (step + 1) / (self.config.warmup_steps + 1))
        falling = 1 - step / self.config.steps if self.config.schedule == "linear" else 1.0
        return self.rates[0] * warm * falling, self.rates[1] * warm * falling

    def update(self, experience: Experience, step: int) -> dict[str, float]:
        """Go through the rollouts once an epoch, in minibatches of a new order.

        It ends before a minibatch whose approximate KL from the policy that sampled is above `max_update_kl`, or whose
        loss or gradient is not finite: that minibatch is not learnt from.

        Returns:
            Means over the real tokens of all minibatches that were computed; `gradient_norm`, the largest; `updates`,
            the number of minibatches that were learnt from.
        """
        for group, rate in zip(self.optimizer.param_groups, self.compute_learning_rates(step)):
            group["lr"] = rate
        totals, norms = torch.zeros(1 + len(FIGURES), dtype=torch.float64), list[float]()
        with explain_out_of_memory(*MEMORY_SETTINGS):
            for epoch in range(self.config.epochs):
                for minibatch in self._choose_minibatches(step, epoch):
                    sums = self._accumulate_gradients(experience, minibatch)
                    totals += sums
                    kl = float(sums[1 + FIGURES.index("approx_kl")] / sums[0])
                    if not kl <= self.config.max_update_kl or not math.isfinite(self._clip_gradients(norms)):
                        self.optimizer.zero_grad()
                        return self._make_figures(totals, norms)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
        return self._make_figures(totals, norms)

    def _make_figures(self, totals: Tensor, norms: list[float]) -> dict[str, float]:
        count, *sums = totals.tolist()
        means = {name: total / count for name, total in zip(FIGURES, sums)}
        # `max` passes over what is not a number.
        largest = next((norm for norm in norms if not math.isfinite(norm)), max(norms, default=0.0))
        return means | {"gradient_norm": largest, "updates": float(sum(map(math.isfinite, norms)))}

    def _choose_minibatches(self, step: int, epoch: int) -> list[Tensor]:
        """Return the indices of this process's rollouts in each minibatch.

        Which positions of the step make up a minibatch does not depend on the number of processes: slot i of each
        minibatch gets one of the positions that are i modulo its size, at random, so that each process, which has every
        n-th position, has as many of each minibatch as the others.
        """
        config, processes = self.config, self.accelerator.num_processes
        count, size = config.rollouts // config.minibatch, config.minibatch
        random = np.random.default_rng((config.seed, step, epoch))
        order = random.permuted(np.tile(np.arange(count), (size, 1)), axis=1)
        own = np.arange(self.accelerator.process_index, size, processes)
        device = self.accelerator.device
        return [torch.as_tensor((order[own, i] * size + own) // processes, device=device) for i in range(count)]

    def _accumulate_gradients(self, experience: Experience, minibatch: Tensor) -> Tensor:
        """Add up a minibatch's gradients. Returns its number of tokens and the sums of FIGURES, of all processes."""
        accelerator = self.accelerator
        tokens = float(self._sum(ppo_math.widen(experience.batch.lengths[minibatch].sum()[None]))[0])
        microbatches = experience.batch.split_rows(minibatch, self.config.microbatch_tokens)
        totals = ppo_math.widen(torch.zeros(1 + len(FIGURES), device=accelerator.device))
        for i, index in enumerate(microbatches):
            with nullcontext() if i == len(microbatches) - 1 else accelerator.no_sync(self.wrapped):
                loss, sums = self._sum_losses(experience, index)
                # DDP averages over processes; what is wanted is the mean over the tokens of all processes.
                accelerator.backward(loss * accelerator.num_processes / tokens)
            totals += sums
        return self._sum(totals).cpu()

    def _clip_gradients(self, norms: list[float]) -> float:
        """Clip the gradients of adapter and value head, and append the norm of both before that to `norms`."""
        found = [self.accelerator.clip_grad_norm_(group, self.config.max_grad_norm) for group in self.groups]
        norms.append(math.hypot(*(0.0 if norm is None else float(norm) for norm in found)))
        return norms[-1]

    def _sum_losses(self, experience: Experience, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss summed over the real tokens of some rows, and what `_accumulate_gradients` returns of it."""
        part = experience.batch.select_rows(index)
        mask, width = part.mask, part.answer_width
        old_logprobs, old_values = experience.logprobs[index, :width], experience.values[index, :width]
        logprobs, values = self.wrapped(part)
        policy_loss, clipped = ppo_math.policy_loss(
            logprobs, old_logprobs, experience.advantages[index, :width], self.config.clip
        )
        value_loss, _ = ppo_math.value_loss(
            values, old_values, experience.returns[index, :width], self.config.value_clip
        )
        approx_kl = ppo_math.kl_k3(old_logprobs, logprobs.detach())
        sums = [(x.detach() * mask).sum() for x in (policy_loss, value_loss, clipped, approx_kl)]
        weight = self.config.value_weight if self.config.value_head == "shared" else 1.0
        loss = ((policy_loss + weight * value_loss) * mask).sum()
        return loss, ppo_math.widen(torch.stack([mask.sum(), *sums]))

    def _sum(self, vector: Tensor) -> Tensor:
        return self.accelerator.reduce(vector, reduction="sum")  # type: ignore[return-value]
