"""Completions to be sampled, one job each, and the `Completion` that a finished job becomes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_hitl.policy.sampling import RowSampling, Sampling, derive_seed
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.reward.readability import LeftOut, Unreadable
from rlhf_hitl.types import Completion, Message, Prompt
from rlhf_hitl.wording import say_count


@dataclass(frozen=True)
class CompletionJob:
    """One completion to sample: the prompt with its token ids, the sampling it belongs to, and its row's sampling."""

    prompt: Prompt
    prompt_tokens: list[int]
    sampling: Sampling
    row: RowSampling


def plan_jobs(
    reader: PromptReader, prompts: Sequence[Prompt], samplings: Sequence[Sampling], limit: int | None, left_out: LeftOut
) -> Iterator[CompletionJob]:
    """Yield a job for each completion. A prompt that leaves no room for an answer is left out with a warning.

    Args:
        limit: the most tokens the model has positions for; None: unknown.
        left_out: prompts that cannot be read are added to it.
    """
    from tqdm import tqdm

    for prompt in prompts:
        try:
            tokens = reader.tokenize(prompt)
        except Unreadable as e:
            left_out.add(e)
            continue
        for s in samplings:
            if limit is not None and len(tokens) + s.max_new_tokens > limit:
                of_prompt, new = say_count(len(tokens), "token"), say_count(s.max_new_tokens, "new one")
                tqdm.write(
                    f"prompt {prompt.id} left out: {of_prompt} and {new} do not fit in the model's {limit:,}",
                    file=sys.stderr,
                )
                continue
            for index in range(s.count):
                seed = derive_seed(s.seed, prompt.id, s, index)
                yield CompletionJob(prompt, tokens, s, RowSampling(s.temperature, s.top_p, s.max_new_tokens, seed))


def make_completion(job: CompletionJob, text: str, tokens: Sequence[int], eos: set[int], policy: str) -> Completion:
    """Return the completion of a finished job, with how it was sampled."""
    sampling: dict[str, Any] = {
        "temperature": job.sampling.temperature,
        "top_p": job.sampling.top_p,
        "max_new_tokens": job.sampling.max_new_tokens,
        "seed": job.row.seed,
        "finish": "eos" if tokens and tokens[-1] in eos else "length",
        "tokens": len(tokens),
        "model": policy,
    }
    return Completion.create(job.prompt.id, (Message("assistant", text),), policy, sampling)
