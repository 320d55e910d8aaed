"""Choose some of many prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from heapq import nsmallest

from rlhf_hitl.types import Prompt


def choose_prompts(prompts: Sequence[Prompt], n: int, seed: int) -> list[Prompt]:
    """Return `n` of the prompts, drawn at random: a seed draws the same whatever their order, another one others.

    All prompts are returned, in the order of the draw, where there are no more than `n`.
    """

    def draw(prompt: Prompt) -> bytes:
        return hashlib.sha256(f"{seed}:{prompt.id}".encode()).digest()

    return nsmallest(n, prompts, key=draw)
