"""Which conversations are computed together: neighbours in length, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler


def neighbours(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of places in `lengths`, the longest first: at most `budget` tokens a batch once all of it are as long as
    its longest (or a single place)."""
    out: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if out and (len(out[-1]) + 1) * lengths[out[-1][0]] <= budget:
            out[-1].append(i)
        else:
            out.append([i])
    return out


class TokenBudgetSampler(BatchRebalanceSampler):
    """Batches of neighbours in length within a budget of tokens, in an order drawn from the seed and the epoch.

    Of each step the processes compute one batch each, of much the same length; so all have as many, every epoch. Where
    their number does not come out even the largest batches are halved; only where each is of one is one taken twice.

    A BatchRebalanceSampler because transformers' Trainer passes that on as a sampler of whole batches that knows its
    process, tells it the epoch, and skips its batches when resuming.
    """

    def __init__(self, lengths: Sequence[int], budget: int, *, processes: int = 1, rank: int = 0, seed: int = 0):
        super().__init__(list(lengths), processes, processes, grad_accum=1, seed=seed, rank=rank, drop_last=False)
        by_length = sorted(lengths, reverse=True)
        self._batches = neighbours(by_length, budget)  # of places in the order by length: the same in every epoch
        while len(self._batches) % processes:
            at = max(range(len(self._batches)), key=lambda i: len(self._batches[i]))
            batch = self._batches[at]
            half = len(batch) // 2
            self._batches[at : at + 1] = [batch[:half], batch[half:]] if half else [batch, batch]

    def __len__(self) -> int:
        return len(self._batches) // self.dp_size

    def __iter__(self) -> Iterator[list[int]]:
        chance = torch.Generator().manual_seed(self.seed + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=chance).tolist()
        order = sorted(shuffled, key=lambda i: -self.lengths[i])  # those of one length are in another order each epoch
        for step in torch.randperm(len(self), generator=chance).tolist():
            yield [order[place] for place in self._batches[step * self.dp_size + self.rank]]
