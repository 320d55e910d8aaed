"""The reward of a policy's answers: one function for PPO, RLOO and GRPO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.readability import Unreadable
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
#: Returns why answers to a prompt have no reward, as `RewardModel.find_problem` does; None where they have one.
ProblemFinder = Callable[[Sequence[Conversation]], Unreadable | None]
#: Stored answers to a prompt that the doubt about a new one is measured against: each is read once by the backbone.
MOST_REFERENCES = 2


def make_answer(prompt: Prompt, text: str) -> Conversation:
    """Return a sampled answer as what the reward model reads. One without text is scored like any other."""
    return Conversation(prompt.messages, (Message("assistant", text),), prompt.tools, may_be_empty=True)


def make_readable(
    chats: Sequence[Conversation], find_problem: ProblemFinder | None
) -> tuple[list[Conversation], np.ndarray]:
    """Put an answer without text in the place of each one that a reward model cannot read.

    So what cannot be read earns what saying nothing earns, in every method and as the gold model sees it. A fixed floor
    would not do: rewards have no unit for it, and a policy whose answers are worth less would learn to be unreadable.

    Returns:
        The conversations, and (n,) which of them were replaced.
    """
    unreadable = np.array([find_problem is not None and find_problem([chat]) is not None for chat in chats], dtype=bool)
    silent = (replace(chat, completion=(Message("assistant", ""),), may_be_empty=True) for chat in chats)
    return [empty if bad else chat for chat, empty, bad in zip(chats, silent, unreadable)], unreadable


def score_answers(
    prompts: Sequence[Prompt], texts: Sequence[str], reward: RewardFunction, find_problem: ProblemFinder | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) float64 rewards of sampled answers, finite or not, and (n,) which of them could not be read.

    Raises:
        BadInput: there is not one reward for each.
    """
    chats, unreadable = make_readable([make_answer(p, text) for p, text in zip(prompts, texts)], find_problem)
    rewards = np.asarray(reward(chats), dtype=np.float64)
    if rewards.shape != (len(chats),):
        raise BadInput(
            f"rewards of shape {rewards.shape}",
            expected=say_count(len(chats), "finite number"),
            fix="check the reward model",
        )
    return rewards, unreadable


def refuse_unread(unreadable: int, answers: int) -> None:
    """Raise BadInput where the reward model could read none of the first answers: nothing would be learnt from them."""
    if unreadable == answers:
        raise BadInput(
            f"the first {say_count(answers, 'answer')}, all unreadable",
            expected="answers that the reward model can read",
            fix="check that the reward model's chat template shows this policy's answers",
        )


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
