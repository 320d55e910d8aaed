"""Replay: a reward model against what raters said of held-out prompts, with two floors it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.aggregate import labels
from rlhf_hitl.reward.data import LabelledPair, labelled_pairs
from rlhf_hitl.reward.model import RewardModel, lengths
from rlhf_hitl.stats.calibration import expected_calibration_error
from rlhf_hitl.stats.intervals import clustered
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split


@dataclass(frozen=True)
class Accuracy:
    """A share over examples with its 95 % interval, examples of one prompt taken together. Equal rewards count half."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """`n` labels with a preference were replayed. Not in it: `ties`, labels `dropped` for want of a text, and, when a
    file is replayed, labels of prompts the model was `trained_on`."""

    reward_model_id: str
    n: int
    ties: int
    dropped: int
    trained_on: int
    accuracy: Accuracy
    longer: Accuracy
    bag_of_words: Accuracy | None
    ece: float
    simulated: bool
    examples: tuple[dict, ...] = ()

    @property
    def above_floors(self) -> bool:
        floors = [self.longer.value] + ([self.bag_of_words.value] if self.bag_of_words else [])
        return self.accuracy.value > max(floors)

    def as_dict(self, *, examples: bool = False) -> dict:
        out = asdict(self) | {"above_floors": self.above_floors}
        if not examples:
            del out["examples"]
        return out


def evaluate(
    model: RewardModel, store: Store, *, split: Split = Split.HELDOUT, trained_on: Store | None = None
) -> Evaluation:
    """Replay a split's labels.

    Args:
        store: where the replayed labels are.
        trained_on: the store the model was trained from, where that is another: its training prompts are left out, and
            the bag-of-words floor is trained there.

    Raises:
        BadInput: no label with a preference in the split.
    """
    every = labels(store, split=split)
    usable = labelled_pairs(store, split)
    learnt = trained_families(trained_on) if trained_on is not None else set()
    unseen = [p for p in usable if p.comparison.prompt.family not in learnt]
    pairs = [p for p in unseen if p.label.preferred is not None]
    if not pairs:
        raise BadInput(
            f"{split.value} split of {store.safe_url}: {len(every)} labels",
            expected="at least one with a preference",
            fix="import a preference set or rate comparisons of held-out prompts"
            + (f" ({len(usable) - len(unseen)} are of prompts the model was trained on)" if learnt else ""),
        )
    first, second = [p.first for p in pairs], [p.second for p in pairs]
    margins, stds, probabilities = model.margins(first, second)
    truth = np.array([1.0 if p.label.preferred == p.label.first else -1.0 for p in pairs])
    right = _right(margins * truth)
    clusters = np.array([p.comparison.prompt.family for p in pairs])
    longer = _right((lengths(first) - lengths(second)) * truth)
    words = bag_of_words_margins(labelled_pairs(trained_on or store, Split.TRAIN), pairs)
    confidence = np.maximum(probabilities, 1 - probabilities)
    return Evaluation(
        reward_model_id=model.id,
        n=len(pairs),
        ties=len(unseen) - len(pairs),
        dropped=len(every) - len(usable),
        trained_on=len(usable) - len(unseen),
        accuracy=_accuracy(right, clusters),
        longer=_accuracy(longer, clusters),
        bag_of_words=None if words is None else _accuracy(_right(words * truth), clusters),
        ece=expected_calibration_error(confidence, right),
        simulated=any(p.label.simulated for p in pairs) or bool(model.card.get("simulated")),
        examples=tuple(
            {
                "comparison_id": p.comparison.id,
                "prompt_id": p.comparison.prompt.id,
                "preferred": p.label.preferred,
                "votes": p.label.votes,
                # margin of the raters' choice over the other: below zero the model disagrees
                "margin": float(m * t),
                "uncertainty": float(s),
                "probability": float(q if t > 0 else 1 - q),
                "correct": float(r),
            }
            for p, m, s, q, t, r in zip(pairs, margins, stds, probabilities, truth, right)
        ),
    )


def trained_families(store: Store) -> set[str]:
    """Families of the prompts whose labels a model of this store learns from."""
    return {p.comparison.prompt.family for p in labelled_pairs(store, Split.TRAIN)}


def bag_of_words_margins(train: Sequence[LabelledPair], pairs: Sequence[LabelledPair]) -> np.ndarray | None:
    """Margins (n,) of a Bradley-Terry model on hashed word counts, trained on `train`; None without training labels."""
    from scipy.sparse import csr_array, vstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    train = [p for p in train if p.label.preferred is not None]
    if len(train) < 2:
        return None
    hashed = HashingVectorizer(n_features=2**16, alternate_sign=False, norm="l2", lowercase=True)

    def differences(some: Sequence[LabelledPair]) -> csr_array:
        def words(side: str) -> csr_array:
            texts = (" ".join(m.content for m in getattr(p, side)[1]) for p in some)
            return csr_array(hashed.transform(texts))

        return words("first") - words("second")

    x = differences(train)
    y = np.array([1 if p.label.preferred == p.label.first else -1 for p in train])
    # Both orders of each pair: without an intercept it is the same model, and both classes are always there.
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(vstack([x, -x]), np.concatenate([y, -y]))
    return model.decision_function(differences(pairs))


def _right(signed: np.ndarray) -> np.ndarray:
    return np.where(signed == 0, 0.5, (signed > 0).astype(float))


def _accuracy(right: np.ndarray, clusters: np.ndarray) -> Accuracy:
    low, high = clustered(right, clusters)
    return Accuracy(float(right.mean()), low, high)
