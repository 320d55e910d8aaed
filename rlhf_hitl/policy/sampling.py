"""How completions are sampled: the settings, how a number of completions is shared out, and the seed of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_hitl.errors import BadInput

#: What samples: transformers, or vLLM on a GPU.
GenerationBackend = Literal["transformers", "vllm"]
#: The most tokens, of prompts and answers, that are computed side by side: 32 rows of 512, which a small machine holds.
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Sampling:
    """How to sample completions: `count` of them for each prompt. Temperature 0 takes the likeliest token.

    An answer ends before the first of the `stop` strings.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 160
    seed: int = 0
    count: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, valid, expected in (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "a number in (0, 1]"),
            ("max-new-tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more"),
            ("completions", self.count, self.count >= 1, "1 or more"),
        ):
            if not valid:
                raise BadInput(f"{name} {value}", expected=expected, fix=f"change --{name}")


@dataclass(frozen=True)
class RowSampling:
    """How to sample one row of a batch. `seed` alone fixes its random numbers."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


def share_among_temperatures(
    temperatures: Sequence[float],
    total: int,
    *,
    top_p: float = 0.95,
    max_new_tokens: int = 160,
    seed: int = 0,
    stop: tuple[str, ...] = (),
) -> list[Sampling]:
    """Return samplings of `total` completions a prompt, shared evenly among the distinct temperatures.

    The first temperatures get one more where the number does not divide. One that would get none is left out.
    """
    distinct = list(dict.fromkeys(temperatures))
    each, remainder = divmod(total, len(distinct))
    counts = [each + (i < remainder) for i in range(len(distinct))]
    return [
        Sampling(temperature, top_p, max_new_tokens, seed, count, stop)
        for temperature, count in zip(distinct, counts)
        if count
    ]


def derive_seed(seed: int, prompt_id: str, sampling: Sampling, index: int, attempt: int = 0) -> int:
    """Return the seed of one completion. It is kept in the completion's `sampling` and is enough to sample it again.

    Args:
        index: the completion's number among those of its prompt and sampling.
        attempt: how many completions before it were rejected as empty or repeated.
    """
    key = f"{seed}:{prompt_id}:{sampling.temperature}:{sampling.top_p}:{index}:{attempt}"
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16)
