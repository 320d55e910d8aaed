"""Accuracy by slice: on which pairs is a model good, and on which is it not?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rlhf_hitl.reward.evaluation_record import Estimate, EvaluatedPair
from rlhf_hitl.reward.rendering import count_characters
from rlhf_hitl.stats.intervals import clustered_share_interval

MIN_LABELS = 10  # a slice with fewer labels is not shown
MAX_SLICES = 30  # of one kind
STRENGTH_NAMES = {1: "slightly", 2: "clearly", 3: "much"}

#: (below, name) of the slices by confidence and by mean length of the two answers.
_CONFIDENCES = ((0.6, "under 0.6"), (0.7, "0.6 to 0.7"), (0.8, "0.7 to 0.8"), (0.9, "0.8 to 0.9"), (2, "0.9 or more"))
CONFIDENCE_NAMES = tuple(name for _, name in _CONFIDENCES)
_LENGTHS = ((250, "under 250"), (1000, "250 to 1000"), (4000, "1000 to 4000"), (float("inf"), "4000 or more"))


def compute_slice_accuracies(pairs: Sequence[EvaluatedPair]) -> dict[str, dict[str, Estimate]]:
    """Return kind → value → accuracy of the slices, the largest first. Ties are left out."""
    return {
        kind: {value: estimate_accuracy(group) for value, group in values.items()}
        for kind, values in group_into_slices(pairs).items()
    }


def group_into_slices(pairs: Sequence[EvaluatedPair]) -> dict[str, dict[str, list[EvaluatedPair]]]:
    """Return kind → value → the pairs without ties, for every kind that has more than one value; the largest slices
    come first.

    Kinds are the prompts' tags (without ids) and those of `describe_pair`.
    """
    groups: dict[str, dict[str, list[EvaluatedPair]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        if not pair.is_tie:
            tags = {k: v for k, v in pair.tags.items() if not k.endswith("id")}
            for kind, value in (describe_pair(pair) | tags).items():
                groups[kind][value].append(pair)
    slices: dict[str, dict[str, list[EvaluatedPair]]] = {}
    for kind, values in sorted(groups.items()):
        large = sorted((v for v in values if len(values[v]) >= MIN_LABELS), key=lambda v: (-len(values[v]), v))
        if len(values) > 1 and large:
            slices[kind] = {value: values[value] for value in large[:MAX_SLICES]}
    return slices


def describe_pair(pair: EvaluatedPair) -> dict[str, str]:
    """Return the kinds and values that any pair has: who wrote the answers, how long they and the conversation are, how
    far the raters agree and how confident the model is."""
    chosen, rejected = count_characters(pair.chosen), count_characters(pair.rejected)
    turns = sum(m.role == "user" for m in (*pair.prompt, *pair.chosen))
    confidence = max(pair.probability, 1 - pair.probability)
    values = {
        "policies": " / ".join(sorted({pair.chosen_policy, pair.rejected_policy})),
        "turns": "3 or more" if turns > 2 else str(turns),
        "length": f"{_find_range_name((chosen + rejected) / 2, _LENGTHS)} characters",
        "longer": "chosen" if chosen > rejected else "rejected" if chosen < rejected else "neither",
        "agreement": "one vote" if pair.votes == 1 else "unanimous" if pair.agreement == 1 else "split",
        "confidence": _find_range_name(confidence, _CONFIDENCES),
    }
    return values | ({"strength": STRENGTH_NAMES[pair.strength]} if pair.strength else {})


def estimate_accuracy(pairs: Sequence[EvaluatedPair]) -> Estimate:
    """Return the accuracy on pairs without ties."""
    return estimate_mean(np.array([e.correct for e in pairs], float), np.array([e.family for e in pairs]))


def estimate_mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Return the mean of values (n,) in [0, 1] with its interval over clusters (n,)."""
    low, high = clustered_share_interval(values, clusters)
    return Estimate(float(np.mean(values)), low, high, len(values))


def _find_range_name(value: float, ranges: Sequence[tuple[float, str]]) -> str:
    return next(name for below, name in ranges if value < below)
