"""The arithmetic of PPO on token tensors: pure functions. Shapes are (batch, tokens); `mask` is 1 on real tokens, which
start at 0 and have no holes.

Formulas: Schulman et al. 2015 (GAE, arXiv:1506.02438), Schulman et al. 2017 (PPO, arXiv:1707.06347), Ziegler et al.
2019 (KL penalty and its control, arXiv:1909.08593), Schulman 2020 (KL estimators, joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Sums a vector over all processes.
Reduce = Callable[[Tensor], Tensor]


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """(batch, width) float mask of the first `lengths` positions. Lengths, not token ids: a pad may be an EOS."""
    return (torch.arange(width, device=lengths.device)[None] < lengths[:, None]).float()


def moments(x: Tensor, mask: Tensor, reduce: Reduce = lambda v: v) -> tuple[Tensor, Tensor]:
    """Mean and (population) variance of the real tokens of all processes."""
    total, n = reduce(torch.stack([(x * mask).sum(), mask.sum()]).double())
    mean = total / n.clamp(min=1)
    spread = reduce((((x.double() - mean) ** 2) * mask).sum()[None])[0]
    return mean.to(x.dtype), (spread / n.clamp(min=1)).to(x.dtype)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, reduce: Reduce = lambda v: v) -> Tensor:
    """To unit variance and, with `shift_mean`, zero mean, over the real tokens of all processes; zero elsewhere."""
    mean, variance = moments(x, mask, reduce)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift_mean else white + mean) * mask


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log p - log q at tokens drawn from p: the unbiased estimate of KL(p || q) a token, which may be negative."""
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): unbiased too, never negative, less spread where p and q are near."""
    difference = reference - logprobs
    return difference.exp() - 1 - difference


def token_rewards(scores: Tensor, kl: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """-beta * kl at each real token, and the whole answer's score on its last (its EOS, where it came to one)."""
    rewards = -beta * kl * length_mask(lengths, kl.shape[1])
    last = (lengths - 1)[:, None]
    return rewards.scatter_add(1, last, scores.to(rewards.dtype)[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, zero on padding. What follows the last real token is worth nothing.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t.
    """
    rewards, values = rewards * mask, values * mask
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    delta = rewards + gamma * after - values
    advantages = torch.zeros_like(delta)
    carried = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        carried = (delta[:, t] + gamma * lam * carried) * mask[:, t]
        advantages[:, t] = carried
    return advantages, (advantages + values) * mask


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped objective a token (to be minimised), and whether the clip held it: max(-A r, -A clip(r, 1±clip))."""
    ratio = (new - old).exp()
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(free, held), (held > free).float()


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error a token, the worse of free and clipped to `clip` of the old value; and where it held."""
    free = (new - returns) ** 2
    held = (old + (new - old).clamp(-clip, clip) - returns) ** 2
    return 0.5 * torch.maximum(free, held), (held > free).float()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, reduce: Reduce = lambda v: v) -> float:
    """1 - Var(returns - values) / Var(returns); 1 is perfect, 0 no better than a mean, nan for constant returns."""
    _, residual = moments(returns - values, mask, reduce)
    _, whole = moments(returns, mask, reduce)
    return float(1 - residual / whole) if float(whole) > 0 else float("nan")


def next_kl_coefficient(beta: float, kl: float, *, target: float, horizon: float, answers: int) -> float:
    """Ziegler et al. 2019, eq. 2.2: towards the target by at most 0.2 * answers / horizon a step.

    Args:
        kl: mean over answers of the summed KL, in nats; `target` likewise.
        answers: how many answers the step saw.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * answers / horizon)
