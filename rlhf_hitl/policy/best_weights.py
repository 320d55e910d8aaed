"""The trainable weights of the best step of a tuning, so that a tuning that is stopped can go back to them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

#: The file of a checkpoint with the weights of the best step.
BEST_WEIGHTS = "best.safetensors"


class BestWeights:
    """A copy of a model's trainable weights, in the memory of the CPU: an adapter is small."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._kept: dict[str, Tensor] = {}

    def keep(self) -> None:
        """Copy the weights as they are now."""
        self._kept = {name: p.detach().cpu().clone() for name, p in self._trainable()}

    def restore(self) -> bool:
        """Put the kept weights back. Returns whether there were any."""
        with torch.no_grad():
            for name, parameter in self._trainable():
                if name in self._kept:
                    parameter.copy_(self._kept[name])
        return bool(self._kept)

    def save(self, folder: Path) -> None:
        if self._kept:
            save_file({name: tensor.contiguous() for name, tensor in self._kept.items()}, folder / BEST_WEIGHTS)

    def load(self, folder: Path) -> None:
        if (folder / BEST_WEIGHTS).is_file():
            self._kept = load_file(folder / BEST_WEIGHTS)

    def _trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
