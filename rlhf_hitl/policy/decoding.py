"""Decode a batch of rows token by token. Rows of one prompt share its prefill, and a finished row leaves the batch.

`model.generate` computes a prompt once for every row that begins with it, and goes on computing rows that have ended
until the last one does. The choice of tokens and the end of a row are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import TYPE_CHECKING

import torch

from rlhf_hitl.policy.growing_cache import make_growing_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The rows of a batch are gathered anew when at most this share of them is still going on. Each time copies the cache.
SHARE_GOING_ON = 0.75

#: Returns a token for each of some rows: (logits (n, vocabulary), their numbers in the batch (n,), step) -> (n,).
ChooseTokens = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
#: Says whether a row ends with the tokens that it has: (its number, its tokens).
IsFinished = Callable[[int, list[int]], bool]
#: Hears of each pass of the model: (the numbers of the rows it was for (n,), step, where they stand in the pass; None:
#: in this order).
OnPass = Callable[[torch.Tensor, int, torch.Tensor | None], None]


def can_decode(model: PreTrainedModel) -> bool:
    """Whether a model keeps keys and values of tokens and nothing else, as `decode` needs it."""
    return not getattr(model, "_is_stateful", False) and not getattr(model.config, "is_encoder_decoder", False)


def _keep_last_logits(model: PreTrainedModel) -> dict[str, int]:
    """Return the argument that keeps a model from computing the logits of a whole prompt, where it has one."""
    takes = "logits_to_keep" in signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    return {"logits_to_keep": 1} if takes else {}


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    choose: ChooseTokens,
    is_finished: IsFinished,
    pad: int,
    on_pass: OnPass = lambda rows, step, places: None,
) -> list[list[int]]:
    """Return the new tokens of each row, the one that ends it included.

    Args:
        prompts: the token ids of each row's prompt; equal ones are computed once.
    """
    distinct = list({tuple(p): None for p in prompts})
    place = {prompt: i for i, prompt in enumerate(distinct)}
    device, width = model.device, max(map(len, distinct))
    tokens = torch.full((len(distinct), width), pad, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(distinct):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    tokens, mask = tokens.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = make_growing_cache(model.config.get_text_config(decoder=True))
    padded = not bool(mask.all())
    out = model(
        input_ids=tokens, attention_mask=mask if padded else None, position_ids=positions, past_key_values=cache,
        use_cache=True, **_keep_last_logits(model),
    )  # fmt: skip
    rows = torch.tensor([place[tuple(p)] for p in prompts], device=device)
    if len(distinct) < len(prompts):
        cache.batch_select_indices(rows)
    # Where each row of the cache belongs, and which rows of the cache go on.
    owner = torch.arange(len(prompts), device=device)
    on_pass(owner, 0, rows)
    logits, mask, position = out.logits[:, -1][rows], mask[rows], positions[rows, -1:]
    answers: list[list[int]] = [[] for _ in prompts]
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    step = 0
    while True:
        chosen = choose(logits, owner, step)
        going_on = []
        for number, token, is_done in zip(owner.tolist(), chosen.tolist(), finished[owner].tolist()):
            if is_done:
                continue
            answers[number].append(token)
            if not is_finished(number, answers[number]):
                going_on.append(number)
        if not going_on:
            return answers
        finished[:] = True
        finished[going_on] = False
        if len(going_on) <= SHARE_GOING_ON * len(owner):
            kept = (~finished[owner]).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            owner, chosen, mask, position = owner[kept], chosen[kept], mask[kept], position[kept]
        mask = torch.cat([mask, mask.new_ones(len(owner), 1)], dim=1)
        position, step = position + 1, step + 1
        out = model(
            input_ids=chosen[:, None], attention_mask=mask if padded else None, position_ids=position,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        on_pass(owner, step, None)
        logits = out.logits[:, -1]
