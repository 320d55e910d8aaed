"""Completions to be sampled, one job each, and the `Completion` that a finished job becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_hitl.policy.draws import Draw
from rlhf_hitl.policy.sampling import RowSampling, Sampling, derive_seed
from rlhf_hitl.types import Completion, Message, Prompt


@dataclass(frozen=True)
class CompletionJob:
    """One completion to sample: the prompt, the sampling it belongs to, its row's sampling, and the prompt's token ids
    where the policy is given tokens. `attempt` counts how often it was drawn before."""

    prompt: Prompt
    prompt_tokens: list[int]
    sampling: Sampling
    index: int
    row: RowSampling
    attempt: int = 0

    @property
    def key(self) -> str:
        """What tells the job from the others of its policy."""
        return f"{self.prompt.id}:{self.sampling.temperature}:{self.sampling.top_p}:{self.index}:{self.attempt}"

    def draw_again(self) -> CompletionJob:
        """Return the job with another seed."""
        seed = derive_seed(self.row.seed, self.prompt.id, self.sampling, 0, self.attempt + 1)
        return replace(self, row=replace(self.row, seed=seed), attempt=self.attempt + 1)


def plan_jobs(
    prompts: Sequence[Prompt], samplings: Sequence[Sampling], read: Callable[[Prompt], list[int] | None]
) -> Iterator[CompletionJob]:
    """Yield a job for each completion.

    Args:
        read: returns the prompt's token ids; None: it is left out.
    """
    for prompt in prompts:
        if (tokens := read(prompt)) is None:
            continue
        for s in samplings:
            for index in range(s.count):
                seed = derive_seed(s.seed, prompt.id, s, index)
                row = RowSampling(s.temperature, s.top_p, s.max_new_tokens, seed)
                yield CompletionJob(prompt, tokens, s, index, row)


def make_completion(job: CompletionJob, draw: Draw, message: Message, policy: str) -> Completion:
    """Return the completion of a finished job, with how it was sampled."""
    sampling: dict[str, Any] = {
        "temperature": job.sampling.temperature,
        "top_p": job.sampling.top_p,
        "max_new_tokens": job.sampling.max_new_tokens,
        "seed": job.row.seed,
        "finish": draw.finish,
        "tokens": draw.tokens,
        "model": policy,
    }
    sampling |= {"stop": list(job.sampling.stop)} if job.sampling.stop else {}
    return Completion.create(job.prompt.id, (message,), policy, sampling | dict(draw.more))
