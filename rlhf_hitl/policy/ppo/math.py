"""The formulas of PPO on token tensors, as pure functions; those of losses and estimators are named for their value.

Shapes are (batch, tokens); `mask` is 1 on real tokens, which start at column 0 and have no gaps.

Formulas: Schulman et al. 2015 (GAE, arXiv:1506.02438), Schulman et al. 2017 (PPO, arXiv:1707.06347), Ziegler et al.
2019 (KL penalty and its control, arXiv:1909.08593), Schulman 2020 (KL estimators, joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: A function that sums a vector over all processes.
SumOverProcesses = Callable[[Tensor], Tensor]


def widen(x: Tensor) -> Tensor:
    """Return `x` in float64 for sums of many; in float32 on a device that has no wider one (MPS)."""
    return x.float() if x.device.type == "mps" else x.double()


def make_length_mask(lengths: Tensor, width: int) -> Tensor:
    """Return a (batch, width) float mask of the first `lengths` positions.

    It goes by lengths and not by token ids because the pad token may be the EOS.
    """
    return (torch.arange(width, device=lengths.device)[None] < lengths[:, None]).float()


def compute_moments(x: Tensor, mask: Tensor, reduce: SumOverProcesses = lambda v: v) -> tuple[Tensor, Tensor]:
    """Return mean and (population) variance of the real tokens of all processes."""
    total, n = reduce(widen(torch.stack([(x * mask).sum(), mask.sum()])))
    mean = total / n.clamp(min=1)
    squares = reduce((((widen(x) - mean) ** 2) * mask).sum()[None])[0]
    return mean.to(x.dtype), (squares / n.clamp(min=1)).to(x.dtype)


def whiten(x: Tensor, mask: Tensor, *, reduce: SumOverProcesses = lambda v: v) -> Tensor:
    """Scale all real tokens of all processes to zero mean and unit variance; padding gets zero."""
    mean, variance = compute_moments(x, mask, reduce)
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return log p - log q at tokens sampled from p: an unbiased estimate of KL(p || q) a token; may be negative."""
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return q/p - 1 - log(q/p): unbiased too, never negative, and of less variance where p and q are near."""
    difference = reference - logprobs
    return difference.exp() - 1 - difference


def compute_token_rewards(scores: Tensor, kl: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """Return -beta * kl at each real token, plus the answer's score on its last one (the EOS if it reached one)."""
    rewards = -beta * kl * make_length_mask(lengths, kl.shape[1])
    last = (lengths - 1)[:, None]
    return rewards.scatter_add(1, last, scores.to(rewards.dtype)[:, None])


def compute_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (generalised advantage estimation), zero on padding.

    The value after the last real token is zero.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t.
    """
    rewards, values = rewards * mask, values * mask
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    delta = rewards + gamma * next_values - values
    advantages = torch.zeros_like(delta)
    carried = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        carried = (delta[:, t] + gamma * lam * carried) * mask[:, t]
        advantages[:, t] = carried
    return advantages, (advantages + values) * mask


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return max(-A r, -A clip(r, 1±clip)) of each token, to be minimised, and 1 where the clipped term is larger."""
    ratio = (new - old).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(unclipped, clipped), (clipped > unclipped).float()


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return half the squared error of each token, and 1 where the clipped error is larger.

    The error is the larger one of the new value's and of the new value's kept within `clip` of the old value.
    """
    unclipped = (new - returns) ** 2
    clipped = (old + (new - old).clamp(-clip, clip) - returns) ** 2
    return 0.5 * torch.maximum(unclipped, clipped), (clipped > unclipped).float()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, reduce: SumOverProcesses = lambda v: v) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 is perfect, 0 like the mean, nan if all returns are equal."""
    _, residual = compute_moments(returns - values, mask, reduce)
    _, total = compute_moments(returns, mask, reduce)
    return float(1 - residual / total) if float(total) > 0 else float("nan")


def adapt_kl_coefficient(beta: float, kl: float, *, target: float, horizon: float, answers: int) -> float:
    """Move beta towards the target KL by at most a share of 0.2 * answers / horizon (Ziegler et al. 2019, eq. 2.2).

    Args:
        kl: mean over answers of the summed KL, in nats; `target` likewise.
        answers: number of answers in the step.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * answers / horizon)
