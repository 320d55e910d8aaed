"""Rollouts of PPO: which prompts a step uses, the sampled answers, and their rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import RolloutBatch, collate_rollouts
from rlhf_hitl.policy.sampling import RowSampling, Sampling, derive_seed
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, sample_tokens
from rlhf_hitl.reward.readability import LeftOut, Unreadable
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Message, Prompt
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Returns rewards (n,) of conversations, as `RewardModel.rewards` does.
RewardFunction = Callable[[list[Conversation]], np.ndarray]
#: Returns why answers to a prompt have no reward, as `RewardModel.find_problem` does.
ProblemFinder = Callable[[Sequence[Conversation]], Unreadable | None]


@dataclass(frozen=True)
class Rollouts:
    """A step's answers of one process, n of them.

    Attributes:
        rewards: (n,) the reward function's.
        penalised: (n,) rewards less the penalty for a missing EOS.
        ended: (n,) 1 where the answer reached its EOS.
    """

    batch: RolloutBatch
    rewards: Tensor
    penalised: Tensor
    ended: Tensor


class RolloutSampler:
    """Samples and scores the rollouts of this process.

    Args:
        prompts: prompts of the train split; those of more than `max_prompt_tokens` are left out and counted.
        find_problem: says which prompts and answers the reward model cannot read. None: it reads all.

    Attributes:
        unreadable: the prompts that policy or reward model cannot read.

    Raises:
        BadInput: no prompt fits, or some cannot be read and `skip_bad` is not set.
    """

    def __init__(
        self,
        config: PPOConfig,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        reward: RewardFunction,
        accelerator: Accelerator,
        find_problem: ProblemFinder | None = None,
    ):
        self._find_problem = find_problem or (lambda chats: None)
        self.config, self.tokenizer, self.reward, self.accelerator = config, tokenizer, reward, accelerator
        self.reader, self.unreadable = PromptReader(tokenizer), LeftOut("prompt")
        tokenized = []
        for p in sorted(prompts, key=lambda p: p.id):
            try:
                tokens = self.reader.tokenize(p)
                if problem := self._find_problem([_make_conversation(p, "yes")]):
                    raise problem
            except Unreadable as e:
                self.unreadable.add(e)
            else:
                tokenized.append((p, tokens))
        self.unreadable.refuse_or_warn(len(prompts), skip_bad=config.skip_bad)
        fitting = [(p, tokens) for p, tokens in tokenized if len(tokens) <= config.max_prompt_tokens]
        if not fitting:
            raise BadInput(
                say_count(len(prompts), "prompt"),
                expected=f"at least one of up to {config.max_prompt_tokens} tokens",
                fix="import prompts of the train split, or raise max_prompt_tokens",
            )
        self.prompts = [p for p, _ in fitting]
        self.prompt_tokens = [tokens for _, tokens in fitting]
        self.left_out = len(tokenized) - len(fitting)

    def sample(self, policy: PreTrainedModel, step: int) -> Rollouts:
        """Sample this process's share of a step's answers, and score them."""
        config = self.config
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens, config.seed)
        share = [
            (position, index)
            for position, index in enumerate(self.choose_prompts(step))
            if position % self.accelerator.num_processes == self.accelerator.process_index
        ]
        prompts = [self.prompts[index] for _, index in share]
        prompt_tokens = [self.prompt_tokens[index] for _, index in share]
        seeds = [
            derive_seed(config.seed, p.id, sampling, position, attempt=step) for p, (position, _) in zip(prompts, share)
        ]
        rows = [RowSampling(config.temperature, 1.0, config.max_new_tokens, seed) for seed in seeds]
        eos, pad = find_eos_ids(policy, self.tokenizer), int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]
        answers = sample_tokens(policy, prompt_tokens, rows, eos=eos, pad=pad)
        rewards = self._score(prompts, [self.reader.decode(a, eos) for a in answers])
        ended = torch.tensor([float(a[-1] in eos) for a in answers])
        penalised = rewards - config.missing_eos_penalty * (1 - ended)
        device = self.accelerator.device
        batch = collate_rollouts(prompt_tokens, answers, pad, device)
        return Rollouts(batch, rewards.to(device), penalised.to(device), ended.to(device))

    def choose_prompts(self, step: int) -> list[int]:
        """Return indices of a step's prompts over all processes: the next ones of passes through shuffled prompts."""
        n, rollouts = len(self.prompts), self.config.rollouts
        chosen = []
        for position in range(step * rollouts, (step + 1) * rollouts):
            lap, offset = divmod(position, n)
            chosen.append(int(np.random.default_rng((self.config.seed, lap)).permutation(n)[offset]))
        return chosen

    def _score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Return (n,) rewards. An answer without text, or of which the reward model reads nothing, has no reward and
        gets the lowest of the others."""
        conversations = [_make_conversation(p, text) for p, text in zip(prompts, texts)]
        with_text = [i for i, text in enumerate(texts) if text and self._find_problem([conversations[i]]) is None]
        rewards = torch.zeros(len(texts))
        if with_text:
            chats = [conversations[i] for i in with_text]
            scored = torch.as_tensor(np.asarray(self.reward(chats), dtype=np.float32))
            if scored.shape != (len(with_text),) or not bool(torch.isfinite(scored).all()):
                raise BadInput(
                    f"rewards of shape {tuple(scored.shape)}",
                    expected=say_count(len(with_text), "finite number"),
                    fix="check the reward model",
                )
            rewards += scored.min()
            rewards[with_text] = scored
        return rewards


def _make_conversation(prompt: Prompt, text: str) -> Conversation:
    return Conversation(prompt.messages, (Message("assistant", text),), prompt.tools)
