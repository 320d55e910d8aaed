"""The features of a frozen backbone: computed once per conversation and kept on disk."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rlhf_hitl.config import load_settings
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.batching import group_by_prompt
from rlhf_hitl.reward.bundled_reader import open_bundled_features
from rlhf_hitl.reward.feature_store import FeatureStore, remove_least_recently_used
from rlhf_hitl.reward.rendering import Conversation, RenderedConversation, UnshownCounts
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

WRITE_EVERY = 64  # conversations computed between two writes to disk


class FeatureCache:
    """Features of a backbone on disk, one `FeatureStore` for each view. Processes share what they compute.

    The key covers the tokens and the backbone, so that another template, layer, precision or weight never meets a stale
    row.

    Args:
        max_gb: size of the whole folder, `RLHF_HITL_FEATURES_GB` by default. Beyond it the least recently used rows are
            removed.
    """

    def __init__(self, folder: Path, backbone: Backbone, max_gb: float | None = None):
        self.root, self.backbone = folder, backbone
        self.max_gb = load_settings().features_gb if max_gb is None else max_gb
        self.stores = [FeatureStore(folder / backbone.fingerprint_view(view)) for view in backbone.views]
        self._bundled = open_bundled_features(backbone.weights_hash, backbone.views)
        # Keys of conversations that lost prompt or completion tokens, whether their features were on disk or not.
        self._prompts_cut: set[str] = set()
        self._completions_cut: set[str] = set()
        #: What the chat template left out of the conversations met so far.
        self.unshown = UnshownCounts()
        self._lock = threading.Lock()  # a server asks from several threads

    @property
    def dropped(self) -> int:
        """How many conversations met so far lost tokens of their prompt."""
        return len(self._prompts_cut)

    @property
    def cut(self) -> int:
        """How many conversations met so far lost tokens of their completion."""
        return len(self._completions_cut)

    def features(
        self, conversations: Sequence[Conversation], *, keep: bool = True, purpose: str = "features"
    ) -> np.ndarray:
        """Return the features of conversations, (n, width) float32.

        What is not on disk is computed, in one pass for all views, and written to disk unless `keep` is False.
        `purpose` is the name of the progress bar.
        """
        with self._lock:
            return self._features(conversations, keep, purpose)

    def _features(self, conversations: Sequence[Conversation], keep: bool, purpose: str) -> np.ndarray:
        rendered = [self.backbone.renderer.render(c) for c in conversations]
        keys = [self.make_key(r) for r in rendered]
        self.unshown.add(conversations, rendered)
        for store in self.stores:
            store.refresh()
        missing = {k: r for k, r in zip(keys, rendered) if not self._has(k)}
        self._prompts_cut |= {k for k, r in zip(keys, rendered) if r.dropped}
        self._completions_cut |= {k for k, r in zip(keys, rendered) if r.cut}
        if any(r.dropped or r.cut for r in missing.values()):
            limit = self.backbone.renderer.max_length
            prompts, completions = say_count(self.dropped, "prompt"), say_count(self.cut, "completion")
            log.info("%s and %s cut to %d tokens", prompts, completions, limit)
        features = np.empty((len(keys), len(self.stores), self.backbone.width // len(self.stores)), np.float32)
        for row, key in zip(features, keys):
            if key not in missing:  # read now: while the others are computed, another process may remove it
                row[:] = self._read(key)
        to_compute = [k for siblings in group_by_prompt(missing) for k in siblings]
        computed: dict[str, np.ndarray] = {}
        what = f"{purpose}, read by {Path(self.backbone.name).name}"
        with tqdm(total=len(to_compute), desc=what, unit="completion", disable=len(to_compute) < 8) as bar:
            for start in range(0, len(to_compute), WRITE_EVERY):  # so that an interrupted run keeps what it computed
                part = to_compute[start : start + WRITE_EVERY]
                rows = self.backbone.compute([missing[k] for k in part], bar)
                computed |= zip(part, rows)
                for j, store in enumerate(self.stores if keep else []):
                    store.write(part, np.ascontiguousarray(rows[:, j]))
        for row, key in zip(features, keys):
            if key in computed:
                row[:] = computed[key]
        if keep:
            for store in self.stores:
                store.mark_used(keys)
            if to_compute:
                remove_least_recently_used(self.root, self.max_gb * 1e9)
        return features.reshape(len(keys), self.backbone.width)

    def are_read(self, conversations: Sequence[Conversation]) -> np.ndarray:
        """Return whose features are at hand, (n,) bool: those of the others would have to be computed."""
        with self._lock:
            for store in self.stores:
                store.refresh()
            keys = [self.make_key(self.backbone.renderer.render(c)) for c in conversations]
            return np.array([self._has(key) for key in keys], bool)

    @staticmethod
    def make_key(rendered: RenderedConversation) -> str:
        digest = hashlib.sha256(np.array([rendered.start, *rendered.ids]).tobytes())
        digest.update("".join(rendered.image_ids).encode())
        return digest.hexdigest()[:32]

    def _has(self, key: str) -> bool:
        return (self._bundled is not None and key in self._bundled) or all(key in store for store in self.stores)

    def _read(self, key: str) -> np.ndarray | list[np.ndarray]:
        """Return the features of a key that it has, (views, width of one view)."""
        if self._bundled is not None and key in self._bundled:
            return self._bundled.read(key, self.backbone.views)
        return [store[key] for store in self.stores]
