"""The reward of a policy's answers: one function for PPO, RLOO and GRPO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.reward.rendering import Conversation, has_text
from rlhf_hitl.store import Store
from rlhf_hitl.store.prompt_answers import read_prompt_answers
from rlhf_hitl.types import Message, Prompt
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

log = logging.getLogger(__name__)

#: Returns rewards (n,) of conversations.
RewardFunction = Callable[[list[Conversation]], np.ndarray]
#: Stored answers to a prompt that the doubt about a new one is measured against: each is read once by the backbone.
MOST_REFERENCES = 2


def make_answer(prompt: Prompt, text: str) -> Conversation:
    """Return a sampled answer as what the reward model reads. One without text is scored like any other."""
    return Conversation(prompt.messages, (Message("assistant", text),), prompt.tools, may_be_empty=True)


class PolicyReward:
    """The reward model's reward, less `conservative` standard deviations of its doubt.

    The doubt about an answer is measured against the stored answers to its prompt
    (`RewardModel.conservative_rewards`).

    Args:
        store: where the prompts' stored answers are.
    """

    def __init__(self, model: RewardModel, store: Store, conservative: float = 0.0):
        self.model, self.store, self.conservative = model, store, conservative
        self._references: dict[str, list[Conversation]] = {}
        self._has_warned = False

    def __call__(self, chats: Sequence[Conversation]) -> np.ndarray:
        """Return rewards in logits, (n,) float32. Raises BadInput for one that is not a finite number."""
        if not self.conservative:
            return self.model.rewards(chats, keep=False)
        self._read_references(chats)
        return self.model.conservative_rewards(chats, self.conservative, self._references, keep=False)

    def _read_references(self, chats: Sequence[Conversation]) -> None:
        new = {c.prompt_id: c for c in chats if c.prompt_id not in self._references}
        if not new:
            return
        found = read_prompt_answers(self.store, list(new), MOST_REFERENCES)
        for prompt_id, chat in new.items():
            answers = [
                Conversation(chat.prompt, c.messages, chat.tools)
                for c in found.get(prompt_id, ())
                if has_text(c.messages)
            ]
            self._references[prompt_id] = [a for a in answers if self.model.find_problem([a]) is None]
        without = [i for i in new if not self._references[i]]
        if without and not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s (such as %s) without stored answers: the doubt about new ones is measured against the mean "
                "training conversation, and is nearly the same for all answers to a prompt",
                say_count(len(without), "prompt"),
                without[0],
            )
