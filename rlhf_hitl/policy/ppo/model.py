"""The model that PPO trains, and the batches it reads: a LoRA policy with a value head, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_hitl.policy.ppo.math import make_length_mask

if TYPE_CHECKING:
    from peft import PeftModel

#: The file of a checkpoint with the trainable weights.
TRAINABLE_WEIGHTS = "trained.safetensors"


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


class ActorCritic(nn.Module):
    """A LoRA policy with a linear value head on its last hidden states.

    The head reads the states detached, so the value loss trains the head alone and not the policy's adapter, and
    neither a second model nor a second adapter is held in memory. The head is linear because the few rollouts of a
    LoRA run can fit no more. It starts at zero, in fp32.
    """

    def __init__(self, policy: PeftModel, temperature: float):
        super().__init__()
        self.policy, self.temperature = policy, temperature
        self.value_head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-probability and entropy of each answer token and the value before it, (batch, answer) each."""
        width = batch.answer_width
        out = self.policy(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            position_ids=(batch.attention.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=width + 1,  # logits of the prompt would take much memory: the vocabulary is wide
            output_hidden_states=True,
            use_cache=False,
        )
        logits = out.logits[:, -width - 1 : -1].float() / self.temperature
        log_probabilities = logits.log_softmax(-1)
        token_logprobs = log_probabilities.gather(-1, batch.answers[..., None])[..., 0]
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
        states = out.hidden_states[-1][:, -width - 1 : -1].detach().float()
        return token_logprobs, entropy, self.value_head(states)[..., 0]

    @torch.no_grad()
    def compute_reference_logprobs(self, batch: RolloutBatch) -> Tensor:
        """Return the log-probabilities under the reference, which is this policy with its adapter switched off."""
        with self.policy.disable_adapter():
            return self(batch)[0]

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def save_trainable(self, folder: Path) -> None:
        save_file(
            {k: p.detach().cpu().contiguous() for k, p in self.trainable_parameters().items()},
            folder / TRAINABLE_WEIGHTS,
        )

    def load_trainable(self, folder: Path) -> None:
        saved = load_file(folder / TRAINABLE_WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.trainable_parameters().items():
                parameter.copy_(saved[name])
