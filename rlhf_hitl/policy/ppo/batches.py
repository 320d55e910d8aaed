"""The batches that PPO computes on: prompts aligned right, answers left, as many rows as a budget of tokens takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_hitl.policy.ppo.math import make_length_mask
from rlhf_hitl.policy.token_sampling import plan_batches


@dataclass(frozen=True)
class RolloutBatch:
    """Prompts aligned right and answers aligned left after them, so that all answers start in one column.

    `ids` and `attention` are (batch, prompt + answer); `lengths` (batch,) counts answer tokens, EOS included.
    """

    ids: Tensor
    attention: Tensor
    lengths: Tensor
    answer_width: int

    @property
    def answers(self) -> Tensor:
        return self.ids[:, -self.answer_width :]

    @property
    def mask(self) -> Tensor:
        """(batch, answer): 1 on an answer's tokens, 0 on padding."""
        return make_length_mask(self.lengths, self.answer_width)

    def select_rows(self, index: Tensor) -> RolloutBatch:
        """Return the rows with these indices, without the columns that are padding in all of them."""
        attention, lengths = self.attention[index], self.lengths[index]
        width = int(lengths.max())
        start = int(attention.argmax(1).min())
        stop = self.ids.shape[1] - self.answer_width + width
        return RolloutBatch(self.ids[index, start:stop], attention[:, start:stop], lengths, width)

    def split_rows(self, index: Tensor, budget: int) -> list[Tensor]:
        """Split indices of rows into parts of `budget` tokens each at most, padding included, the longest rows first.

        `select_rows` makes a batch of each. The parts go by length: rows of one length need no padding.
        """
        answers = self.lengths[index].tolist()
        prompts = (self.attention[index].sum(1) - self.lengths[index]).tolist()
        return [index[torch.tensor(part, device=index.device)] for part in plan_batches(prompts, answers, budget)]


def collate_rollouts(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int, device: torch.device | str
) -> RolloutBatch:
    """Make a batch of token ids. Masks come from lengths, so it does not matter which token pads."""
    left, right = max(map(len, prompts)), max(map(len, answers))
    ids = torch.full((len(prompts), left + right), pad, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        ids[i, left - len(prompt) : left + len(answer)] = torch.tensor([*prompt, *answer])
        attention[i, left - len(prompt) : left + len(answer)] = 1
    lengths = torch.tensor([len(a) for a in answers], device=device)
    return RolloutBatch(ids.to(device), attention.to(device), lengths, right)
