"""The scale of rewards: PPO sees them in standard deviations, whatever the reward model's units are."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_hitl.policy.ppo.math import SumOverProcesses

log = logging.getLogger(__name__)

#: The scaled reward of an answer that the reward model cannot read: standard deviations from the first rewards' mean.
#: It is the same in each batch and process, and lower than what a readable answer gets as a rule.
UNREADABLE = -3.0


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
    def spread(self) -> float:
        """The standard deviation; 1 where all rewards were equal."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-6 * max(1.0, abs(self.mean)) else 1.0

    def add(self, rewards: Tensor, readable: Tensor, reduce: SumOverProcesses) -> None:
        """Take in this process's rewards (n,) of a step where `readable` (n,) is 1 (Chan et al. 1979, eq. 2.1)."""
        rewards, readable = rewards.double(), readable.double()
        total, n = reduce(torch.stack([(rewards * readable).sum(), readable.sum()])).tolist()
        if not n:
            return
        mean = total / n
        squares = float(reduce((((rewards - mean) ** 2) * readable).sum()[None])[0])
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

    def scale(self, rewards: Tensor, readable: Tensor) -> Tensor:
        """Return rewards (n,) in standard deviations; `UNREADABLE` where `readable` is 0."""
        scaled = (rewards.double() - self.start) / self.spread
        return torch.where(readable > 0, scaled, torch.full_like(scaled, UNREADABLE)).float()

    def unscale(self, scaled: Tensor) -> Tensor:
        return self.start + scaled * self.spread
