"""The model PPO trains: a LoRA policy and a value head on its hidden states, in one module for one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_hitl.policy.ppo_math import length_mask

if TYPE_CHECKING:
    from peft import PeftModel

TRAINED = "trained.safetensors"


@dataclass(frozen=True)
class Batch:
    """Prompts flush right, answers flush left after them, so answers start in one column.

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
        """(batch, answer) 1 on an answer's tokens."""
        return length_mask(self.lengths, self.answer_width)

    def rows(self, index: Tensor) -> Batch:
        """Some rows, without the columns that are padding in all of them."""
        attention, lengths = self.attention[index], self.lengths[index]
        width = int(lengths.max())
        start = int(attention.argmax(1).min())
        stop = self.ids.shape[1] - self.answer_width + width
        return Batch(self.ids[index, start:stop], attention[:, start:stop], lengths, width)


def collate(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int, device) -> Batch:
    """Token ids to a batch. Masks come from lengths, so it does not matter which token pads."""
    left, right = max(map(len, prompts)), max(map(len, answers))
    ids = torch.full((len(prompts), left + right), pad, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        ids[i, left - len(prompt) : left + len(answer)] = torch.tensor([*prompt, *answer])
        attention[i, left - len(prompt) : left + len(answer)] = 1
    lengths = torch.tensor([len(a) for a in answers], device=device)
    return Batch(ids.to(device), attention.to(device), lengths, right)


class ActorCritic(nn.Module):
    """A LoRA policy with a linear value head on its last hidden states.

    The head reads them detached: the value loss then moves the head alone and never pulls the policy's adapter, and
    neither a second model nor a second adapter is held in memory. A linear read-out is as much as the few rollouts of
    a LoRA run can fit. It starts at zero, in fp32.
    """

    def __init__(self, policy: PeftModel, temperature: float):
        super().__init__()
        self.policy, self.temperature = policy, temperature
        self.value_head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, answer) each: log-probability of the answer's tokens, entropy, and the value before each token."""
        width = batch.answer_width
        out = self.policy(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            position_ids=(batch.attention.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=width + 1,  # the vocabulary is wide: no logits of the prompt
            output_hidden_states=True,
            use_cache=False,
        )
        logits = out.logits[:, -width - 1 : -1].float() / self.temperature
        log_probabilities = logits.log_softmax(-1)
        chosen = log_probabilities.gather(-1, batch.answers[..., None])[..., 0]
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        states = out.hidden_states[-1][:, -width - 1 : -1].detach().float()
        return chosen, entropy, self.value_head(states)[..., 0]

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch) -> Tensor:
        """The same of the reference: this policy with its adapter switched off."""
        with self.policy.disable_adapter():
            return self(batch)[0]

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def save_trained(self, folder: Path) -> None:
        save_file({k: p.detach().cpu().contiguous() for k, p in self.trained().items()}, folder / TRAINED)

    def load_trained(self, folder: Path) -> None:
        saved = load_file(folder / TRAINED)
        with torch.no_grad():
            for name, parameter in self.trained().items():
                parameter.copy_(saved[name])
