"""Replay: a reward model against what raters said of held-out prompts, with the floors it has to beat."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.aggregate import read_labels
from rlhf_hitl.reward.evaluation import rewardbench
from rlhf_hitl.reward.evaluation.rewardbench import Ranked
from rlhf_hitl.reward.evaluation.slices import characters, share, slices
from rlhf_hitl.reward.evaluation_record import (
    Bin,
    Evaluation,
    Example,
    KWise,
    Length,
    Position,
    Share,
    ThreeWay,
)
from rlhf_hitl.reward.features import FeatureCache
from rlhf_hitl.reward.model import RewardModel, lengths
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.reward.seen_prompts import Seen
from rlhf_hitl.reward.training.labelled_pairs import LabelledPair, data_hash, labelled_pairs
from rlhf_hitl.stats import davidson
from rlhf_hitl.stats.calibration import calibration_error_interval, expected_calibration_error, split_into_equal_bins
from rlhf_hitl.stats.ceiling import estimate_noise_ceiling
from rlhf_hitl.stats.intervals import clustered_mean_interval
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Label, Split, utc_now

FEWEST_FOR_NU = 20  # calibration labels that say how readily people call a tie
TURNED = 32  # pairs computed anew in the other order


class NothingToReplay(BadInput):
    """No label with a preference that the model has not met."""


def evaluate(
    model: RewardModel,
    store: Store,
    *,
    split: Split = Split.HELDOUT,
    home: Store | None = None,
    name: str = "",
    format: str = "",
) -> tuple[Evaluation, list[Example]]:
    """Replay a split's labels. Of the held-out split those are left out of whose prompts the model has seen any label.

    Args:
        store: where the replayed labels are.
        home: the store whose labels teach the floors and how readily people call a tie, where that is another.
        name: of the evaluation; by default the split's.
        format: the labels came in; a benchmark's is also scored by its own rules.

    Returns:
        What was found, and every label with what the model says of it, ties too, in order of comparison id.

    Raises:
        BadInput: no label with a preference in the split, or a reward that is no number.
    """
    every = read_labels(store, split=split)
    usable = labelled_pairs(store, split)
    seen = model.seen or Seen.of((), whole=False)
    trained_on = [p for p in usable if p.comparison.prompt.family in seen.train]
    calibrated_on = [p for p in usable if p.comparison.prompt.family in seen.calibration - seen.train]
    met = seen.train | seen.calibration if split is Split.HELDOUT else frozenset()  # else it was asked for
    pairs = [p for p in usable if p.comparison.prompt.family not in met]
    decided = np.array([p.label.preferred is not None for p in pairs], bool)
    if not decided.any():
        raise NothingToReplay(
            f"{split.value} split of {store.safe_url}: {len(every)} labels",
            expected="at least one with a preference",
            fix="import a preference set or rate comparisons of held-out prompts"
            + (f" (the model has met the prompts of {len(usable) - len(pairs)})" if len(usable) > len(pairs) else ""),
        )
    first, second = [p.first for p in pairs], [p.second for p in pairs]
    margins, stds, probabilities = model.margins(first, second)
    if not np.isfinite(margins).all():
        bad = pairs[int(np.argmin(np.isfinite(margins)))].comparison.id
        raise BadInput(
            f"margin of comparison {bad}", expected="a finite number", fix="train or fetch the reward model again"
        )
    # A tie is told from its first side.
    truth = np.array([-1.0 if p.label.preferred == p.label.second else 1.0 for p in pairs])
    found = [_example(p, *values) for p, *values in zip(pairs, margins, stds, probabilities, truth)]

    families = np.array([p.comparison.prompt.family for p in pairs])
    clusters = families[decided]
    right = _right(margins * truth)[decided]
    longer = _right((lengths(first) - lengths(second)) * truth)[decided]
    asked = [p for p, has in zip(pairs, decided) if has]
    teaching, telling = (_of_others(home or store, s, families) for s in (Split.TRAIN, Split.CALIBRATION))
    words = bag_of_words_margins(teaching, asked)
    ranked = _ranked(model, pairs)
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
        trained_on=len(trained_on),
        accuracy=share(right, clusters),
        longer=share(longer, clusters),
        bag_of_words=None if words is None else share(_right(words * truth[decided]), clusters),
        ece=expected_calibration_error(confidence, right),
        ece_low=ece_low,
        ece_high=ece_high,
        reliability=tuple(
            Bin(float(confidence[i].mean()), share(right[i], clusters[i])) for i in split_into_equal_bins(confidence)
        ),
        slices=slices(found),
        noise_ceiling=_noise_ceiling(pairs, decided, families),
        simulated=any(p.label.simulated for p in pairs) or bool(model.card.get("simulated")),
        three_way=_three_way(
            model, telling if len(telling) >= FEWEST_FOR_NU else teaching, pairs, _logits(probabilities), families
        ),
        length=_length(found),
        position=_position(store, split, found, *_asymmetry(model, pairs)),
        k_wise=_k_wise(ranked),
        scores=rewardbench.scores(format, found, ranked),
        split=split.value,
        calibrated_on=len(calibrated_on),
        knows_its_prompts=seen.whole,
        shorter_wins=length_direction(teaching) < 0,
    )
    return evaluation, found


def _example(pair: LabelledPair, margin: float, std: float, probability: float, truth: float) -> Example:
    label, comparison = pair.label, pair.comparison
    sides = [comparison.find_completion(i) for i in (label.first, label.second)]
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
        strength=_strength(label),
    )


def _strength(label: Label) -> int | None:
    """What most of those who prefer a side and say how strongly say; of even ones the weaker."""
    much, clearly, slightly, again, third, last = label.strengths
    counts = {1: slightly + again, 2: clearly + third, 3: much + last}
    return max(counts, key=lambda s: counts[s]) if any(counts.values()) else None


def _noise_ceiling(pairs: Sequence[LabelledPair], decided: np.ndarray, families: np.ndarray) -> Share | None:
    shares = np.array([p.label.probabilities for p in pairs])
    votes = np.round(shares * np.array([[p.label.votes] for p in pairs]))
    found = estimate_noise_ceiling(votes[:, 0], votes[:, 2], decided, families)
    return None if found is None else Share(*found, n=int(decided.sum()))


def _three_way(
    model: RewardModel,
    known: Sequence[LabelledPair],
    pairs: Sequence[LabelledPair],
    margins: np.ndarray,
    families: np.ndarray,
) -> ThreeWay | None:
    """None where neither the labels known nor the replayed ones have a tie.

    Args:
        known: labels that say how readily people call a tie.
        margins: (n,) of `pairs`, in calibrated logits.
    """
    truth = np.array(
        [0 if p.label.preferred is None else 1 if p.label.preferred == p.label.first else -1 for p in pairs]
    )
    ties = np.array([p.label.probabilities[1] for p in known])
    if not known or not (ties.any() or (truth == 0).any()):
        return None
    *_, probabilities = model.margins([p.first for p in known], [p.second for p in known])
    nu = davidson.fit_nu(_logits(probabilities), ties)
    tied = davidson.is_tie_likeliest(margins, nu)
    # Where no tie is called, right as in accuracy: equal rewards by half, where there is a preference.
    right = np.where(tied, truth == 0, np.where(truth == 0, 0.0, _right(margins * truth)))
    commonest = max(float((truth == outcome).mean()) for outcome in (0, 1, -1))
    return ThreeWay(share(right, families), nu, int(tied.sum()), commonest)


def _length(found: Sequence[Example]) -> Length:
    """Over labels with a preference. The correlation takes every pair in both orders, as none is the first."""
    from scipy.stats import spearmanr

    decided = [e for e in found if not e.is_tie]
    margins = np.array([e.margin for e in decided])
    longer = np.array([characters(e.chosen) - characters(e.rejected) for e in decided], float)
    correlation = 0.0
    if margins.any() and longer.any():
        found_correlation: Any = spearmanr(np.r_[margins, -margins], np.r_[longer, -longer])
        correlation = float(found_correlation.statistic)
    return Length(share(_right(margins * longer), np.array([e.family for e in decided])), correlation)


def _asymmetry(model: RewardModel, pairs: Sequence[LabelledPair]) -> tuple[float, int]:
    """The most by which a margin changes with the order of the two, and of how many pairs. By features on disk it would
    be nothing of any model: the backbone reads the pairs twice more, the answers to a prompt in either order."""
    drawn = sorted(pairs, key=lambda p: compute_shuffle_key(p.comparison.id))[:TURNED]
    both = [p.first for p in drawn] + [p.second for p in drawn]
    one_way = list(dict.fromkeys(chat for p in drawn for chat in (p.first, p.second)))

    def margins(in_order: list[Conversation]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as nothing:
            computed = FeatureCache(Path(nothing), model.cache.backbone).features(in_order, keep=False)
        place = {chat: i for i, chat in enumerate(in_order)}
        rows = computed[[place[chat] for chat in both]]
        return model.head.margins(model.standardiser.differences(rows, lengths(both)))[0]

    return float(np.abs(margins(one_way) - margins(one_way[::-1])).max()), len(drawn)


def _position(store: Store, split: Split, found: Sequence[Example], asymmetry: float, pairs: int) -> Position:
    """From every counted vote that prefers one of a pair and knows the order they were shown in."""
    by_pair = {(e.comparison_id, frozenset((e.chosen_id, e.rejected_id))): e for e in found}
    rows: list[tuple[bool, float, str]] = []  # what was shown first was chosen; the model is with the vote; family
    for judgment in read_judgments(store, split=split, repeats=False):
        shown, ranking = judgment.order_shown, judgment.answer.ranking
        e = by_pair.get((judgment.comparison_id, frozenset(shown)))
        if e is None or judgment.surplus or len(ranking) != 2:
            continue
        [choice], _ = ranking
        margin = e.margin if choice == e.chosen_id else -e.margin
        rows.append((choice == shown[0], float(_right(np.array(margin))), e.family))
    if not rows:
        return Position(asymmetry, pairs)
    first, with_vote, families = (np.array(column) for column in zip(*rows))
    parts = [
        share(with_vote[chosen], families[chosen]) if (chosen := first == position).any() else None
        for position in (True, False)
    ]
    return Position(asymmetry, pairs, share(first.astype(float), families), *parts)


def _ranked(model: RewardModel, pairs: Sequence[LabelledPair]) -> list[Ranked]:
    """What raters and model make of every comparison of three or more completions.

    The raters' worth of a completion is its Borda count: the votes by which it beats each other one, ties halved.
    """
    worth: dict[str, dict[str, float]] = {}
    comparisons = {p.comparison.id: p.comparison for p in pairs if len(p.comparison.completions) > 2}
    for p in pairs:
        if p.comparison.id in comparisons:
            of = worth.setdefault(p.comparison.id, {})
            first, tie, second = (share * p.label.votes for share in p.label.probabilities)
            of[p.label.first] = of.get(p.label.first, 0.0) + first + tie / 2
            of[p.label.second] = of.get(p.label.second, 0.0) + second + tie / 2
    chats = [
        (c.prompt.messages, c.find_completion(i).messages) for c in comparisons.values() for i in worth[c.id]
    ]  # only of what somebody spoke of
    rewards = iter(model.rewards(chats).tolist()) if chats else iter(())
    return [
        Ranked(c, np.array(list(worth[c.id].values())), np.array([next(rewards) for _ in worth[c.id]]))
        for c in comparisons.values()
    ]


def _k_wise(ranked: Sequence[Ranked]) -> KWise | None:
    from scipy.stats import kendalltau

    if not (told := [r for r in ranked if np.ptp(r.worth) > 0]):
        return None
    families = np.array([r.comparison.prompt.family for r in told])
    best = share(np.array([r.best_of for r in told]), families)
    correlations: list[Any] = [kendalltau(r.worth, r.rewards, variant="b") for r in told]
    taus = np.array([float(c.statistic) for c in correlations])
    chance = float(np.mean([r.best.mean() for r in told]))
    known = np.isfinite(taus)  # undefined where the model's rewards are all equal
    if not known.any():
        return KWise(best, chance, None)
    low, high = clustered_mean_interval(taus[known], families[known])
    return KWise(best, chance, Share(float(taus[known].mean()), low, high, int(known.sum())))


def _of_others(home: Store, split: Split, families: np.ndarray) -> list[LabelledPair]:
    """The labels of a split that are of none of these prompts: what stands beside a model must not know the answers."""
    asked = set(families.tolist())
    return [p for p in labelled_pairs(home, split) if p.comparison.prompt.family not in asked]


def length_direction(train: Sequence[LabelledPair]) -> float:
    """1 where raters of these labels prefer the longer answer, -1 where they prefer the shorter more often."""
    told = [p for p in train if p.label.preferred is not None]
    truth = np.array([1.0 if p.label.preferred == p.label.first else -1.0 for p in told])
    longer = np.sign(lengths([p.first for p in told]) - lengths([p.second for p in told]))
    return -1.0 if (longer * truth).sum() < 0 else 1.0


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


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return logit(np.clip(probabilities, 1e-12, 1 - 1e-12))


def _right(signed: np.ndarray) -> np.ndarray:
    return np.where(signed == 0, 0.5, (signed > 0).astype(float))
