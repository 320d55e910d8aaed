"""The floors a reward model has to beat: the longer (or shorter) answer, and a bag of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_hitl.labels.label_models import LabelModel
from rlhf_hitl.reward.labelled_pairs import LabelledPair, load_labelled_pairs
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split


def load_pairs_of_other_prompts(
    store: Store, split: Split, families: np.ndarray, label_model: LabelModel
) -> list[LabelledPair]:
    """Return a split's labels of other prompts than these: a floor must not be fitted to the labels it predicts."""
    excluded = set(families.tolist())
    return [p for p in load_labelled_pairs(store, split, label_model) if p.comparison.prompt.family not in excluded]


def find_length_direction(train: Sequence[LabelledPair]) -> float:
    """Return 1 where raters of these labels prefer the longer answer, -1 where they prefer the shorter more often."""
    decided = [p for p in train if p.label.preferred is not None]
    truth = np.array([1.0 if p.label.preferred == p.label.first else -1.0 for p in decided])
    longer = np.sign(
        measure_completion_lengths([p.first for p in decided]) - measure_completion_lengths([p.second for p in decided])
    )
    return -1.0 if (longer * truth).sum() < 0 else 1.0


def predict_bag_of_words_margins(train: Sequence[LabelledPair], pairs: Sequence[LabelledPair]) -> np.ndarray | None:
    """Return margins (n,) of a Bradley-Terry model on hashed word counts, fitted to `train`; None if that is empty."""
    from scipy.sparse import csr_array, vstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    train = [p for p in train if p.label.preferred is not None]
    if len(train) < 2:
        return None
    vectoriser = HashingVectorizer(n_features=2**16, alternate_sign=False, norm="l2", lowercase=True)

    def count_words(labelled: Sequence[LabelledPair], side: str) -> csr_array:
        texts = (" ".join(m.read_all_text() for m in getattr(p, side).completion) for p in labelled)
        return csr_array(vectoriser.transform(texts))

    def differences(labelled: Sequence[LabelledPair]) -> csr_array:
        return count_words(labelled, "first") - count_words(labelled, "second")

    x = differences(train)
    y = np.array([1 if p.label.preferred == p.label.first else -1 for p in train])
    # Each pair in both orders: without an intercept it is the same model, and both classes always occur.
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(vstack([x, -x]), np.concatenate([y, -y]))
    return model.decision_function(differences(pairs))
