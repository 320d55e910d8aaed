"""Choose which completions of a prompt are compared: those whose comparison teaches most, by an acquisition rule.

With K completions of a prompt there are K (K - 1) / 2 pairs, and raters are asked for few of them. `batches.py` says
which comparisons are asked first; here they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.routing.acquisition_names import Rule
from rlhf_hitl.routing.batches import Pool, score_alone
from rlhf_hitl.types import Completion, Prompt, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

#: Prompt id → the pairs of its completions that are to be compared.
ChosenPairs = dict[str, list[tuple[Completion, Completion]]]


def choose_pairs(
    model: RewardModel,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    rule: Rule,
    *,
    per_prompt: int | None = None,
    is_control: Callable[[Prompt], bool] = lambda prompt: False,
    seed: int = 0,
) -> ChosenPairs:
    """Return the pairs to compare of those prompts on which the rule has a choice; the others are missing.

    Missing are prompts of the calibration and held-out splits and controls, whose pairs are to be drawn at random
    because they measure; prompts with fewer than three completions; and those that the model cannot read.

    Args:
        per_prompt: pairs of each prompt; None for as many as it takes for each completion to be in one.
        is_control: whether a prompt's pairs are drawn at random.

    Raises:
        BadInput: `per_prompt` is below 1.
    """
    if per_prompt is not None and per_prompt < 1:
        raise BadInput(f"{per_prompt} pairs a prompt", expected="1 or more", fix="compare one pair at least")
    by_id = {p.id: p for p in prompts if p.split is Split.TRAIN and not is_control(p)}
    rng, chosen = np.random.default_rng(seed), {}
    for prompt_id, group in groupby(sorted(completions, key=lambda c: c.prompt_id), key=lambda c: c.prompt_id):
        if (prompt := by_id.get(prompt_id)) is None:
            continue
        distinct = sorted({c.messages: c for c in group}.values(), key=lambda c: c.id)
        chats = [Conversation(prompt.messages, c.messages, prompt.tools) for c in distinct]
        if len(distinct) < 3 or model.find_problem(chats) is not None:
            continue
        first, second = np.triu_indices(len(distinct), 1)
        margins, stds, _ = model.margins([chats[i] for i in first], [chats[i] for i in second])
        alike = np.zeros(len(first), int)
        scores = score_alone(Pool(margins, stds, alike, alike, model.head), rule, rng)
        number = -(-len(distinct) // 2) if per_prompt is None else per_prompt
        best_first = [(int(first[i]), int(second[i])) for i in np.lexsort((rng.random(len(first)), -scores))]
        chosen[prompt_id] = [(distinct[a], distinct[b]) for a, b in _take_spread(best_first, number)]
    return chosen


def _take_spread(best_first: Sequence[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """Return the first `number` pairs, in turns: a completion is in a second pair only when no pair of two that are in
    fewer is left."""
    used: dict[int, int] = {}
    waiting, taken = list(best_first), []
    while waiting and len(taken) < number:
        least = min(used.get(a, 0) + used.get(b, 0) for a, b in waiting)
        pair = next((a, b) for a, b in waiting if used.get(a, 0) + used.get(b, 0) == least)
        waiting.remove(pair)
        taken.append(pair)
        for side in pair:
            used[side] = used.get(side, 0) + 1
    return taken
