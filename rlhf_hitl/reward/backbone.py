"""A language model read as a feature extractor: hidden states of chosen layers, pooled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from rlhf_hitl.models import DEFAULT_PRECISION, load_config, load_processor, load_tokenizer, resolve_dtype
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS
from rlhf_hitl.reward.bundled_reader import locate_reader, refuse_to_read_without_weights
from rlhf_hitl.reward.rendering import RenderedConversation, Renderer
from rlhf_hitl.reward.views import FeatureView, parse_layers, parse_poolings
from rlhf_hitl.reward.vision import VisionReader

if TYPE_CHECKING:
    from rlhf_hitl.reward.extractor import FeatureExtractor


class Backbone:
    """A language model read as a feature extractor. The model is loaded when the first features are computed.

    Args:
        name: a local folder, a hub id or the name of a fetched model.
        layer: number of transformer layers to run, or a negative number counted from the last; or several of them. All
            layers also take the final norm, as a sequence classifier does.
        pooling: one of POOLINGS or several; `score` for a sequence classifier, which has its last layer's view only.
        dtype: "auto" takes bfloat16 where the hardware multiplies it natively and float32 elsewhere.

    Every layer in every pooling is a view, and the features are those of all views, side by side. Without `layer` the
    model is read at half, two thirds and five sixths of its layers: there a frozen decoder's
    states predict preferences best. Without `pooling` it is read in both poolings.

    Features are float32 and do not depend on the batch, up to rounding.
    """

    def __init__(
        self,
        name: str,
        *,
        layer: int | Sequence[int] | None = None,
        pooling: str | Sequence[str] | None = None,
        max_length: int = DEFAULT_MAX_TOKENS,
        dtype: str = DEFAULT_PRECISION,
    ):
        from rlhf_hitl.reward.pretrained import find_max_tokens  # torch

        self.name = name
        self._folder = locate_reader(name)
        config = load_config(self._folder.path)
        text_config = config.get_text_config()
        self.layers, self.poolings = parse_layers(name, layer, text_config.num_hidden_layers), parse_poolings(pooling)
        self.views = tuple(FeatureView(at, how) for at in self.layers for how in self.poolings)
        self.width = text_config.hidden_size * len(self.views)
        self.dtype = resolve_dtype(dtype)
        processor: Any = load_processor(self._folder.path)
        tokenizer = load_tokenizer(self._folder.path, chats=False) if processor is None else processor.tokenizer
        vision = None if processor is None else VisionReader(processor)
        self.renderer = Renderer(tokenizer, min(max_length, find_max_tokens(config)), vision)

    @property
    def weights_hash(self) -> str:
        """The digest of the model's configuration and weights."""
        return self._folder.weights_hash

    @property
    def fingerprint(self) -> str:
        """Identifies all that the features of a conversation depend on: the model, its precision, the views, the
        rendering of chats and where they are cut."""
        rendering = f"{self.renderer.max_length}:{self.renderer.template}"
        views = ":".join(map(self.fingerprint_view, self.views))
        return hashlib.sha256(f"{views}:{rendering}".encode()).hexdigest()[:20]

    def fingerprint_view(self, view: FeatureView) -> str:
        """Identifies what the features of given tokens in one view depend on."""
        # The text is part of the ids of saved models and of the folders of cached features: it must not change.
        text = f"View(layer={view.layer!r}, pooling={view.pooling!r}):{self.dtype}:{self.weights_hash}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def settings(self) -> dict:
        """The arguments that make the same backbone again. Model cards keep them."""
        return {
            "name": self.name,
            "layer": list(self.layers),
            "pooling": list(self.poolings),
            "max_length": self.renderer.max_length,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The model in memory.

        Raises:
            NotFound: only the description of the model came with the package, not its weights.
        """
        if not self._folder.has_weights:
            refuse_to_read_without_weights(self.name)
        from rlhf_hitl.reward.extractor import FeatureExtractor

        return FeatureExtractor(self._folder.path, self.views, self.renderer, self.dtype)

    def compute(self, rendered: Sequence[RenderedConversation], bar: tqdm | None = None) -> np.ndarray:
        """Return the features of conversations, (n, views, width of one view) float32.

        `bar` advances by one for each conversation.
        """
        return self.extractor.compute(rendered, bar)
