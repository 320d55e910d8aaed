"""Make comparisons of sampled completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import Comparison, Completion, Prompt
from rlhf_hitl.wording import say_count


def make_comparisons(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    k: int = 2,
    overlap: int = 1,
    chosen: Mapping[str, Sequence[tuple[Completion, Completion]]] | None = None,
) -> list[Comparison]:
    """Return comparisons of `k` completions for each of the prompts, as `group_completions` makes them.

    Args:
        chosen: prompt id → pairs that are compared instead, as `routing.pairing` chooses them.
    """
    by_id = {p.id: p for p in prompts}
    comparisons = []
    for prompt_id, group in groupby(sorted(completions, key=lambda c: c.prompt_id), key=lambda c: c.prompt_id):
        prompt, pairs = by_id[prompt_id], (chosen or {}).get(prompt_id)
        if pairs is None:
            comparisons += group_completions(prompt, list(group), k, overlap)
        else:
            comparisons += [Comparison.create(prompt, pair, overlap) for pair in pairs]
    return comparisons


def group_completions(
    prompt: Prompt, completions: Sequence[Completion], k: int = 2, overlap: int = 1
) -> list[Comparison]:
    """Return comparisons of `k` different completions of one prompt.

    Each completion is in one comparison; a few are in two where that fills the last one. The hash of their texts
    decides which are compared, so the grouping is random and the same every time.

    Raises:
        BadInput: `k` is below 2.
    """
    if k < 2:
        raise BadInput(f"{say_count(k, 'completion')} a comparison", expected="2 or more", fix="compare at least two")
    distinct = sorted({c.messages: c for c in completions}.values(), key=lambda c: c.id)
    if len(distinct) < k:
        return []
    total = -(-len(distinct) // k) * k
    padded = distinct + distinct[: total - len(distinct)]
    return [Comparison.create(prompt, padded[i : i + k], overlap) for i in range(0, total, k)]
