"""The default backbone as it comes with the package: how it renders text, and the features of the bundled answers.

So a first reward model is trained, evaluated and used for routing without a download. Everything else is read with the
model itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NoReturn

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.errors import NotFound
from rlhf_hitl.models import is_fetched
from rlhf_hitl.reward.views import FeatureView

FEATURES_FILE = "features.safetensors"
#: What renders text and says how large the model is; its weights are elsewhere.
DESCRIPTION_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class ReaderFolder:
    """Where a backbone's configuration and tokenizer are, and perhaps its weights."""

    path: Path
    has_weights: bool = True

    @cached_property
    def weights_hash(self) -> str:
        from rlhf_hitl.reward.pretrained import hash_weights

        return hash_weights(self.path) if self.has_weights else BundledFeatures.open().weights_hash


def is_bundled_only(name: str) -> bool:
    """Whether a backbone is the default one and was not fetched: the package describes it."""
    return name == DEFAULT_MODEL and not is_fetched(name)


def locate_reader(name: str) -> ReaderFolder:
    """Return the folder of a backbone. The default one is described by the package where it was not fetched.

    Raises:
        BadInput, NotFound: as `locate_full_model`.
    """
    from rlhf_hitl.reward.pretrained import locate_full_model

    if is_bundled_only(name):
        return ReaderFolder(_get_folder(), has_weights=False)
    return ReaderFolder(locate_full_model(name))


def refuse_to_read_without_weights(name: str) -> NoReturn:
    raise NotFound(
        f"model {name!r} to read answers that are not in the bundled set",
        expected="a model that was fetched: features of the bundled answers alone come with the package",
        fix=f"run `rlhf-hitl models get {name}` (once, 93 to 270 MB)",
    )


class BundledFeatures:
    """Features in 8 bits by key, as `FeatureCache` computes keys.

    A feature is `low + step * byte`, with `low` and `step` of its view and dimension over the whole set.
    """

    def __init__(self, file: Path):
        opened = safe_open(file, framework="numpy")
        about: dict[str, str] = opened.metadata()
        self.weights_hash = about["weights_hash"]
        self._views = [FeatureView(layer, pooling) for layer, pooling in json.loads(about["views"])]
        self._rows = {key: i for i, key in enumerate(json.loads(about["keys"]))}
        self._bytes, self._low, self._step = (opened.get_tensor(name) for name in ("bytes", "low", "step"))

    @classmethod
    def open(cls) -> BundledFeatures:
        return cls(_get_folder() / FEATURES_FILE)

    def has_views(self, views: Sequence[FeatureView]) -> bool:
        return set(views) <= set(self._views)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def read(self, key: str, views: Sequence[FeatureView]) -> np.ndarray:
        """Return the features of one conversation, (views, width of one view) float32."""
        at = [self._views.index(view) for view in views]
        return self._low[at] + self._step[at] * self._bytes[self._rows[key]][at]


def open_bundled_features(weights_hash: str, views: Sequence[FeatureView]) -> BundledFeatures | None:
    """Return the bundled features if they are those of a model with these weights, read in these views."""
    if not (_get_folder() / FEATURES_FILE).is_file():
        return None
    bundled = BundledFeatures.open()
    return bundled if bundled.weights_hash == weights_hash and bundled.has_views(views) else None


def write_bundled_features(
    file: Path, keys: Sequence[str], features: np.ndarray, views: Sequence[FeatureView], weights_hash: str
) -> None:
    """Write features (n, views, width of one view) by key, in 8 bits."""
    low, high = features.min(0), features.max(0)
    step = np.maximum(high - low, 1e-12) / 255
    about = {
        "weights_hash": weights_hash,
        "views": json.dumps([(view.layer, view.pooling) for view in views]),
        "keys": json.dumps(list(keys)),
    }
    tensors = {"bytes": np.rint((features - low) / step).astype(np.uint8), "low": low, "step": step}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, file, metadata=about)


def _get_folder() -> Path:
    # The package is installed as files: `transformers` reads a tokenizer from a folder.
    return Path(str(resources.files("rlhf_hitl.bundled"))) / "reader"
