"""Sample completions from a policy so that each can be sampled again.

A completion depends on its prompt, on how it was sampled and on its own seed, and not on what else was in its batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.policy.completion_jobs import CompletionJob, make_completion, plan_jobs
from rlhf_hitl.policy.sampling import GenerationBackend, Sampling, derive_seed
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, sample_tokens
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.types import Completion, Prompt
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: How often a completion that is empty, or equals another of its prompt, is sampled again before it is dropped.
RETRIES = 8


def sample_completions(
    policy: str | Path,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    *,
    batch_size: int = 16,
    backend: GenerationBackend = "transformers",
    dtype: torch.dtype | None = None,
    skip_bad: bool = False,
    left_out: LeftOut | None = None,
) -> list[Completion]:
    """Load a policy and sample completions for the prompts. Returns them in the order of the prompts.

    Args:
        skip_bad: leave out prompts that the chat template refuses, with a warning, and add them to `left_out`.

    Raises:
        BadInput: there are such prompts and `skip_bad` is not set.
    """
    from rlhf_hitl.models import (
        find_best_device,
        get_display_name,
        load_policy,
        load_tokenizer,
        locate_model_folder,
        resolve_dtype,
    )

    name, tokenizer = get_display_name(policy), load_tokenizer(policy)
    options: Any = {"policy": name, "skip_bad": skip_bad, "left_out": left_out}
    if backend == "vllm":
        from rlhf_hitl.policy.vllm_generation import generate_with_vllm

        completions = list(generate_with_vllm(locate_model_folder(policy), tokenizer, prompts, samplings, **options))
    else:
        model = load_policy(policy, dtype or resolve_dtype()).to(find_best_device())  # type: ignore[arg-type]
        completions = list(generate_completions(model, tokenizer, prompts, samplings, batch_size, **options))
    position = {p.id: i for i, p in enumerate(prompts)}
    return sorted(completions, key=lambda c: (position[c.prompt_id], c.sampling["temperature"], c.id))


def generate_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    batch_size: int = 16,
    *,
    policy: str,
    skip_bad: bool = False,
    left_out: LeftOut | None = None,
) -> Iterator[Completion]:
    """Yield completions for each prompt, `count` of each sampling, as their batches finish (longest prompts first).

    All completions of a prompt differ: one that is empty or was sampled before is sampled again with another seed, up
    to `RETRIES` times, and then left out. Prompts that leave no room for an answer are left out with a warning.

    Args:
        policy: the name the completions carry.
        skip_bad, left_out: as of `sample_completions`.
    """
    from tqdm import tqdm

    reader, left_out = PromptReader(tokenizer), LeftOut("prompt") if left_out is None else left_out

    eos, pad = find_eos_ids(model, tokenizer), int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    limit = getattr(model.config, "max_position_embeddings", None)
    jobs = list(plan_jobs(reader, prompts, samplings, limit, left_out))
    left_out.refuse_or_warn(len(prompts), skip_bad=skip_bad)
    texts: dict[str, set[str]] = {p.id: set() for p in prompts}
    with tqdm(total=len(jobs), desc="completions", unit="completion", disable=not jobs) as bar:
        for attempt in range(1 + RETRIES):
            retries: list[CompletionJob] = []
            jobs.sort(key=lambda j: (-len(j.prompt_tokens), j.prompt.id, j.sampling.temperature, j.row.seed))
            for start in range(0, len(jobs), batch_size):
                batch = jobs[start : start + batch_size]
                answers = sample_tokens(
                    model, [j.prompt_tokens for j in batch], [j.row for j in batch], eos=eos, pad=pad
                )
                completions = []
                for job, answer in zip(batch, answers):
                    text = reader.decode(answer, eos)
                    if not text or text in texts[job.prompt.id]:
                        seed = derive_seed(job.row.seed, job.prompt.id, job.sampling, 0, attempt + 1)
                        retries.append(replace(job, row=replace(job.row, seed=seed)))
                        continue
                    texts[job.prompt.id].add(text)
                    completions.append(make_completion(job, text, answer, eos, policy))
                bar.update(len(completions))
                yield from completions
            jobs = retries
            if not jobs:
                return
        counted = say_count(len(jobs), "completion")
        tqdm.write(f"{counted} left out: empty or a repeat {RETRIES + 1} times over", file=sys.stderr)
