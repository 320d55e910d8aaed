"""Completions of a policy in one call, as tests want them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from rlhf_hitl.policy.completing import check_prompts, complete_prompts
from rlhf_hitl.policy.model_drawer import open_model
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.policy.sampling_counts import SamplingCounts
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.types import Completion, Prompt

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch


class SampledCompletions(list[Completion]):
    """Completions, and `counts` of what was sampled, filtered and redrawn for them."""

    def __init__(self, completions: Sequence[Completion], counts: SamplingCounts):
        super().__init__(completions)
        self.counts = counts


def sample_completions(
    policy: str | Path,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    *,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    skip_bad: bool = False,
    left_out: LeftOut | None = None,
    keep_all: bool = False,
) -> SampledCompletions:
    """Load a policy and sample completions for the prompts. Returns them in the order of the prompts, with counts.

    Args:
        batch_size: the most completions that are sampled side by side; None: as many as `batch_tokens` allow.
        skip_bad: leave out prompts that the chat template refuses, with a warning, and add them to `left_out`.
        keep_all: filter nothing and redraw nothing, as a policy is measured: an empty answer is a completion with
            empty text, and equal answers stand side by side.

    Raises:
        BadInput: there are such prompts and `skip_bad` is not set.
    """
    drawer = open_model(policy, samplings, dtype=dtype, batch_size=batch_size)
    counts = SamplingCounts()
    check_prompts(drawer, prompts, counts, skip_bad=skip_bad, left_out=left_out)
    total = len(prompts) * sum(s.count for s in samplings)
    with tqdm(total=total, desc=drawer.name, unit="completion", disable=not total) as bar:
        made = complete_prompts(drawer, prompts, samplings, counts, keep_all=keep_all, on_progress=bar.update)
        completions = [c for _, of_prompt in made for c in of_prompt]
    for line in counts.lines(drawer.name):
        log.warning("%s", line)
    return SampledCompletions(completions, counts)
