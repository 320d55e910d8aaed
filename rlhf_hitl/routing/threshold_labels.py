"""The labels that tested a threshold, as they are kept beside the reward model: pages draw the threshold curve of them
without loading a model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.routing.threshold import Threshold, choose_threshold
from rlhf_hitl.types import utc_now

LABELS_FILE = "threshold_labels.json"


@dataclass(frozen=True)
class ThresholdLabels:
    """The labels on which a model was tested when it last routed, and how that was asked for.

    Attributes:
        confidence: (n,) of the model's own choice.
        wrong: (n,) 1 where raters prefer the other.
        prompts: (n,) the number of each label's prompt.
        out_of_fold: how many of them, the last ones, are training labels that heads out of fold predicted.
        max_error, delta: the bound that was asked for, before what a lead demands.
        elsewhere: the share of what is accepted that is taken to be unlike these labels (`elsewhere.Bar`).
        checked_share: of what would be accepted, the share that raters judge all the same: controls and audits.
        bar: what is more uncertain is never accepted (`elsewhere.Bar`), in logits; infinite where nothing is.
    """

    confidence: np.ndarray
    wrong: np.ndarray
    prompts: np.ndarray
    out_of_fold: int
    max_error: float
    delta: float
    checked_share: float
    at: datetime
    elsewhere: float = 0.0
    bar: float = math.inf

    @property
    def calibration(self) -> int:
        """How many are calibration labels."""
        return len(self.wrong) - self.out_of_fold

    def choose_threshold(self, max_error: float | None = None, *, forecasts: bool = False) -> Threshold:
        """Return the threshold that they support under a bound, by default the one that was asked for."""
        return choose_threshold(
            self.confidence,
            self.wrong,
            self.prompts,
            max_error=self.max_error if max_error is None else max_error,
            delta=self.delta,
            out_of_fold=self.out_of_fold,
            elsewhere=self.elsewhere,
            forecasts=forecasts,
        )


def make_threshold_labels(
    tested: Sequence[tuple[float, bool, str]],
    *,
    out_of_fold: int,
    max_error: float,
    delta: float,
    checked_share: float,
    elsewhere: float = 0.0,
    bar: float = math.inf,
) -> ThresholdLabels:
    """Return labels, each (confidence, whether it is wrong, its prompt), as they are kept; out of fold last."""
    confidence, wrong, prompts = zip(*tested) if tested else ((), (), ())
    numbers = np.unique(np.array(prompts, str), return_inverse=True)[1]
    arrays = np.array(confidence, float), np.array(wrong, float), numbers
    return ThresholdLabels(*arrays, out_of_fold, max_error, delta, checked_share, utc_now(), elsewhere, bar)


def save_threshold_labels(folder: Path, tested: ThresholdLabels) -> None:
    """Write them beside the model's card."""
    arrays = {name: getattr(tested, name).tolist() for name in ("confidence", "wrong", "prompts")}
    # JSON has no infinity.
    plain = vars(tested) | arrays | {"at": tested.at.isoformat(), "bar": tested.bar if tested.bar < math.inf else None}
    write_text_atomically(folder / LABELS_FILE, json.dumps(plain))


def load_threshold_labels(folder: Path) -> ThresholdLabels | None:
    """Return the labels that were kept beside a model; None where it has not routed yet."""
    try:
        plain = json.loads((folder / LABELS_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    arrays = {name: np.array(plain[name], float) for name in ("confidence", "wrong")}
    arrays["prompts"] = np.array(plain["prompts"], int)
    bar = math.inf if plain.get("bar") is None else plain["bar"]
    return ThresholdLabels(**plain | arrays | {"at": datetime.fromisoformat(plain["at"]), "bar": bar})
