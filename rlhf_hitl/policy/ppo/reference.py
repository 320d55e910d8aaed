"""The reference: the frozen policy that PPO keeps near. It is the trained policy with its adapter switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_hitl.policy.ppo.batches import RolloutBatch
from rlhf_hitl.policy.ppo.model import ActorCritic
from rlhf_hitl.reward.fused_decoder import FusedDecoder, fuse_decoder, plant_forest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fuse_reference(policy: PreTrainedModel) -> FusedDecoder | None:
    """Return the layers of a policy, in fewer and larger steps, if it is on a CPU; None where that is not possible.

    They share its weights. What peft later puts around its modules is no part of them.
    """
    config = policy.config.get_text_config()
    has_windows = getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or ()) - {
        "full_attention"
    }
    return None if policy.device.type != "cpu" or has_windows else fuse_decoder(policy.get_decoder())


class Reference:
    """Computes log-probabilities under the reference.

    Args:
        fused: of `fuse_reference`. With it the beginning that all prompts share is computed once.
    """

    def __init__(self, model: ActorCritic, fused: FusedDecoder | None):
        self._model, self._fused = model, fused

    @torch.no_grad()
    def compute_logprobs(self, batch: RolloutBatch, budget: int) -> Tensor:
        """Return the reference's log-probabilities, (batch, answer), zero on padding, `budget` tokens at a time."""
        logprobs = torch.zeros_like(batch.mask)
        for index in batch.split_rows(torch.arange(len(logprobs), device=logprobs.device), budget):
            part = batch.select_rows(index)
            if self._fused is None:
                logprobs[index, : part.answer_width] = self._model.compute_reference_logprobs(part)
            else:
                states = self._compute_states(self._fused, part)
                logprobs[index, : part.answer_width] = self._model.read_logprobs(states, part.answers, part.mask)
        return logprobs

    def _compute_states(self, fused: FusedDecoder, batch: RolloutBatch) -> Tensor:
        rows = [row[real > 0].tolist() for row, real in zip(batch.ids, batch.attention)]
        forest = plant_forest([[row[:-1]] for row in rows], self._model.policy.dtype)  # the last token predicts nothing
        states = fused.run(forest, {fused.depth})[fused.depth]
        before = torch.zeros(len(rows), batch.answer_width, states.shape[-1], dtype=states.dtype)
        for row, path, length in zip(before, forest.paths, batch.lengths.tolist()):
            row[:length] = states[path[-length:]]
        return before
