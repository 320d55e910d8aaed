"""Probabilities of a reward model that saw no vote on the prompt: what benchmarks of labels give every peer alike.

The prompts of a set are dealt into five folds, and each fold is predicted by a head that was fitted to the others: on
all their votes, ties included (Davidson's nu, on the calibration prompts). So they are the same whichever votes on a
pair a split leaves out, and know none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reward_accuracy import CALIBRATION, FOLDS, SETS, list_chats, read_labels_of_set

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head_fitting import calibrate_temperature, fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair, compute_first_shares, count_votes, select_decided
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.stats.davidson import davidson_probabilities, fit_nu


def predict_out_of_fold(
    pairs: Sequence[LabelledPair], features: np.ndarray, *, seed: int = 0, folds: int = FOLDS
) -> np.ndarray:
    """Return the probabilities (pairs, 3) of first, tie, second, each from a head that saw nothing of the prompt.

    Args:
        features: of `reward_accuracy.list_chats`, (2 pairs, width).
    """
    n = len(pairs)
    lengths, votes = measure_completion_lengths(list_chats(pairs)), count_votes(pairs)
    names, family = np.unique([p.comparison.prompt.family for p in pairs], return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    out = np.full((n, 3), 1 / 3)
    for k in range(min(folds, len(names))):
        held_out, others = shuffled[k::folds], np.delete(shuffled, np.s_[k::folds])
        calibrating = np.isin(family, others[::CALIBRATION])
        predicted = np.flatnonzero(np.isin(family, held_out))
        fitting = np.flatnonzero(np.isin(family, others) & ~calibrating)
        calibration = np.flatnonzero(calibrating).tolist()
        decided = [i for i in calibration if select_decided([pairs[i]])]
        both = np.r_[fitting, fitting + n]
        standardiser = Standardiser.fit(features[both], lengths[both])
        inputs = standardiser(features, lengths)
        differences = inputs[:n] - inputs[n:]
        vote_weight, _ = choose_vote_weight(differences[fitting], votes[fitting], family[fitting])
        head = fit_head(differences[fitting], votes[fitting], vote_weight=vote_weight)
        head = calibrate_temperature(
            head,
            *head.margins(differences[decided]),
            compute_first_shares([pairs[i] for i in decided]),
            family[decided],
        )
        p = np.clip(head.probabilities(*head.margins(differences)), 1e-6, 1 - 1e-6)
        margins = np.log(p / (1 - p))
        ties = np.array([pairs[i].label.probabilities[1] for i in calibration])
        out[predicted] = davidson_probabilities(margins[predicted], fit_nu(margins[calibration], ties))
    return out


def load_out_of_fold(
    data: Path, name: str, workspace: Path, *, backbone: Backbone, limit: int | None = None, folds: int = FOLDS
) -> tuple[list[LabelledPair], np.ndarray]:
    """Return the labelled pairs of a set of `reward_accuracy.SETS` and their out-of-fold probabilities (pairs, 3).

    Features are kept in `workspace`/features.
    """
    pairs = read_labels_of_set(data / SETS[name], limit)
    features = FeatureCache(workspace / "features", backbone).features(list_chats(pairs))
    return pairs, predict_out_of_fold(pairs, features, folds=folds)
