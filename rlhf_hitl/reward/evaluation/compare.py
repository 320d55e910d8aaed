"""Compare two reward models on the labels that both were evaluated on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.evaluation_record import AccuracyDifference, Estimate, EvaluatedPair
from rlhf_hitl.stats.intervals import clustered_mean_interval
from rlhf_hitl.stats.paired import mcnemar_p_value

#: The ids of a label's comparison, of its chosen and of its rejected completion.
LabelKey = tuple[str, str, str]


def compare_evaluated_pairs(
    ours: Iterable[EvaluatedPair], theirs: Iterable[EvaluatedPair], against: str
) -> AccuracyDifference:
    """Return a model's accuracy less another's, on the labels with a preference that both were evaluated on.

    Equal rewards are half right; McNemar's test counts which model has more of a label right.

    Args:
        against: the name of the other model.

    Raises:
        BadInput: the two share no label.
    """
    their_pairs = _index_decided_pairs(theirs)
    shared = [(pair, their_pairs[key]) for key, pair in _index_decided_pairs(ours).items() if key in their_pairs]
    if not shared:
        raise BadInput(
            f"{against}: none of its labels were replayed",
            expected="an evaluation on the same labels",
            fix="evaluate both models on the same split or file",
        )
    gains = np.array([(a.correct or 0.0) - (b.correct or 0.0) for a, b in shared])
    return estimate_accuracy_difference(gains, np.array([a.family for a, _ in shared]), against)


def estimate_accuracy_difference(gains: np.ndarray, families: np.ndarray, against: str) -> AccuracyDifference:
    """Return the difference of two models on one label or more.

    Args:
        gains: (n,) how much more of each label the model has right than the other.
        families: (n,) the family of each label's prompt.
        against: the name of the other model.
    """
    low, high = clustered_mean_interval(gains, families)
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    accuracy = Estimate(float(gains.mean()), low, high, len(gains))
    return AccuracyDifference(against, len(gains), better, worse, mcnemar_p_value(better, worse), accuracy)


def _index_decided_pairs(pairs: Iterable[EvaluatedPair]) -> dict[LabelKey, EvaluatedPair]:
    return {(e.comparison_id, e.chosen_id, e.rejected_id): e for e in pairs if not e.is_tie}
