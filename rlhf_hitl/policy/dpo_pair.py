"""One pair for DPO: two answers, and what its label is worth."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import Completion, Prompt


@dataclass(frozen=True)
class DPOPair:
    """One pair for DPO.

    Attributes:
        label_source: "human" or "model".
        margin: the reward model's in logits, 0 for people's pairs.
        simulated: whether a simulated rater has voted on it.
        uncertainty: the standard deviation of that margin, 0 for people's pairs.
        share: of the votes that prefer a side, what those for `chosen` are worth, at least one half. For the reward
            model's pairs the probability that a rater who sees a difference prefers `chosen`.
        tie: of all votes, what those are worth that call it a tie.
        weight: what the votes are worth together, in votes of a reference rater and of mean strength.
    """

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    label_source: str
    margin: float = 0.0
    share: float = 1.0
    weight: float = 1.0
    tie: float = 0.0
    uncertainty: float = 0.0
    simulated: bool = False

    @property
    def label(self) -> list[str | float]:
        """What is compared and what is known of it, in JSON: what tells a pair from another one to a training."""
        return [self.prompt.id, self.chosen.id, self.rejected.id, self.share, self.tie, self.weight]

    @property
    def completion_ids(self) -> frozenset[str]:
        return frozenset((self.chosen.id, self.rejected.id))

    @property
    def chosen_chat(self) -> Conversation:
        return Conversation(self.prompt.messages, self.chosen.messages, self.prompt.tools)

    @property
    def rejected_chat(self) -> Conversation:
        return Conversation(self.prompt.messages, self.rejected.messages, self.prompt.tools)
