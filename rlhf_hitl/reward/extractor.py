"""Runs a backbone's model: from rendered conversations to the pooled hidden states of its views."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from rlhf_hitl.models import find_best_device, load_config, load_pretrained
from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.batching import batch_by_length, batch_by_prompt
from rlhf_hitl.reward.fused_decoder import fuse_decoder, plant_forest
from rlhf_hitl.reward.pretrained import find_score_head, silence_loading_report, uses_token_type_ids
from rlhf_hitl.reward.rendering import RenderedConversation, Renderer
from rlhf_hitl.reward.views import SCORE_POOLING, FeatureView

#: A batch: the indices of its conversations, and by layer the states (tokens, width) of each of them.
BatchStates = tuple[list[int], dict[int, list[torch.Tensor]]]

T = TypeVar("T")
R = TypeVar("R")

#: Held while threads compute side by side: torch's number of threads is one for the whole process.
_cores = threading.Lock()


class FeatureExtractor:
    """A model in memory, cut after the last layer that is read.

    Where the model supports prompt trees, a prompt that several conversations share is computed once. Elsewhere each
    conversation runs alone on a CPU (batching gains nothing there), and with its padding masked on a GPU. On a CPU,
    decoders of a known kind run fused, a batch on each core.

    Attributes:
        fused: the decoder that runs instead of the model; None for the model itself.
    """

    def __init__(self, folder: Path, views: Sequence[FeatureView], renderer: Renderer, dtype: torch.dtype):
        from transformers import AutoModel, AutoModelForSequenceClassification

        self._views, self._renderer = tuple(views), renderer
        self._layers = {view.layer for view in views}
        last = max(self._layers)
        self._device = torch.device(find_best_device())
        reads_score = {view.pooling for view in views} == {SCORE_POOLING}
        config = load_config(folder)
        with silence_loading_report():
            model = load_pretrained(
                AutoModelForSequenceClassification if reads_score else AutoModel, folder, dtype=dtype
            )
        self.model = model.to(self._device).eval()
        self._score_inputs: list[torch.Tensor] = []
        if reads_score:
            find_score_head(self.model)[1].register_forward_pre_hook(
                lambda _, inputs: self._score_inputs.append(inputs[0])
            )
        self._uses_token_types = uses_token_type_ids(renderer, config)
        of_text = config.get_text_config()
        is_truncated = last < of_text.num_hidden_layers and hasattr(self.model, "layers")
        if is_truncated:  # later layers are not needed, so they do not run
            self.model.layers = self.model.layers[:last]
            self.model.norm = torch.nn.Identity()
        # The layer whose states the model returns.
        self._output_layer = last if is_truncated or last == of_text.num_hidden_layers else None
        self._width = of_text.hidden_size
        reads_images = renderer.vision is not None
        self.supports_trees = not reads_score and not reads_images and shared_prefix.supports_trees(self.model)
        self.fused = fuse_decoder(self.model) if self.supports_trees and self._device.type == "cpu" else None
        # Tokens in one forward pass. A CPU gains nothing from rows side by side, and a little from long ones.
        self.token_budget = 16_384 if self._device.type != "cpu" else 2048 if self.supports_trees else 1

    def compute(self, rendered: Sequence[RenderedConversation], bar: tqdm | None = None) -> np.ndarray:
        """Return the features of conversations, (n, views, width of one view) float32.

        `bar` advances by one for each conversation.
        """
        features = np.empty((len(rendered), len(self._views), self._width), dtype=np.float32)
        for batch, rows in self._compute_rows(rendered):
            features[batch] = rows
            if bar is not None:
                bar.update(len(batch))
        return features

    def _compute_rows(self, rendered: Sequence[RenderedConversation]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the features of all conversations batch by batch, the longest first; those with images come last."""
        if with_images := [i for i, r in enumerate(rendered) if r.conversation is not None]:
            without = [i for i, r in enumerate(rendered) if r.conversation is None]
            for batch, rows in self._compute_rows([rendered[i] for i in without]) if without else ():
                yield [without[i] for i in batch], rows
            for i in with_images:
                yield self._pool(([i], self._compute_with_images(rendered[i])), rendered)
            return
        if self.fused is not None:
            yield from map_on_cores(
                lambda trees: self._pool(self._compute_fused(rendered, trees), rendered),
                batch_by_prompt(rendered, self.token_budget // 2),
            )
            return
        for states in (self._compute_in_trees if self.supports_trees else self._compute_padded)(rendered):
            yield self._pool(states, rendered)

    def _pool(
        self, batch_states: BatchStates, rendered: Sequence[RenderedConversation]
    ) -> tuple[list[int], np.ndarray]:
        batch, states = batch_states
        pooled = []
        for j, i in enumerate(batch):
            for view in self._views:
                tokens = states[view.layer][j]
                pooled_over = tokens[rendered[i].start :] if view.pooling == "mean" else tokens[-1:]
                pooled.append(pooled_over.float().mean(0))
        return batch, torch.stack(pooled).view(len(batch), len(self._views), -1).cpu().numpy()

    def _compute_fused(self, rendered: Sequence[RenderedConversation], trees: list[list[int]]) -> BatchStates:
        assert self.fused is not None
        forest = plant_forest([[rendered[i].ids for i in tree] for tree in trees], self.model.dtype)
        states = self.fused.run(forest, self._layers)
        return [i for tree in trees for i in tree], {
            at: [of_layer[path] for path in forest.paths] for at, of_layer in states.items()
        }

    def _compute_in_trees(self, rendered: Sequence[RenderedConversation]) -> Iterator[BatchStates]:
        for trees in batch_by_prompt(rendered, self.token_budget):
            packed = shared_prefix.pack_trees([[rendered[i].ids for i in tree] for tree in trees])
            inputs = shared_prefix.build_model_inputs(
                self.model, packed.ids.to(self._device), packed.positions.to(self._device), packed.trees
            )
            paths = [path.to(self._device) for path in packed.paths()]
            states = self._run(inputs)
            yield (
                [i for tree in trees for i in tree],
                {at: [of[0, path] for path in paths] for at, of in states.items()},
            )

    def _compute_padded(self, rendered: Sequence[RenderedConversation]) -> Iterator[BatchStates]:
        for batch in batch_by_length([len(r.ids) for r in rendered], self.token_budget):
            rows = [torch.tensor(rendered[i].ids) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._renderer.pad_id)
            positions = torch.arange(ids.shape[1])[None]
            mask = positions < torch.tensor([len(r) for r in rows])[:, None]
            inputs = {"input_ids": ids, "attention_mask": mask.long()}
            if self._uses_token_types:
                starts = torch.tensor([rendered[i].start for i in batch])[:, None]
                inputs["token_type_ids"] = mask & (positions >= starts)
            states = self._run({name: value.long().to(self._device) for name, value in inputs.items()})
            yield batch, {at: [row[: len(r)] for row, r in zip(of, rows)] for at, of in states.items()}

    def _compute_with_images(self, rendered: RenderedConversation) -> dict[int, list[torch.Tensor]]:
        renderer, c = self._renderer, rendered.conversation
        assert renderer.vision is not None
        assert c is not None
        end = renderer.tokenizer.convert_ids_to_tokens(renderer.eos_id)
        inputs, _ = renderer.vision.encode_conversation(c.prompt, c.completion, c.tools, end=end)
        states = self._run(
            {
                name: value.to(self._device, self.model.dtype if value.is_floating_point() else None)
                for name, value in inputs.items()
            }
        )
        return {at: [of[0]] for at, of in states.items()}

    @torch.inference_mode()
    def _run(self, inputs: dict[str, Any]) -> dict[int, torch.Tensor]:
        """Return the states (rows, tokens, width) after each layer that is read. What a score head reads is one token a
        row."""
        layers = self._layers
        outputs = self.model(**inputs, output_hidden_states=layers != {self._output_layer})
        if self._score_inputs:
            return dict.fromkeys(layers, self._score_inputs.pop()[:, None])
        return {
            at: outputs.last_hidden_state if at == self._output_layer else outputs.hidden_states[at] for at in layers
        }


def map_on_cores(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the function of each item in their order, computed side by side in as many threads as torch uses.

    Each thread computes on one core, so that batches do not wait for each other at each operation, as the threads of
    one operation do; fewer items than cores share them out. At most two results a thread wait to be taken.
    """
    with _cores:
        cores = torch.get_num_threads()
        threads = min(cores, len(items))
        if threads < 2:
            yield from map(function, items)
            return
        waiting: deque[Future[R]] = deque()
        pool = ThreadPoolExecutor(threads, "extract", torch.set_num_threads, (cores // threads,))
        try:
            left = iter(items)
            waiting.extend(pool.submit(function, item) for item in islice(left, 2 * threads))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # which the threads of the pool have set for all threads to come
