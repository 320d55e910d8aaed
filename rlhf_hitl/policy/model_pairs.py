"""The pairs that a reward model makes of a policy's answers: of each prompt's K answers a good one and a bad one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, groupby
from typing import Protocol

import numpy as np

from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.reward.readability import LeftOut, Unreadable
from rlhf_hitl.reward.rendering import Conversation, has_text
from rlhf_hitl.types import Completion, Prompt

log = logging.getLogger(__name__)

#: Prompts whose answers are compared at once.
PROMPTS_AT_ONCE = 256


class ConversationScorer(Protocol):
    """What making pairs needs of a reward model."""

    def rewards(self, chats: Sequence[Conversation], /) -> np.ndarray: ...

    def margins(
        self, first: Sequence[Conversation], second: Sequence[Conversation], /
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...

    def find_problem(self, chats: Sequence[Conversation], /) -> Unreadable | None: ...


def make_model_pairs(
    reward_model: ConversationScorer,
    prompts: Iterable[Prompt],
    completions: Sequence[Completion],
    *,
    least_margin: float = 0.5,
    conservative: float = 0.0,
    not_paired: Counter[str] | None = None,
) -> list[DPOPair]:
    """Pair of each prompt's answers the two with the highest margin less `conservative` times its uncertainty.

    With `conservative` 0 these are the best and the worst. The share of a pair's label is the probability that a rater
    prefers the better one, moderated by the uncertainty. Left out are pairs whose margin is below `least_margin` logits
    or below `conservative` times its uncertainty, and answers that the reward model cannot read, with a warning.

    Args:
        not_paired: counts, by reason, which of the prompts have no pair, and which answers are not scored.
    """
    not_paired = Counter() if not_paired is None else not_paired
    by_id = {p.id: p for p in prompts}
    given = sorted((c for c in completions if c.prompt_id in by_id), key=lambda c: (c.prompt_id, c.id))
    usable = [c for c in given if has_text(c.messages)]
    chats = [Conversation(by_id[c.prompt_id].messages, c.messages, by_id[c.prompt_id].tools) for c in usable]
    problems = [reward_model.find_problem([chat]) for chat in chats]
    for line in LeftOut("completion", [problem for problem in problems if problem]).lines():
        log.warning("%s", line)
    readable = [(c, chat) for c, chat, problem in zip(usable, chats, problems) if problem is None]
    rewards = reward_model.rewards([chat for _, chat in readable]) if readable else []
    scored = [(c, chat, float(reward)) for (c, chat), reward in zip(readable, rewards)]
    groups = [sorted(group, key=lambda s: -s[2]) for _, group in groupby(scored, key=lambda s: s[0].prompt_id)]
    groups = [group for group in groups if len(group) > 1]
    counts = {
        "an answer without text": len(given) - len(usable),
        "an answer that the reward model cannot read": len(usable) - len(readable),
        "a prompt without two answers": len(by_id) - len(groups),
    }
    not_paired.update({reason: n for reason, n in counts.items() if n})
    pairs = []
    for start in range(0, len(groups), PROMPTS_AT_ONCE):
        chunk = groups[start : start + PROMPTS_AT_ONCE]
        candidates = [
            (group, i, j)
            for group in chunk
            for i, j in (combinations(range(len(group)), 2) if conservative else [(0, len(group) - 1)])
        ]
        margins, uncertainties, probabilities = reward_model.margins(
            [group[i][1] for group, i, _ in candidates], [group[j][1] for group, _, j in candidates]
        )
        lower = margins - conservative * uncertainties
        at = 0
        for group in chunk:
            n = len(group) * (len(group) - 1) // 2 if conservative else 1
            k = at + int(np.argmax(lower[at : at + n]))
            at += n
            _, i, j = candidates[k]
            better, worse = group[i][0], group[j][0]
            if better.messages == worse.messages:
                not_paired["a prompt whose answers are the same"] += 1
            elif margins[k] < least_margin:
                not_paired[f"a margin below {least_margin:g}"] += 1
            elif lower[k] < 0:
                not_paired[f"a margin below {conservative:g} times its uncertainty"] += 1
            else:
                pairs.append(
                    DPOPair(
                        by_id[better.prompt_id], better, worse, "model", margin=float(margins[k]),
                        uncertainty=float(uncertainties[k]), share=float(probabilities[k]),
                    )
                )  # fmt: skip
    return pairs
