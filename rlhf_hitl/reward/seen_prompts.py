"""Which prompts a reward model has learnt from: replayed on those, it would be asked what it was told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.models import load_config
from rlhf_hitl.reward.features import whole_model

SEEN = "prompts_seen.json"


@dataclass(frozen=True)
class Seen:
    """Families (`types.hash_prompt_family`) of the prompts whose labels moved a model's weights or uncertainty
    (`train`), and of those whose labels set its temperature (`calibration`). Not `whole`: it was trained
    on others before, and nobody here knows on which."""

    train: frozenset[str]
    calibration: frozenset[str]
    whole: bool = True

    @classmethod
    def of(cls, train: Iterable[str], calibration: Iterable[str] = (), *, whole: bool = True) -> Seen:
        return cls(frozenset(train), frozenset(calibration), whole)

    def __or__(self, other: Seen) -> Seen:
        return Seen(self.train | other.train, self.calibration | other.calibration, self.whole and other.whole)

    def save(self, folder: Path) -> None:
        """Write the list beside the model's card, whole or not at all."""
        lists = {"train": sorted(self.train), "calibration": sorted(self.calibration), "whole": self.whole}
        write_text_atomically(folder / SEEN, json.dumps(lists))

    @classmethod
    def load(cls, folder: Path) -> Seen | None:
        """The list of a saved model; None where it has none. Raises BadInput where it cannot be read."""
        path = folder / SEEN
        if not path.is_file():
            return None
        try:
            lists = json.loads(path.read_bytes())
            return cls.of(map(str, lists["train"]), map(str, lists["calibration"]), whole=bool(lists["whole"]))
        except (ValueError, LookupError, TypeError) as e:
            raise BadInput(str(path), expected="the prompts the model has seen", fix="train the model again") from e


def seen_before(name: str) -> Seen:
    """Which prompts a model has learnt preferences of before it is trained here, or read by a head: what its list says,
    nothing of a language model, and nobody knows of a classifier of others."""
    path = whole_model(name)
    return Seen.load(path) or Seen.of((), whole=not is_classifier(path))


def is_classifier(path: Path) -> bool:
    """Whether a model's weights are those of a sequence classifier, whose score head others have trained."""
    return any(kind.endswith("ForSequenceClassification") for kind in load_config(path).architectures or [])
