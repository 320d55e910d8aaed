"""Log-probabilities of tokens from hidden states, without the logits of all tokens ever being in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: From hidden states (n, width) to float32 logits (n, vocabulary) at the sampling temperature.
Projection = Callable[[Tensor], Tensor]

#: Logits that are in memory at a time: 64 MiB in float32.
LOGITS_AT_A_TIME = 2**24


def compute_token_logprobs(
    states: Tensor, tokens: Tensor, project: Projection, *, vocabulary: int, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return log p(token) of each state, (n,) float32, and with `with_entropy` the entropy in nats, without gradients.

    A gradient flows to the states, not to what `project` multiplies them with (LoRA leaves the output layer alone).
    It is taken chunk by chunk while the logits are there: a log-probability is one number, so its gradient is one row
    of the states' width, and the backward pass needs no logits.

    Args:
        states: (n, width). tokens: (n,).
        vocabulary: how many logits a state has.
    """
    rows = max(1, LOGITS_AT_A_TIME // vocabulary)
    logprobs, entropy = _TokenLogprobs.apply(states, tokens, project, rows, with_entropy)  # type: ignore[misc]
    return logprobs, entropy if with_entropy else None


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, states: Tensor, tokens: Tensor, project: Projection, rows: int, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        logprobs, entropies, gradients = [], [], []
        for part, ids in zip(states.split(rows), tokens.split(rows)):
            part = part.detach().requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                distribution = project(part).log_softmax(-1)
                chosen = distribution.gather(-1, ids[:, None])[:, 0]
            logprobs.append(chosen.detach())
            if with_entropy:
                distribution = distribution.detach()
                entropies.append(-(distribution.exp() * distribution).sum(-1))
            if needs_gradient:
                gradients += torch.autograd.grad(chosen, part, torch.ones_like(chosen))
        ctx.save_for_backward(*([torch.cat(gradients)] if gradients else []))
        result = torch.cat(logprobs), torch.cat(entropies) if entropies else states.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(result[1])
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0][:, None].to(gradient.dtype) * gradient), None, None, None, None
