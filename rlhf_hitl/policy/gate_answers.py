"""What a policy answers to held-out prompts: one answer each, just as it comes. An empty one is an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.policy.completion_jobs import make_completion, plan_jobs
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, sample_tokens
from rlhf_hitl.types import Comparison, Completion, Prompt

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.reward.readability import LeftOut

#: What is predicted of a pair that the reward model cannot read: nothing. Of an answer that is empty: it loses.
NO_PREDICTION, LOSES = 0.5, 0.0


def sample_answers(
    policy: str | Path,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    left_out: LeftOut,
    skip_bad: bool = False,
    batch_size: int = 16,
) -> dict[str, Completion]:
    """Return prompt id → the policy's answer. Nothing is filtered and nothing is sampled again.

    Prompts that the chat template refuses, and those that leave no room for an answer, have none.

    Raises:
        BadInput: the chat template refuses some, and `skip_bad` is not set.
    """
    from tqdm import tqdm

    from rlhf_hitl.models import find_best_device, get_display_name, load_policy, load_tokenizer, resolve_dtype

    name, tokenizer = get_display_name(policy), load_tokenizer(policy)
    model = load_policy(policy, resolve_dtype()).to(find_best_device())  # type: ignore[arg-type]
    reader, eos, pad = PromptReader(tokenizer), find_eos_ids(model, tokenizer), int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    limit = getattr(model.config, "max_position_embeddings", None)
    jobs = list(plan_jobs(reader, prompts, [sampling], limit, left_out))
    left_out.refuse_or_warn(len(prompts), skip_bad=skip_bad)
    jobs.sort(key=lambda job: (-len(job.prompt_tokens), job.prompt.id))
    answers = {}
    with tqdm(total=len(jobs), desc=f"answers of {name}", unit="answer", disable=not jobs) as bar:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            sampled = sample_tokens(model, [j.prompt_tokens for j in batch], [j.row for j in batch], eos=eos, pad=pad)
            for job, tokens in zip(batch, sampled):
                answers[job.prompt.id] = make_completion(job, reader.decode(tokens, eos), tokens, eos, name)
            bar.update(len(batch))
    return answers


def predict_win_rates(model: RewardModel, pairs: Sequence[tuple[Prompt, Completion, Completion]]) -> list[float]:
    """Return P(the first completion is better) + P(tie) / 2 of each pair, by a reward model, before anybody votes."""
    from rlhf_hitl.reward.rendering import list_conversations

    predictions, comparisons, at = [NO_PREDICTION] * len(pairs), [], []
    for i, (prompt, first, second) in enumerate(pairs):
        if first.messages == second.messages:
            continue
        if first.is_empty or second.is_empty:
            predictions[i] = LOSES if first.is_empty else 1 - LOSES
            continue
        comparison = Comparison.create(prompt, (first, second))
        if model.find_problem(list_conversations(comparison)) is None:
            comparisons.append(comparison)
            at.append(i)
    for i, (_, [of_pair]) in zip(at, model.score_and_predict(comparisons)):
        p_first, p_tie, p_second = of_pair.probabilities
        is_first = of_pair.first == pairs[i][1].id
        wins = (p_first if is_first else p_second) + p_tie / 2
        predictions[i] = min(1.0, max(0.0, float(wins)))
    return predictions
