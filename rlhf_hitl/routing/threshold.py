"""The confidence above which the model may decide alone, with a bound on its errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.intervals import clopper_pearson_upper_bound


@dataclass(frozen=True)
class Threshold:
    """Comparisons are accepted where confidence >= `value`; above 1, none is.

    Attributes:
        bound: the error among the accepted is below it, with probability 1 - `delta` over the calibration labels.
        accepted, errors: calibration labels at or above `value`, and those among them on which the model is wrong.
        calibration: number of calibration labels.
    """

    value: float
    bound: float
    accepted: int
    errors: int
    calibration: int
    max_error: float
    delta: float

    @property
    def accepts_nothing(self) -> bool:
        return self.value > 1

    @property
    def reason(self) -> str:
        if not self.accepts_nothing:
            return (
                f"confidence of {self.value:.3f} or more: error below {self.bound:.3f} with {1 - self.delta:.0%} "
                f"confidence on {self.accepted} of {self.calibration} calibration labels"
            )
        needed = count_labels_needed(self.max_error, self.delta)
        if self.calibration < needed:
            return f"accepts nothing: {self.calibration} calibration labels, {needed} are the fewest that can show it"
        return f"accepts nothing: no confidence keeps the error below {self.max_error:.3f} on the calibration labels"


def count_labels_needed(max_error: float, delta: float) -> int:
    """Return how many labels, none of them wrong, it takes to show an error rate below `max_error`."""
    return math.ceil(math.log(delta) / math.log(1 - max_error))


def choose_threshold(confidence: np.ndarray, wrong: np.ndarray, *, max_error: float, delta: float) -> Threshold:
    """Return the lowest threshold at which the error among the accepted is shown to be below `max_error`.

    Fixed-sequence testing (Angelopoulos et al. 2021, "Learn then test"): sets of the most confident labels, growing in
    steps fixed in advance, are each tested with an exact binomial bound at level `delta`, and the first failure ends
    the search. So a threshold that breaks the bound is chosen with a probability of at most `delta`, for any model.

    Args:
        confidence: (n,) probability of the model's own choice, on calibration labels.
        wrong: (n,) 1 where the raters prefer the other, 0 where they agree; one label a prompt, so that the labels are
            as independent as the bound takes them to be.
    """
    order = np.argsort(-confidence, kind="stable")
    c, e = np.asarray(confidence, float)[order], np.asarray(wrong, float)[order]
    n = len(c)
    best = Threshold(math.inf, 1.0, 0, 0, n, max_error, delta)
    first = count_labels_needed(max_error, delta)
    steps = [*range(first, n + 1, max(1, n // 20)), n] if n >= first else []
    # A threshold cannot separate equal confidences, so every set is extended to the end of its last one.
    for size in dict.fromkeys(int(np.searchsorted(-c, -c[step - 1], side="right")) for step in steps):
        errors = int(e[:size].sum())
        bound = clopper_pearson_upper_bound(errors, size, delta)
        if bound > max_error:
            break
        best = Threshold(float(c[size - 1]), bound, size, errors, n, max_error, delta)
    return best
