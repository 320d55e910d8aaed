"""Which prompts a reward model has learnt from. An evaluation leaves those out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically

SEEN_PROMPTS_FILE = "prompts_seen.json"


@dataclass(frozen=True)
class SeenPrompts:
    """The prompts a model has seen in training, by family (`types.hash_prompt_family`).

    Attributes:
        train: families whose labels moved the model's weights or uncertainty.
        calibration: families whose labels set its temperature.
        is_complete: False if the model was trained before on prompts that are not recorded.
    """

    train: frozenset[str]
    calibration: frozenset[str]
    is_complete: bool = True

    @classmethod
    def of(cls, train: Iterable[str], calibration: Iterable[str] = (), *, is_complete: bool = True) -> SeenPrompts:
        """Make a record from any iterables of families."""
        return cls(frozenset(train), frozenset(calibration), is_complete)

    def __or__(self, other: SeenPrompts) -> SeenPrompts:
        return SeenPrompts(
            self.train | other.train, self.calibration | other.calibration, self.is_complete and other.is_complete
        )

    def may_include(self, family: str) -> bool:
        """Whether a prompt may be one that moved the model's weights: all may, where the record is not complete."""
        return not self.is_complete or family in self.train

    def save(self, folder: Path) -> None:
        """Write the record beside the model's card, atomically."""
        record = {"train": sorted(self.train), "calibration": sorted(self.calibration), "whole": self.is_complete}
        write_text_atomically(folder / SEEN_PROMPTS_FILE, json.dumps(record))

    @classmethod
    def load(cls, folder: Path) -> SeenPrompts | None:
        """Return the record of a saved model; None if it has none. Raises BadInput where it cannot be read."""
        path = folder / SEEN_PROMPTS_FILE
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_bytes())
            families = map(str, record["train"]), map(str, record["calibration"])
            return cls.of(*families, is_complete=bool(record["whole"]))
        except (ValueError, LookupError, TypeError) as e:
            raise BadInput(str(path), expected="the prompts the model has seen", fix="train the model again") from e


def find_prompts_seen_before(name: str) -> SeenPrompts:
    """Return the prompts whose preferences a model has learnt before it is trained here or read by a head.

    A model with a record gives that record. A language model has learnt none. For a classifier that others trained it
    is unknown.
    """
    from rlhf_hitl.reward.bundled_reader import locate_reader
    from rlhf_hitl.reward.pretrained import is_sequence_classifier  # torch

    path = locate_reader(name).path
    return SeenPrompts.load(path) or SeenPrompts.of((), is_complete=not is_sequence_classifier(path))
