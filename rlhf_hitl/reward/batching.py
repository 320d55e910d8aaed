"""Group conversations for a forward pass: by length, so that little is padded, or by prompt, so that it is computed
once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from rlhf_hitl.reward.rendering import RenderedConversation

K = TypeVar("K", bound=Hashable)


def batch_by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return batches of indices into `lengths`, the longest first.

    A batch that is padded to its longest member has at most `budget` tokens, or a single member.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def group_by_prompt(rendered: Mapping[K, RenderedConversation]) -> list[list[K]]:
    """Return the keys of the conversations that share a prompt, in the order in which the prompts first occur."""
    groups: dict[tuple[int, ...], list[K]] = {}
    for key, conversation in rendered.items():
        groups.setdefault(conversation.ids[: conversation.start], []).append(key)
    return list(groups.values())


def batch_by_prompt(rendered: Sequence[RenderedConversation], budget: int) -> list[list[list[int]]]:
    """Return batches of prompt trees, each tree a list of indices of conversations that share a prompt.

    A batch has at most `budget` tokens, or a single conversation; the largest trees come first.
    """
    trees: list[tuple[int, list[int]]] = []  # (tokens, conversations)
    for siblings in group_by_prompt(dict(enumerate(rendered))):
        tokens = budget
        for i in siblings:
            completion_tokens = len(rendered[i].ids) - rendered[i].start
            if tokens + completion_tokens > budget:  # start a new tree, which holds the prompt again
                tokens = rendered[i].start
                trees.append((0, []))
            tokens += completion_tokens
            trees[-1] = tokens, [*trees[-1][1], i]
    batches: list[list[list[int]]] = []
    room = 0
    for tokens, conversations in sorted(trees, key=lambda t: -t[0]):
        if tokens > room:
            batches.append([])
            room = budget
        batches[-1].append(conversations)
        room -= tokens
    return batches
