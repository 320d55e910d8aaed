"""A key-value cache that grows in place and gives up rows.

transformers' own concatenates at every token, which copies all that is kept. This one keeps room for some tokens more,
writes into it, and hands out what is filled.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

#: Tokens for which room is made at once.
ROOM = 64


class GrowingLayer(DynamicLayer):
    """The keys and values of one layer, (rows, heads, tokens, d), of which `_length` tokens are filled."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens, and return those of all tokens."""
        new = key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = _make_room(key_states, 0), _make_room(value_states, 0)
        if self._length + new > self._keys.shape[-2]:
            self._keys, self._values = _make_room(self._keys, new), _make_room(self._values, new)
        end = self._length + new
        self._keys[:, :, self._length : end] = key_states
        self._values[:, :, self._length : end] = value_states
        self._length = end
        self._show()
        return self.keys, self.values  # type: ignore[return-value]

    def get_seq_length(self) -> int:
        return self._length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows, in this order; one that is named several times is copied."""
        if self.is_initialized:
            self._keys, self._values = self._keys[indices], self._values[indices]
            self._show()

    def _show(self) -> None:
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]


def _make_room(states: torch.Tensor, new: int) -> torch.Tensor:
    """Return states with room for `new` tokens and some more after them."""
    rows, heads, tokens, d = states.shape
    roomy = states.new_empty((rows, heads, tokens + new + ROOM, d))
    roomy[:, :, :tokens] = states
    return roomy


def make_growing_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model; layers of other kinds (sliding windows) stay transformers' own."""
    cache = DynamicCache(config=config)
    if cache.layers:
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    else:
        cache.layer_class_to_replicate = GrowingLayer
    return cache
