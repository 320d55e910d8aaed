"""What to do when memory runs out: the error says which setting to halve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.ppo.config import PPOConfig


@contextmanager
def explain_out_of_memory(
    config: PPOConfig, setting: Literal["sampling_tokens", "microbatch_tokens"]
) -> Iterator[None]:
    """Raise BadInput naming `setting`, which bounds what is computed inside, where the device's memory is full."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:  # torch has no class of its own for the CPU's
        is_full = isinstance(e, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(e)
        if not is_full:
            raise
        size = getattr(config, setting)
        raise BadInput(
            f"{setting} {size:,}: out of memory",
            expected="a batch that fits into the memory of the device",
            fix=f"halve it ({setting}={max(1, size // 2)}); a single long row needs fewer max_prompt_tokens or "
            "max_new_tokens",
        ) from e
