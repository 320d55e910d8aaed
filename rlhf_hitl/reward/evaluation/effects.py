"""What else a reward model's margins depend on: ties, the length of the answers, the order of the two."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from rlhf_hitl.reward.evaluation.evaluated_pairs import score_correct
from rlhf_hitl.reward.evaluation.slices import estimate_mean
from rlhf_hitl.reward.evaluation_record import EvaluatedPair, LengthEffect, OrderEffect, ThreeWayAccuracy
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.labelled_pairs import LabelledPair
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.rendering import Conversation, count_characters, measure_completion_lengths
from rlhf_hitl.stats import davidson
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Role, Split

MAX_PAIRS_REVERSED = 32  # pairs that are computed anew in the other order


def measure_three_way_accuracy(
    model: RewardModel,
    fitting: Sequence[LabelledPair],
    pairs: Sequence[LabelledPair],
    probabilities: np.ndarray,
    families: np.ndarray,
) -> ThreeWayAccuracy | None:
    """Return the accuracy over three outcomes; None where neither the labels to fit on nor the evaluated ones have a
    tie.

    Args:
        fitting: other labels, which show how readily raters call a tie.
        probabilities: (n,) that the first of each of `pairs` is preferred.
    """
    truth = np.array(
        [0 if p.label.preferred is None else 1 if p.label.preferred == p.label.first else -1 for p in pairs]
    )
    ties = np.array([p.label.said[1] / sum(p.label.said) for p in fitting])
    if not fitting or not (ties.any() or (truth == 0).any()):
        return None
    *_, fitting_probabilities = model.margins([p.first for p in fitting], [p.second for p in fitting])
    nu = davidson.fit_nu(_compute_logits(fitting_probabilities), ties)
    margins = _compute_logits(probabilities)
    is_tie = davidson.is_tie_likeliest(margins, nu)
    # Where the model predicts no tie, equal rewards are half right about a preference, as in the accuracy.
    correct = np.where(is_tie, truth == 0, np.where(truth == 0, 0.0, score_correct(margins * truth)))
    commonest = max(float((truth == outcome).mean()) for outcome in (0, 1, -1))
    return ThreeWayAccuracy(estimate_mean(correct, families), nu, int(is_tie.sum()), commonest)


def measure_length_effect(pairs: Sequence[EvaluatedPair]) -> LengthEffect:
    """Measure the effect of length over labels with a preference. The correlation takes every pair in both orders, as
    neither of the two is the first."""
    from scipy.stats import spearmanr

    decided = [e for e in pairs if not e.is_tie]
    margins = np.array([e.margin for e in decided])
    longer = np.array([count_characters(e.chosen) - count_characters(e.rejected) for e in decided], float)
    correlation = 0.0
    if margins.any() and longer.any():
        spearman: Any = spearmanr(np.r_[margins, -margins], np.r_[longer, -longer])
        correlation = float(spearman.statistic)
    share = estimate_mean(score_correct(margins * longer), np.array([e.family for e in decided]))
    return LengthEffect(share, correlation)


def measure_order_effect(
    model: RewardModel,
    store: Store,
    split: Split,
    labelled: Sequence[LabelledPair],
    evaluated: Sequence[EvaluatedPair],
    *,
    check_model: bool,
) -> OrderEffect:
    """Measure the effect of order on every counted vote of a person that prefers one of a pair and knows the order in
    which the two were shown; with `check_model` also on the model, which reads some pairs twice more."""
    asymmetry, pairs = _measure_asymmetry(model, labelled) if check_model else (0.0, 0)
    by_sides = {(e.comparison_id, frozenset((e.chosen_id, e.rejected_id))): e for e in evaluated}
    votes: list[tuple[bool, float, str]] = []  # (first shown was chosen, model agrees with the vote, prompt's family)
    for judgment in read_judgments(store, split=split, repeats=False):
        shown, ranking = judgment.order_shown, judgment.answer.ranking
        pair = by_sides.get((judgment.comparison_id, frozenset(shown)))
        if pair is None or judgment.surplus or judgment.role is not Role.RATER or len(ranking) != 2:
            continue
        [choice], _ = ranking
        margin = pair.margin if choice == pair.chosen_id else -pair.margin
        votes.append((choice == shown[0], float(score_correct(np.array(margin))), pair.family))
    if not votes:
        return OrderEffect(asymmetry, pairs)
    chose_first, model_agrees, families = (np.array(column) for column in zip(*votes))
    agreement = [
        estimate_mean(model_agrees[chose], families[chose]) if (chose := chose_first == is_first).any() else None
        for is_first in (True, False)
    ]
    return OrderEffect(asymmetry, pairs, estimate_mean(chose_first.astype(float), families), *agreement)


def _measure_asymmetry(model: RewardModel, pairs: Sequence[LabelledPair]) -> tuple[float, int]:
    """Return the largest change of a margin with the order of the two, and the number of pairs tried.

    Cached features would never change, so the backbone reads the pairs twice more, with the answers to a prompt in
    either order.
    """
    drawn = sorted(pairs, key=lambda p: compute_shuffle_key(p.comparison.id))[:MAX_PAIRS_REVERSED]
    sides = [p.first for p in drawn] + [p.second for p in drawn]
    in_order = list(dict.fromkeys(chat for p in drawn for chat in (p.first, p.second)))

    def margins(chats: list[Conversation]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as empty_folder:
            computed = FeatureCache(Path(empty_folder), model.cache.backbone).features(
                chats, keep=False, purpose="check of order"
            )
        row = {chat: i for i, chat in enumerate(chats)}
        features = computed[[row[chat] for chat in sides]]
        return model.head.margins(model.standardiser.differences(features, measure_completion_lengths(sides)))[0]

    return float(np.abs(margins(in_order) - margins(in_order[::-1])).max()), len(drawn)


def _compute_logits(probabilities: np.ndarray) -> np.ndarray:
    return logit(np.clip(probabilities, 1e-12, 1 - 1e-12))
