"""The scale of rewards: PPO, RLOO and GRPO see them in standard deviations, whatever the reward model's units are."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_hitl.policy.ppo.math import SumOverProcesses, widen

log = logging.getLogger(__name__)


@dataclass
class RewardScale:
    """The running mean and spread of the rewards of all processes, the first step's included. A checkpoint holds it.

    A scaled reward is (reward - mean of the first step) / standard deviation so far. The mean stays that of the first
    step, so that a policy that has become better is paid for it; a constant does not change what is best.

    Attributes:
        count: how many rewards were met. mean, squares: their mean and summed squared deviations from it.
        start: the mean of the first step's rewards.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    start: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation, in the unit of the rewards."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @property
    def spread(self) -> float:
        """The standard deviation; 1 where all rewards were equal."""
        return self.deviation if self.deviation > 1e-6 * max(1.0, abs(self.mean)) else 1.0

    def add(self, rewards: Tensor, reduce: SumOverProcesses) -> None:
        """Take in this process's rewards (n,) of a step (Chan et al. 1979, eq. 2.1)."""
        rewards = widen(rewards)
        total, n = reduce(torch.stack([rewards.sum(), torch.ones_like(rewards).sum()])).tolist()
        mean = total / n
        squares = float(reduce(((rewards - mean) ** 2).sum()[None])[0])
        is_first = not self.count
        both, apart = self.count + n, mean - self.mean
        self.squares += squares + apart**2 * self.count * n / both
        self.mean += apart * n / both
        self.count = both
        if is_first:
            self.start = mean
            if squares / n <= (1e-6 * max(1.0, abs(mean))) ** 2:
                log.warning(
                    "all %d rewards of the first step are %g: from a constant reward nothing can be learnt",
                    int(n),
                    mean,
                )

    def scale(self, rewards: Tensor) -> Tensor:
        """Return rewards (n,) in standard deviations."""
        return ((widen(rewards) - self.start) / self.spread).float()
