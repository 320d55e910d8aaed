"""A language model read as a feature extractor: hidden states of chosen layers, pooled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import (
    DEFAULT_PRECISION,
    find_best_device,
    load_config,
    load_pretrained,
    load_tokenizer,
    resolve_dtype,
)
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS, shared_prefix
from rlhf_hitl.reward.batching import batch_by_length, batch_by_prompt
from rlhf_hitl.reward.pretrained import (
    find_max_tokens,
    find_score_head,
    hash_weights,
    locate_full_model,
    silence_loading_report,
    uses_token_type_ids,
)
from rlhf_hitl.reward.rendering import RenderedConversation, Renderer

POOLINGS = ("last", "mean")
SCORE_POOLING = "score"  # reads what the score head of a sequence classifier reads

#: A batch: the indices of its conversations, and by layer the states (tokens, width) of each of them.
BatchStates = tuple[list[int], dict[int, list[torch.Tensor]]]


@dataclass(frozen=True)
class FeatureView:
    """Where a backbone is read: the hidden states after `layer`, pooled.

    The pooling `last` takes the state at the conversation's EOS, `mean` the average over the completion's tokens, and
    `score` what the score head of a sequence classifier reads.
    """

    layer: int
    pooling: str


class Backbone:
    """A language model read as a feature extractor.

    Args:
        name: a local folder, a hub id or the name of a fetched model.
        layer: number of transformer layers to run, or a negative number counted from the last; or several of them. All
            layers also take the final norm, as a sequence classifier does.
        pooling: one of POOLINGS or several; `score` for a sequence classifier, which has its last layer's view only.
        dtype: "auto" takes bfloat16 where the hardware multiplies it natively and float32 elsewhere.

    Every layer in every pooling is a view, and the features are those of all views, side by side. Without `layer` the
    model is read at half, two thirds and five sixths of its layers: there a frozen decoder's
    states predict preferences best. Without `pooling` it is read in both poolings.

    Features are float32 and do not depend on the batch, up to rounding. Where the model supports prompt trees, a prompt
    that several conversations share is computed once. Elsewhere each conversation runs alone on a CPU (batching gains
    nothing there), and with its padding masked on a GPU.
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
        from transformers import AutoModel, AutoModelForSequenceClassification

        self.name = name
        path = locate_full_model(name)
        config = load_config(path)
        depth = config.num_hidden_layers
        self.layers, self.poolings = _parse_layers(name, layer, depth), _parse_poolings(pooling)
        self.views = tuple(FeatureView(at, how) for at in self.layers for how in self.poolings)
        last = max(self.layers)
        self.device = torch.device(find_best_device())
        self.dtype = resolve_dtype(dtype)
        reads_score = self.poolings == (SCORE_POOLING,)
        with silence_loading_report():
            model = load_pretrained(
                AutoModelForSequenceClassification if reads_score else AutoModel, path, dtype=self.dtype
            )
        self.renderer = Renderer(load_tokenizer(path, chats=False), min(max_length, find_max_tokens(model)))
        self._model = model.to(self.device).eval()
        self._score_inputs: list[torch.Tensor] = []
        if reads_score:
            find_score_head(self._model)[1].register_forward_pre_hook(
                lambda _, inputs: self._score_inputs.append(inputs[0])
            )
        self._uses_token_types = uses_token_type_ids(self.renderer, config)
        is_truncated = last < depth and hasattr(self._model, "layers")
        if is_truncated:  # later layers are not needed, so they do not run
            self._model.layers = self._model.layers[:last]
            self._model.norm = torch.nn.Identity()
        # The layer whose states the model returns.
        self._output_layer = last if is_truncated or last == depth else None
        self.supports_trees = not reads_score and shared_prefix.supports_trees(self._model)
        # Tokens in one forward pass. A CPU gains nothing from rows side by side, and a little from long ones.
        self.token_budget = 16_384 if self.device.type != "cpu" else 2048 if self.supports_trees else 1
        self.width = config.hidden_size * len(self.views)
        self._weights_hash = hash_weights(path)

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
        text = f"View(layer={view.layer!r}, pooling={view.pooling!r}):{self.dtype}:{self._weights_hash}"
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

    def compute(self, rendered: Sequence[RenderedConversation], bar: tqdm | None = None) -> np.ndarray:
        """Return the features of conversations, (n, views, width of one view) float32.

        `bar` advances by one for each conversation.
        """
        views = self.views
        features = np.empty((len(rendered), len(views), self.width // len(views)), dtype=np.float32)
        for batch, states in self._compute_states(rendered, set(self.layers)):
            pooled = []
            for j, i in enumerate(batch):
                for view in views:
                    tokens = states[view.layer][j]
                    pooled_over = tokens[rendered[i].start :] if view.pooling == "mean" else tokens[-1:]
                    pooled.append(pooled_over.float().mean(0))
            features[batch] = torch.stack(pooled).view(len(batch), len(views), -1).cpu().numpy()
            if bar is not None:
                bar.update(len(batch))
        return features

    def _compute_states(self, rendered: Sequence[RenderedConversation], layers: set[int]) -> Iterator[BatchStates]:
        """Yield the states of all conversations batch by batch, the longest first."""
        return (self._compute_in_trees if self.supports_trees else self._compute_padded)(rendered, layers)

    def _compute_in_trees(self, rendered: Sequence[RenderedConversation], layers: set[int]) -> Iterator[BatchStates]:
        for trees in batch_by_prompt(rendered, self.token_budget):
            packed = shared_prefix.pack_trees([[rendered[i].ids for i in tree] for tree in trees])
            inputs = shared_prefix.build_model_inputs(
                self._model, packed.ids.to(self.device), packed.positions.to(self.device), packed.trees
            )
            paths = [path.to(self.device) for path in packed.paths()]
            states = self._run(inputs, layers)
            yield [i for tree in trees for i in tree], {at: [states[at][0, path] for path in paths] for at in layers}

    def _compute_padded(self, rendered: Sequence[RenderedConversation], layers: set[int]) -> Iterator[BatchStates]:
        for batch in batch_by_length([len(r.ids) for r in rendered], self.token_budget):
            rows = [torch.tensor(rendered[i].ids) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.renderer.pad_id)
            positions = torch.arange(ids.shape[1])[None]
            mask = positions < torch.tensor([len(r) for r in rows])[:, None]
            inputs = {"input_ids": ids, "attention_mask": mask.long()}
            if self._uses_token_types:
                starts = torch.tensor([rendered[i].start for i in batch])[:, None]
                inputs["token_type_ids"] = mask & (positions >= starts)
            states = self._run({name: value.long().to(self.device) for name, value in inputs.items()}, layers)
            yield batch, {at: [row_states[: len(r)] for row_states, r in zip(states[at], rows)] for at in layers}

    @torch.inference_mode()
    def _run(self, inputs: dict[str, Any], layers: set[int]) -> dict[int, torch.Tensor]:
        """Return the states (rows, tokens, width) after each of some layers. What a score head reads is one token a
        row."""
        outputs = self._model(**inputs, output_hidden_states=layers != {self._output_layer})
        if self._score_inputs:
            return dict.fromkeys(layers, self._score_inputs.pop()[:, None])
        return {
            at: outputs.last_hidden_state if at == self._output_layer else outputs.hidden_states[at] for at in layers
        }


def _parse_layers(name: str, layer: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if layer is None:
        return tuple(sorted({max(1, round(depth * share)) for share in (1 / 2, 2 / 3, 5 / 6)}))
    requested = [layer] if isinstance(layer, int) else layer
    layers = tuple(at if at > 0 else depth + 1 + at for at in requested)
    if not layers or not all(0 < at <= depth for at in layers):
        raise BadInput(f"layer {layer}", expected=f"1 to {depth} for {name}", fix="choose a layer the model has")
    return layers


def _parse_poolings(pooling: str | Sequence[str] | None) -> tuple[str, ...]:
    poolings = POOLINGS if pooling is None else (pooling,) if isinstance(pooling, str) else tuple(pooling)
    if poolings != (SCORE_POOLING,) and not (poolings and set(poolings) <= set(POOLINGS)):
        raise BadInput(f"pooling {pooling!r}", expected=" or ".join(POOLINGS), fix="choose one of these")
    return poolings
