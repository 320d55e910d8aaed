"""Two models on the same labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.evaluation_record import Difference, Example, Share
from rlhf_hitl.stats.intervals import clustered_mean_interval
from rlhf_hitl.stats.paired import mcnemar_p_value

Key = tuple[str, str, str]


def compare(ours: Iterable[Example], theirs: Iterable[Example], against: str) -> Difference:
    """A model less another, on the labels that both have replayed and raters prefer the same side of.

    Equal rewards are half right; McNemar's test counts who has more of a label right.

    Args:
        against: what the other is called.

    Raises:
        BadInput: they share no label.
    """
    known = _decided(theirs)
    pairs = [(example, known[key]) for key, example in _decided(ours).items() if key in known]
    if not pairs:
        raise BadInput(
            f"{against}: none of its labels are among those replayed",
            expected="an evaluation on the same labels",
            fix="evaluate both models on the same split or file",
        )
    gains = np.array([(a.correct or 0.0) - (b.correct or 0.0) for a, b in pairs])
    return difference(gains, np.array([a.family for a, _ in pairs]), against)


def difference(gains: np.ndarray, families: np.ndarray, against: str) -> Difference:
    """Of labels (n,), one or more: how much more of each a model has right than the other, and its prompt's family."""
    low, high = clustered_mean_interval(gains, families)
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    share = Share(float(gains.mean()), low, high, len(gains))
    return Difference(against, len(gains), better, worse, mcnemar_p_value(better, worse), share)


def _decided(examples: Iterable[Example]) -> dict[Key, Example]:
    return {(e.comparison_id, e.chosen_id, e.rejected_id): e for e in examples if not e.is_tie}
