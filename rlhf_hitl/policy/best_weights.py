"""The trainable weights of the best step of a tuning, so that a tuning that is stopped can go back to them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

#: The file of a checkpoint with the weights of the best step.
BEST_WEIGHTS = "best.safetensors"


def copy_trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's trainable weights as they are now, in the memory of the CPU: an adapter is small."""
    return {name: p.detach().cpu().clone().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def set_trainable(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model trainable weights that `copy_trainable` returned."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])


class BestWeights:
    """A copy of a model's trainable weights: as they are when it is made, and then as of each call of `keep`."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.keep()

    def keep(self) -> None:
        """Copy the weights as they are now."""
        self._kept = copy_trainable(self.model)

    def restore(self) -> None:
        """Put the kept weights back."""
        set_trainable(self.model, self._kept)

    def save(self, folder: Path) -> None:
        save_file(self._kept, folder / BEST_WEIGHTS)

    def load(self, folder: Path) -> None:
        self._kept = load_file(folder / BEST_WEIGHTS)
