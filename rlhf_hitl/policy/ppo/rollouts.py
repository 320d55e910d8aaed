"""Rollouts of PPO: which prompts a step uses, the sampled answers, and their rewards."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.ppo.batches import RolloutBatch, collate_rollouts
from rlhf_hitl.policy.ppo.config import MEMORY_SETTINGS, SCORING_MEMORY_SETTINGS, PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic, TokenFigures
from rlhf_hitl.policy.ppo.sampling_policy import SamplingPolicy, StateRecorder
from rlhf_hitl.policy.rewards import ProblemFinder, RewardFunction, score_answers
from rlhf_hitl.policy.sampling import RowSampling, Sampling, derive_seed
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, plan_batches, sample_tokens
from rlhf_hitl.policy.training import explain_out_of_memory
from rlhf_hitl.policy.training_prompts import TrainingPrompts
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Prompt

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Rollouts:
    """A step's answers of one process, n of them, in the order of their positions in the step.

    Attributes:
        rewards: (n,) the reward function's.
        unreadable: (n,) 1 where the reward model cannot read the answer, and reads one without text in its place.
        ended, empty: (n,) 1 where the answer reached its EOS; where it has no text.
        figures: what the policy said of the tokens when it sampled them; None where that has to be computed.
    """

    prompts: list[Prompt]
    texts: list[str]
    batch: RolloutBatch
    rewards: Tensor
    unreadable: Tensor
    ended: Tensor
    empty: Tensor
    figures: TokenFigures | None


class RolloutSampler:
    """Samples and scores the rollouts of this process.

    Args:
        reader: the policy's, which has read the prompts.
        find_problem: says which answers the reward model cannot read. None: it reads all.
    """

    def __init__(
        self,
        config: PPOConfig,
        reader: PromptReader,
        read: TrainingPrompts,
        reward: RewardFunction,
        accelerator: Accelerator,
        find_problem: ProblemFinder | None = None,
    ):
        self.config, self.tokenizer, self.reader, self.accelerator = config, reader.tokenizer, reader, accelerator
        self.reward, self._find_problem = reward, find_problem
        self.prompts, self.prompt_tokens = read.prompts, read.tokens
        self._shuffle = lru_cache(2)(self._shuffle_prompts)  # a step can end one pass and begin the next

    def sample(self, model: ActorCritic, sampling_policy: SamplingPolicy, step: int) -> Rollouts:
        """Sample this process's share of a step's answers, and score them."""
        config = self.config
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens, config.seed)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = list(enumerate(self.choose_prompts(step)))[rank::processes]
        prompts = [self.prompts[index] for _, index in share]
        prompt_tokens = [self.prompt_tokens[index] for _, index in share]
        seeds = [
            derive_seed(config.seed, p.id, sampling, position, attempt=step) for p, (position, _) in zip(prompts, share)
        ]
        rows = [RowSampling(config.temperature, 1.0, config.max_new_tokens, seed) for seed in seeds]
        policy = sampling_policy.prepare(model.policy)
        eos, pad = find_eos_ids(policy, self.tokenizer), int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]
        # In bfloat16 what was computed token by token is not what a whole answer's pass gives.
        is_exact = not sampling_policy.is_copy and model.policy.dtype == torch.float32 and model.kind != "critic"
        answers: list[list[int]] = [[] for _ in rows]
        read: list[tuple[list[int], TokenFigures]] = []
        lengths = list(map(len, prompt_tokens)), [config.max_new_tokens] * len(rows)
        for part in plan_batches(*lengths, config.sampling_tokens):
            recorder = StateRecorder(policy if is_exact else None)
            with explain_out_of_memory(*MEMORY_SETTINGS[1:]), recorder:
                sampled = sample_tokens(
                    policy,
                    [prompt_tokens[i] for i in part],
                    [rows[i] for i in part],
                    eos=eos,
                    pad=pad,
                    on_pass=recorder.keep,
                )
            for i, answer in zip(part, sampled):
                answers[i] = answer
            small = collate_rollouts([[pad]] * len(part), sampled, pad, self.accelerator.device)
            if (states := recorder.read(len(part), small.answer_width)) is not None:
                read.append((part, model.read_states(states, small.answers, small.mask)))
        batch = collate_rollouts(prompt_tokens, answers, pad, self.accelerator.device)
        texts = [self.reader.decode(a, eos) for a in answers]
        with explain_out_of_memory(*SCORING_MEMORY_SETTINGS, needed="the policy and the reward model that scores it"):
            rewards, unreadable = score_answers(prompts, texts, self._ask_reward, self._find_problem)
        ended, empty = [a[-1] in eos for a in answers], [not text for text in texts]
        device = self.accelerator.device
        columns = [torch.tensor(x, dtype=torch.float32).to(device) for x in (rewards, unreadable, ended, empty)]
        figures = None
        if sum(len(part) for part, _ in read) == len(rows):
            figures = TokenFigures.zeros(batch)
            for part, found in read:
                figures.set_rows(torch.tensor(part), found)
        return Rollouts(prompts, texts, batch, columns[0], columns[1], columns[2], columns[3], figures)

    def choose_prompts(self, step: int) -> list[int]:
        """Return indices of a step's prompts over all processes: the next ones of passes through shuffled prompts."""
        each, asked = self.config.answers_per_prompt, self.config.rollouts // self.config.answers_per_prompt
        chosen = []
        for position in range(step * asked, (step + 1) * asked):
            lap, offset = divmod(position, len(self.prompts))
            chosen += [int(self._shuffle(lap)[offset])] * each
        return chosen

    def _shuffle_prompts(self, lap: int) -> np.ndarray:
        return np.random.default_rng((self.config.seed, lap)).permutation(len(self.prompts))

    def _ask_reward(self, chats: list[Conversation]) -> np.ndarray:
        """Return the rewards; NaN where the reward model refuses, so that all processes hear of it together."""
        try:
            return np.asarray(self.reward(chats), dtype=np.float64)
        except BadInput as e:
            log.warning("%s", e)
            return np.full(len(chats), np.nan)
