"""How much arithmetic a model takes, how much a device can do, and the share of it that is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ppo_race import read_peak_mb
from random_models import Shape

#: Peak of dense bf16 products in FLOP/s by the device's name (NVIDIA's data sheets, without sparsity). The first name
#: that is part of the device's counts; the others' peak is not known.
PEAKS = {
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
}


def find_peak(device: str) -> float | None:
    """Return the peak FLOP/s of a device's dense bf16 products; None where it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def count_forward_flops(shape: Shape, tokens: int, context: float, logit_tokens: int = 0) -> float:
    """Return the FLOPs of a forward pass: 2 N + 4 L H T a token, and 2 V H for each token whose logits are computed.

    A backward pass takes twice as much, so that a training step takes 6 N + 12 L H T a token (Chowdhery et al. 2022,
    "PaLM", appendix B, which does not count that half of the attention is masked, nor do we). Where the weights are
    frozen, under LoRA, their gradients are not computed and it takes as much as the forward pass.

    Args:
        tokens: that are computed; of a prompt tree the trunk counts once.
        context: the mean number of tokens attended to, T.
        logit_tokens: tokens whose logits over the vocabulary are computed.
    """
    n = shape.layers * shape.layer_parameters
    attention = 4 * shape.layers * shape.heads * shape.head_size * context
    return tokens * (2 * n + attention) + 2.0 * logit_tokens * shape.vocabulary * shape.hidden


def compute_mfu(flops: float, seconds: float, device: str) -> float | None:
    """Return the model FLOPs utilisation: what a step needs, by what the device could do; None where that is not
    known."""
    peak = find_peak(device)
    return None if peak is None else flops / seconds / peak


def repeat(step: Callable[[], Any], seconds: float, warm_up: int = 2) -> tuple[int, float]:
    """Run a step for a while, after some that do not count. Returns how many counted, and their seconds."""
    import torch

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    for _ in range(warm_up):
        step()
    wait()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    begun, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - begun < seconds:
        step()
        wait()
        n += 1
    return n, time.perf_counter() - begun


def read_peak_gib() -> float:
    """Return the peak of the device's memory that this process has held, in GiB; of the process itself on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return read_peak_mb() * 1e6 / 2**30
