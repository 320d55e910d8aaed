"""Sample completions with vLLM, for machines with a GPU. It has not run on one yet: the project's checks have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.completion_jobs import make_completion, plan_jobs
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.types import Completion, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate_with_vllm(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    *,
    policy: str,
    skip_bad: bool = False,
    left_out: LeftOut | None = None,
) -> Iterator[Completion]:
    """Yield completions as `generate_completions` does, sampled by vLLM.

    vLLM uses its own random numbers, so a seed gives other completions than transformers does. Repeats and empty
    answers are left out, not sampled again.

    Raises:
        BadInput: vllm is not installed.
    """
    try:
        from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
    except ImportError as e:
        raise BadInput(
            "--backend vllm",
            expected="an installed vllm and a GPU",
            fix="`pip install 'rlhf_hitl[vllm]'`, or use --backend transformers",
        ) from e
    llm = LLM(model=str(path), trust_remote_code=False)
    limit = llm.llm_engine.model_config.max_model_len
    reader, left_out = PromptReader(tokenizer), LeftOut("prompt") if left_out is None else left_out
    jobs = list(plan_jobs(reader, prompts, samplings, limit, left_out))
    left_out.refuse_or_warn(len(prompts), skip_bad=skip_bad)
    eos = {int(tokenizer.eos_token_id)}  # type: ignore[arg-type]
    outputs = llm.generate(
        [{"prompt_token_ids": j.prompt_tokens} for j in jobs],
        [
            SamplingParams(
                temperature=j.row.temperature,
                top_p=j.row.top_p,
                max_tokens=j.row.max_new_tokens,
                seed=j.row.seed % 2**31,
                stop_token_ids=sorted(eos),
            )
            for j in jobs
        ],
        use_tqdm=True,
    )
    texts: dict[str, set[str]] = {p.id: set() for p in prompts}
    for job, output in zip(jobs, outputs):
        answer = list(output.outputs[0].token_ids)
        if output.outputs[0].finish_reason == "stop" and (not answer or answer[-1] not in eos):
            answer.append(min(eos))
        text = reader.decode(answer, eos)
        if text and text not in texts[job.prompt.id]:
            texts[job.prompt.id].add(text)
            yield make_completion(job, text, answer, eos, policy)
