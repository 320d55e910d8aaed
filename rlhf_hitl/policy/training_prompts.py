"""The prompts that PPO, RLOO and GRPO sample answers to: those that policy and reward model can read, and that fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.rewards import ProblemFinder, make_answer
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.reward.readability import LeftOut, Unreadable
from rlhf_hitl.types import Prompt
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPrompts:
    """Prompts in the order of their ids, the token ids of each, and what was left out of those that were given."""

    prompts: list[Prompt]
    tokens: list[list[int]]
    too_long: int
    left_out: LeftOut


def read_training_prompts(
    prompts: Sequence[Prompt],
    reader: PromptReader,
    find_problem: ProblemFinder | None,
    *,
    max_prompt_tokens: int,
    skip_bad: bool,
) -> TrainingPrompts:
    """Return the prompts of up to `max_prompt_tokens` that the policy can read, and the reward model answers to.

    The others are counted and warned of.

    Raises:
        BadInput: none is left, or some cannot be read and `skip_bad` is not set.
    """
    left_out, fitting, too_long = LeftOut("prompt"), list[tuple[Prompt, list[int]]](), 0
    for prompt in sorted(prompts, key=lambda p: p.id):
        try:
            tokens = reader.tokenize(prompt)
            for text in ("yes", "") if find_problem else ():  # "" stands for what it cannot read: see `make_readable`
                if find_problem and (problem := find_problem([make_answer(prompt, text)])):
                    raise problem
        except Unreadable as e:
            left_out.add(e)
            continue
        if len(tokens) > max_prompt_tokens:
            too_long += 1
        else:
            fitting.append((prompt, tokens))
    left_out.refuse_or_warn(len(prompts), skip_bad=skip_bad)
    if too_long:
        of_all = say_count(len(prompts), "prompt")
        log.warning("%d of %s left out: longer than max_prompt_tokens %d", too_long, of_all, max_prompt_tokens)
    if not fitting:
        raise BadInput(
            say_count(len(prompts), "prompt"),
            expected=f"at least one of up to {max_prompt_tokens} tokens",
            fix="import prompts of the train split, or raise max_prompt_tokens",
        )
    return TrainingPrompts([p for p, _ in fitting], [tokens for _, tokens in fitting], too_long, left_out)
