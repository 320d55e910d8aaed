"""The prompts that PPO, RLOO and GRPO sample answers to: those that policy and reward model can read, and that fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import find_position_limit
from rlhf_hitl.policy.rewards import ProblemFinder, make_answer
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.policy.tuning_watch import TuningWatch
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
    policy: str,
    max_prompt_tokens: int,
    max_new_tokens: int,
    skip_bad: bool,
    watch: TuningWatch | None = None,
) -> TrainingPrompts:
    """Return the prompts of up to `max_prompt_tokens` that the policy can read and has positions left to answer, and to
    which the reward models can read answers.

    The others are counted and warned of.

    Args:
        policy: the one that is tuned; its configuration says how many positions it has.
        max_new_tokens: most tokens of an answer.
        watch: its gold model is to read the answers, too.

    Raises:
        BadInput: none is left, or some cannot be read and `skip_bad` is not set.
    """
    left_out, fitting, too_long = LeftOut("prompt"), list[tuple[Prompt, list[int]]](), 0
    finders = [find for find in (find_problem, watch and watch.find_problem) if find]
    most, why = max_prompt_tokens, f"max_prompt_tokens {max_prompt_tokens}"
    positions = find_position_limit(policy)
    if positions is not None and positions - max_new_tokens < most:
        most = positions - max_new_tokens
        why = f"{most}: the policy has {positions} positions, less {max_new_tokens} for an answer"
    for prompt in sorted(prompts, key=lambda p: p.id):
        try:
            tokens = reader.tokenize(prompt)
            for find, text in product(finders, ("yes", "")):  # "" stands for what it cannot read: see `make_readable`
                if problem := find([make_answer(prompt, text)]):
                    raise problem
        except Unreadable as e:
            left_out.add(e)
            continue
        if len(tokens) > most:
            too_long += 1
        else:
            fitting.append((prompt, tokens))
    left_out.refuse_or_warn(len(prompts), skip_bad=skip_bad)
    if too_long:
        of_all = say_count(len(prompts), "prompt")
        log.warning("%d of %s left out: longer than %s", too_long, of_all, why)
    if not fitting:
        raise BadInput(
            say_count(len(prompts), "prompt"),
            expected=f"at least one that is not longer than {why}",
            fix="import prompts of the train split, or "
            + ("raise max_prompt_tokens" if most == max_prompt_tokens else "let answers have fewer tokens"),
        )
    return TrainingPrompts([p for p, _ in fitting], [tokens for _, tokens in fitting], too_long, left_out)
