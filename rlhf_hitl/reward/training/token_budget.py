"""Batches of rows of similar length, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler

from rlhf_hitl.reward.batching import batch_by_length


class TokenBudgetSampler(BatchRebalanceSampler):
    """Samples batches of rows of similar length within a budget of tokens, in an order drawn from seed and epoch.

    In each step every process computes one batch, all of similar length; so all processes have the same number, in
    every epoch. If the number of batches is not a multiple of the processes, the largest are halved. Only if each holds
    a single row is one used twice.

    It is a BatchRebalanceSampler because transformers' Trainer passes that on as a sampler of whole batches that knows
    its process, tells it the epoch, and skips its batches when resuming.
    """

    def __init__(self, lengths: Sequence[int], budget: int, *, processes: int = 1, rank: int = 0, seed: int = 0):
        super().__init__(list(lengths), processes, processes, grad_accum=1, seed=seed, rank=rank, drop_last=False)
        by_length = sorted(lengths, reverse=True)
        # Of indices into the rows sorted by length: the batches are the same in every epoch.
        self._batches = batch_by_length(by_length, budget)
        while len(self._batches) % processes:
            largest = max(range(len(self._batches)), key=lambda i: len(self._batches[i]))
            batch = self._batches[largest]
            half = len(batch) // 2
            self._batches[largest : largest + 1] = [batch[:half], batch[half:]] if half else [batch, batch]

    def __len__(self) -> int:
        return len(self._batches) // self.dp_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator).tolist()
        order = sorted(shuffled, key=lambda i: -self.lengths[i])  # rows of one length are shuffled in each epoch
        for step in torch.randperm(len(self), generator=generator).tolist():
            yield [order[index] for index in self._batches[step * self.dp_size + self.rank]]
