"""Replay: a reward model against what raters said of held-out prompts, with two floors it has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.aggregate import labels
from rlhf_hitl.reward.data import LabelledPair, data_hash, labelled_pairs
from rlhf_hitl.reward.evaluation import Bin, Evaluation, Example, Share
from rlhf_hitl.reward.model import RewardModel, lengths
from rlhf_hitl.stats.calibration import calibration_error_interval, equal_bins, expected_calibration_error
from rlhf_hitl.stats.intervals import clustered
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split, utc_now

FEWEST = 10  # labels of a slice that is shown
MOST = 30  # slices of a kind


def evaluate(
    model: RewardModel,
    store: Store,
    *,
    split: Split = Split.HELDOUT,
    trained_on: Store | None = None,
    name: str = "",
) -> tuple[Evaluation, list[Example]]:
    """Replay a split's labels.

    Args:
        store: where the replayed labels are.
        trained_on: the store the model was trained from, where that is another: its training prompts are left out, and
            the bag-of-words floor is trained there.
        name: of the evaluation; by default the split's.

    Returns:
        What was found, and every label with what the model says of it, ties too, in order of comparison id.

    Raises:
        BadInput: no label with a preference in the split.
    """
    every = labels(store, split=split)
    usable = labelled_pairs(store, split)
    learnt = trained_families(trained_on) if trained_on is not None else set()
    pairs = [p for p in usable if p.comparison.prompt.family not in learnt]
    decided = np.array([p.label.preferred is not None for p in pairs], bool)
    if not decided.any():
        raise BadInput(
            f"{split.value} split of {store.safe_url}: {len(every)} labels",
            expected="at least one with a preference",
            fix="import a preference set or rate comparisons of held-out prompts"
            + (f" ({len(usable) - len(pairs)} are of prompts the model was trained on)" if learnt else ""),
        )
    first, second = [p.first for p in pairs], [p.second for p in pairs]
    margins, stds, probabilities = model.margins(first, second)
    # A tie is told from its first side.
    truth = np.array([-1.0 if p.label.preferred == p.label.second else 1.0 for p in pairs])
    found = [_example(p, *values) for p, *values in zip(pairs, margins, stds, probabilities, truth)]

    families = np.array([p.comparison.prompt.family for p in pairs])
    clusters = families[decided]
    right = _right(margins * truth)[decided]
    longer = _right((lengths(first) - lengths(second)) * truth)[decided]
    asked = [p for p, has in zip(pairs, decided) if has]
    words = bag_of_words_margins(labelled_pairs(trained_on or store, Split.TRAIN), asked)
    confidence = np.maximum(probabilities, 1 - probabilities)[decided]
    ece_low, ece_high = calibration_error_interval(confidence, right, clusters)
    evaluation = Evaluation(
        name=name or split.value,
        reward_model_id=model.id,
        created_at=utc_now().isoformat(timespec="seconds"),
        data_hash=data_hash(pairs),
        n=len(asked),
        ties=len(pairs) - len(asked),
        dropped=len(every) - len(usable),
        trained_on=len(usable) - len(pairs),
        accuracy=_share(right, clusters),
        longer=_share(longer, clusters),
        bag_of_words=None if words is None else _share(_right(words * truth[decided]), clusters),
        ece=expected_calibration_error(confidence, right),
        ece_low=ece_low,
        ece_high=ece_high,
        reliability=tuple(
            Bin(float(confidence[i].mean()), _share(right[i], clusters[i])) for i in equal_bins(confidence)
        ),
        slices=_slices([e for e in found if not e.is_tie]),
        noise_ceiling=None,
        simulated=any(p.label.simulated for p in pairs) or bool(model.card.get("simulated")),
    )
    return evaluation, found


def _example(pair: LabelledPair, margin: float, std: float, probability: float, truth: float) -> Example:
    label, comparison = pair.label, pair.comparison
    sides = [comparison.completion(i) for i in (label.first, label.second)]
    chosen, rejected = sides if truth > 0 else sides[::-1]
    first, tie, second = label.probabilities
    tags = dict(comparison.prompt.tags) | ({"subset": comparison.batch} if comparison.batch else {})
    return Example(
        comparison_id=comparison.id,
        prompt_id=comparison.prompt.id,
        family=comparison.prompt.family,
        prompt=comparison.prompt.messages,
        chosen=chosen.messages,
        rejected=rejected.messages,
        chosen_id=chosen.id,
        rejected_id=rejected.id,
        chosen_policy=chosen.policy,
        rejected_policy=rejected.policy,
        votes=label.votes,
        agreement=(first if truth > 0 else second) / (first + second) if tie < 1 else 0.5,
        margin=float(margin * truth),
        uncertainty=float(std),
        probability=float(probability if truth > 0 else 1 - probability),
        correct=None if label.preferred is None else float(_right(np.array(margin * truth))),
        tags=tags,
    )


def _slices(decided: Sequence[Example]) -> dict[str, dict[str, Share]]:
    """Accuracy by each tag that tells examples apart; values with the most labels first."""
    out: dict[str, dict[str, Share]] = {}
    for by in sorted({tag for e in decided for tag in e.tags}):
        groups: dict[str, list[Example]] = {}
        for e in decided:
            if by in e.tags:
                groups.setdefault(e.tags[by], []).append(e)
        large = [value for value in groups if len(groups[value]) >= FEWEST]
        if len(groups) > 1 and large:
            large.sort(key=lambda value: (-len(groups[value]), value))
            out[by] = {value: _accuracy(groups[value]) for value in large[:MOST]}
    return out


def _accuracy(examples: Sequence[Example]) -> Share:
    return _share(np.array([e.correct for e in examples], float), np.array([e.family for e in examples]))


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


def _share(values: np.ndarray, clusters: np.ndarray) -> Share:
    low, high = clustered(values, clusters)
    return Share(float(values.mean()), low, high, len(values))
