"""The confidence above which the model may decide alone, with a bound on its errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.intervals import clustered_share_upper_bound
from rlhf_hitl.wording import say_count

#: The shares of the calibration labels at which the search begins and by which it goes on. They are fixed beforehand.
#: Starting with the surest few would waste the test: one unlucky label among thirty ends it.
FIRST_SHARE, NEXT_SHARE = 1 / 5, 1 / 20


@dataclass(frozen=True)
class Threshold:
    """Comparisons are accepted where confidence >= `value`; above 1, none is.

    Attributes:
        bound: the error among the accepted is below it, with probability 1 - `delta` over the calibration labels.
        accepted, errors: calibration labels at or above `value`, and those among them on which the model is wrong.
        calibration, prompts: number of calibration labels, and of the prompts that they are about.
    """

    value: float
    bound: float
    accepted: int
    errors: int
    calibration: int
    prompts: int
    max_error: float
    delta: float

    @property
    def accepts_nothing(self) -> bool:
        return self.value > 1

    @property
    def reason(self) -> str:
        if not self.accepts_nothing:
            return (
                f"confidence of {self.value:.3f} or more: error below {self.bound:.1%} with {1 - self.delta:.0%} "
                f"confidence; wrong on {self.errors:,} of {say_count(self.accepted, 'such calibration label')} "
                f"({say_count(self.calibration, 'label')} on {say_count(self.prompts, 'prompt')} in all)"
            )
        needed = count_prompts_needed(self.max_error, self.delta)
        if self.prompts < needed:
            return (
                f"accepts nothing: calibration labels on {say_count(self.prompts, 'prompt')}, {needed} prompts are the "
                "fewest that can show it"
            )
        return f"accepts nothing: no confidence keeps the error below {self.max_error:.1%} on the calibration labels"


def count_prompts_needed(max_error: float, delta: float) -> int:
    """Return how many prompts, with a label each and none wrong, it takes to show an error below `max_error`."""
    n = max(2, math.ceil(math.log(delta) / math.log(1 - max_error)))
    while clustered_share_upper_bound(np.zeros(n), np.arange(n), delta) > max_error:
        n += 1
    return n


def choose_threshold(
    confidence: np.ndarray, wrong: np.ndarray, prompts: np.ndarray, *, max_error: float, delta: float
) -> Threshold:
    """Return the lowest threshold at which the error among the accepted is shown to be below `max_error`.

    Fixed-sequence testing (Angelopoulos et al. 2021, "Learn then test"): sets of the most confident labels, growing in
    steps fixed in advance, are each tested at level `delta` with a bound that allows for several labels of one prompt,
    and the first failure ends the search. So a threshold that breaks the bound is chosen with a probability of at most
    `delta`, for any model.

    Args:
        confidence: (n,) probability of the model's own choice, on calibration labels.
        wrong: (n,) 1 where the raters prefer the other, 0 where they agree.
        prompts: (n,) the prompt of each label: labels of one prompt are not independent.
    """
    order = np.argsort(-confidence, kind="stable")
    c, e, of = np.asarray(confidence, float)[order], np.asarray(wrong, float)[order], np.asarray(prompts)[order]
    n = len(c)
    _, first_labels = np.unique(of, return_index=True)
    best = Threshold(math.inf, 1.0, 0, 0, n, len(first_labels), max_error, delta)
    needed = count_prompts_needed(max_error, delta)
    if len(first_labels) < needed:
        return best
    # The smallest set that could pass, and a fifth of the labels: neither depends on which labels are wrong.
    smallest = int(np.sort(first_labels)[needed - 1]) + 1
    steps = [*range(max(smallest, math.ceil(FIRST_SHARE * n)), n, max(1, round(NEXT_SHARE * n))), n]
    # A threshold cannot separate equal confidences, so every set is extended to the end of its last one.
    for size in dict.fromkeys(int(np.searchsorted(-c, -c[step - 1], side="right")) for step in steps):
        bound = clustered_share_upper_bound(e[:size], of[:size], delta)
        if bound > max_error:
            break
        best = Threshold(float(c[size - 1]), bound, size, int(e[:size].sum()), n, len(first_labels), max_error, delta)
    return best
