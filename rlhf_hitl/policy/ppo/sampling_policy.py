"""What PPO samples with: the policy itself, or a copy in another precision."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class SamplingPolicy:
    """Hands out the model to sample with.

    In the precision of training that is the policy with its adapter beside the weights: merging would save an eighth of
    the time of sampling, and take a second copy of the weights to get the exact ones back. In another precision it is a
    copy, into which the adapter is merged (in float32, then rounded) before each step.

    Args:
        base: the policy before peft has put adapters around its modules.
    """

    def __init__(self, base: PreTrainedModel, dtype: torch.dtype):
        self._copy = None if dtype == base.dtype else copy.deepcopy(base).to(dtype)  # type: ignore[arg-type]

    @property
    def is_copy(self) -> bool:
        return self._copy is not None

    @torch.no_grad()
    def prepare(self, policy: PeftModel) -> PreTrainedModel:
        """Return the model to sample with, which answers as `policy` does now."""
        if self._copy is None:
            return policy  # type: ignore[return-value]
        self._copy.to(policy.device)  # type: ignore[arg-type]
        for name, module in policy.get_base_model().named_modules():
            if hasattr(module, "get_delta_weight") and "default" in module.lora_A:  # type: ignore[operator]
                target: Any = self._copy.get_submodule(name)
                layer: Any = module.base_layer
                target.weight.copy_(layer.weight.float() + module.get_delta_weight("default").float())  # type: ignore[operator]
        return self._copy


class StateRecorder:
    """The last hidden states that tokens were sampled from, kept while `sample_tokens` runs inside it.

    Args:
        model: None: nothing is kept.
    """

    def __init__(self, model: Any | None):
        self._model, self._newest = model, torch.empty(0)
        self._kept = list[tuple[list[int], int, Tensor]]()

    def __enter__(self) -> StateRecorder:
        if self._model is not None:
            layer: nn.Module = self._model.get_output_embeddings()
            self._hook = layer.register_forward_pre_hook(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._model is not None:
            self._hook.remove()

    def _hear(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._newest = inputs[0][:, -1].detach()

    def keep(self, rows: Tensor, step: int, places: Tensor | None) -> None:
        """Keep the states of the newest pass: see `decoding.OnPass`."""
        if self._model is not None:
            self._kept.append((rows.tolist(), step, self._newest if places is None else self._newest[places]))

    def read(self, rows: int, width: int) -> Tensor | None:
        """Return states (rows, width, hidden), one before each token, zero after a row ends; None if none were kept."""
        if not self._kept:
            return None
        newest = self._kept[-1][-1]
        states = newest.new_zeros((rows, width, newest.shape[-1]))
        for numbers, step, of_pass in self._kept:
            if step < width:
                states[numbers, step] = of_pass
        return states
