"""Losses of reward models: pure functions of rewards, worked by hand in the tests."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def bradley_terry(margins: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of Bradley-Terry with soft labels (Bradley & Terry 1952), and figures for the log.

    Args:
        margins: (n,) reward(chosen) - reward(rejected), taken to fp32.
        targets: (n,) probability that a rater prefers `chosen`; a tie is 0.5.

    Returns:
        The mean loss, and {"accuracy", "margin"}: the share of decided pairs (target not 0.5) the margin agrees with.
    """
    m, t = margins.float(), targets.float()
    loss = -(t * logsigmoid(m) + (1 - t) * logsigmoid(-m)).mean()
    decided = t != 0.5
    right = ((m > 0) == (t > 0.5))[decided].float()
    accuracy = right.mean().item() if decided.any() else float("nan")
    return loss, {"accuracy": accuracy, "margin": m.mean().item()}
