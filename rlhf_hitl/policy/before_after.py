"""Answers to the same prompts before and after a tuning, sampled with the same seeds, for its folder and its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_hitl.policy.sampling import RowSampling, Sampling, derive_seed
from rlhf_hitl.policy.token_sampling import PromptReader, find_eos_ids, sample_tokens
from rlhf_hitl.reward.readability import Unreadable
from rlhf_hitl.types import Prompt, messages_to_dicts

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from rlhf_hitl.types import Messages

#: How many prompts are shown, the temperature of their answers, and their most tokens where nothing else says it: a
#: tuning on a CPU should not end with a minute of sampling.
SHOWN_PROMPTS, TEMPERATURE, MOST_TOKENS = 4, 0.7, 64


@dataclass(frozen=True)
class AnswerChange:
    """What a policy said to a prompt before it was tuned, and what it says now; "" is an answer without text."""

    prompt: Messages
    before: str
    after: str

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        change = {"prompt": messages_to_dicts(self.prompt), "before": self.before, "after": self.after}
        return json.dumps(change, ensure_ascii=False)


def sample_before_and_after(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = MOST_TOKENS,
    seed: int = 0,
    count: int = SHOWN_PROMPTS,
) -> list[AnswerChange]:
    """Let a policy answer some prompts without its adapter and with it, from the same random numbers.

    Args:
        prompts: the first `count` distinct ones that the policy can read are taken, in the order of their ids.
    """
    reader, chosen = PromptReader(tokenizer), []
    for prompt in sorted({p.id: p for p in prompts}.values(), key=lambda p: p.id):
        if len(chosen) == count:
            break
        try:
            chosen.append((prompt, reader.tokenize(prompt)))
        except Unreadable:  # counted where the training read its prompts
            continue
    if not chosen:
        return []
    sampling = Sampling(TEMPERATURE, 1.0, max_new_tokens, seed)
    rows = [RowSampling(TEMPERATURE, 1.0, max_new_tokens, derive_seed(seed, p.id, sampling, 0)) for p, _ in chosen]
    eos, pad = find_eos_ids(model, tokenizer), int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    was_training = model.training
    model.eval()

    def answer() -> list[str]:
        answers = sample_tokens(model, [tokens for _, tokens in chosen], rows, eos=eos, pad=pad)  # type: ignore[arg-type]
        return [reader.decode(tokens, eos) for tokens in answers]

    with model.disable_adapter():
        before = answer()
    after = answer()
    model.train(was_training)
    return [AnswerChange(p.messages, was, now) for (p, _), was, now in zip(chosen, before, after)]
