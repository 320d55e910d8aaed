"""The reward model: one rendering and one scoring function for every part that asks what an answer is worth.

A reward model is a backbone that turns a conversation into features, and a head that turns features into a reward
with an uncertainty. The backends differ only in who trained the backbone: nobody (`head`), or TRL (`full`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file
from rlhf_hitl.models import display_name
from rlhf_hitl.reward import model_card as cards
from rlhf_hitl.reward.features import Backbone, FeatureCache
from rlhf_hitl.reward.head import Head, Standardiser
from rlhf_hitl.reward.model_card import CARD
from rlhf_hitl.reward.rendering import Conversation, conversations
from rlhf_hitl.reward.seen_prompts import Seen
from rlhf_hitl.types import Comparison, Score

WEIGHTS = "reward_head.safetensors"


class RewardModel:
    """Scores conversations. Make one with `reward.train`, or `load` one from its folder."""

    def __init__(self, cache: FeatureCache, standardiser: Standardiser, head: Head, *, backend: str, card: dict):
        self.cache, self.standardiser, self.head, self.backend, self.card = cache, standardiser, head, backend, card
        self.seen: Seen | None = None  # None: nobody has kept which prompts it learnt from

    @property
    def id(self) -> str:
        """Named by all that its scores depend on: the same training and calibration give the same id."""
        digest = hashlib.sha256(self.cache.backbone.fingerprint.encode())
        for _, tensor in sorted(self._tensors().items()):
            digest.update(tensor.tobytes())
        return f"m_{digest.hexdigest()[:24]}"

    def inputs(self, chats: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """(n, d) inputs of the head."""
        return self.standardiser(self.cache.features(chats, keep=keep), lengths(chats))

    def rewards(self, chats: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """(n,) float32 rewards in logits. `keep=False` leaves their features off the disk (for fresh rollouts).

        Raises:
            BadInput: one is no finite number.
        """
        rewards = self.head.rewards(self.inputs(chats, keep=keep)).astype(np.float32)
        if not np.isfinite(rewards).all():
            at = int(np.flatnonzero(~np.isfinite(rewards))[0])
            text = " ".join(m.content for m in chats[at][1])[:60]
            raise BadInput(f"reward {rewards[at]} of {text!r}", expected="a finite number", fix="train the model again")
        return rewards

    def differences(self, first: Sequence[Conversation], second: Sequence[Conversation]) -> np.ndarray:
        """(n, d) inputs of the first less those of the second."""
        both = [*first, *second]
        return self.standardiser.differences(self.cache.features(both), lengths(both))

    def margins(
        self, first: Sequence[Conversation], second: Sequence[Conversation]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """reward(first) - reward(second), its uncertainty and P(first preferred), each (n,)."""
        margins, stds = self.head.margins(self.differences(first, second))
        return margins, stds, self.head.probabilities(margins, stds)

    def score(self, comparisons: Iterable[Comparison]) -> Iterator[Score]:
        """What the model says of each comparison. Streams: any number of comparisons in a flat memory."""
        rest, name = iter(comparisons), self.id
        while chunk := list(islice(rest, 512)):
            inputs = self.inputs([chat for c in chunk for chat in conversations(c)])
            start = 0
            for comparison in chunk:
                stop = start + len(comparison.completions)
                yield self._score(comparison, inputs[start:stop], name)
                start = stop

    def _score(self, comparison: Comparison, inputs: np.ndarray, name: str) -> Score:
        rewards = self.head.rewards(inputs)
        best, second = np.argsort(-rewards, kind="stable")[:2]
        margin, std = self.head.margins((inputs[best] - inputs[second])[None])
        if not np.isfinite([*rewards, margin[0], std[0]]).all():
            raise BadInput(
                f"reward of comparison {comparison.id}", expected="a finite number", fix="train the reward model again"
            )
        ids = [c.id for c in comparison.completions]
        return Score(
            comparison_id=comparison.id,
            reward_model_id=name,
            chosen=ids[best],
            rejected=ids[second],
            margin=float(margin[0]),
            uncertainty=float(std[0]),
            probability=float(self.head.probabilities(margin, std)[0]),
            rewards={i: float(r) for i, r in zip(ids, rewards)},
        )

    def save(self, folder: Path) -> None:
        """Write the head and its card into a folder (a full model's backbone is there already). Whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / WEIGHTS) as draft:
            save_file(self._tensors(), draft)
        backbone = self.cache.backbone.settings
        base = {"base": display_name(backbone["name"])}  # what people call it; a full model's training knows better
        if self.backend == "full":
            backbone |= {"name": "."}  # it lies beside the card, wherever the folder is moved to
        known = {"id": self.id, "backend": self.backend, "backbone": backbone}
        if self.seen is not None:
            self.seen.save(folder)
        cards.write(folder, base | self.card | known)

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {
            "mean": self.standardiser.mean,
            "axes": self.standardiser.axes,
            "weights": self.head.weights,
            "covariance": self.head.covariance,
            "length": np.array([self.standardiser.length_mean, self.standardiser.length_std]),
            "temperature": np.array([self.head.temperature]),
            "precisions": np.array(self.head.precisions),
            "thresholds": np.array(self.head.thresholds),
            "mass": np.array([self.head.mass]),
        }
        return {k: np.ascontiguousarray(v, np.float64) for k, v in tensors.items()}


def load(folder: Path | str, cache_folder: Path | None = None) -> RewardModel:
    """A saved reward model. Features go to `cache_folder`, by default `features/` beside the model's folder.

    Raises:
        NotFound: no reward model there.
        BadInput: it is damaged, or its backbone is not the one it was trained on.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise NotFound(
            f"reward model {folder}", expected=f"a folder with {CARD}", fix="train one with `rlhf-hitl train-reward`"
        )
    try:
        card = json.loads((folder / CARD).read_text())
        t = load_file(folder / WEIGHTS)
        settings, backend, saved = dict(card["backbone"]), str(card["backend"]), str(card["id"])
        standardiser = Standardiser(t["mean"], t["axes"], *t["length"].tolist())
        (temperature,), (mass,) = t["temperature"].tolist(), t["mass"].tolist()
        precisions, thresholds = tuple(t["precisions"].tolist()), tuple(t["thresholds"].tolist())
        head = Head(t["weights"], t["covariance"], precisions, temperature, thresholds, mass)
    except (ValueError, LookupError, TypeError, FileNotFoundError, SafetensorError) as e:
        raise BadInput(
            f"reward model {folder}",
            expected=f"a whole {CARD} and {WEIGHTS} of this version ({type(e).__name__}: {str(e)[:80]})",
            fix="train it again",
        ) from e
    if backend == "full":
        settings["name"] = str(folder)
    backbone = Backbone(**settings)
    if t["mean"].shape != (backbone.width,):
        raise BadInput(
            f"reward model {folder}",
            expected=f"a backbone with {t['mean'].shape[0]} features, got {backbone.width} from {settings['name']}",
            fix="give the backbone it was trained on",
        )
    cache = FeatureCache(cache_folder or folder.parent / "features", backbone)
    model = RewardModel(cache, standardiser, head, backend=backend, card=card)
    if model.id != saved:
        raise BadInput(
            f"reward model {folder} with backbone {settings['name']}",
            expected="the very backbone it was trained on: this one has other weights, settings or chat template",
            fix="put the backbone back, or train again on this one",
        )
    model.seen = Seen.load(folder)
    return model


def lengths(chats: Sequence[Conversation]) -> np.ndarray:
    """(n,) characters of each completion."""
    return np.array([sum(len(m.content) for m in completion) for _, completion in chats], dtype=np.float64)
