"""Train the head backend: compute features once, then fit a Bayesian head in seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_votes
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.registry import register_reward_model
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.seen_prompts import find_prompts_seen_before
from rlhf_hitl.reward.style import measure_style
from rlhf_hitl.reward.training import UncertaintyMethod
from rlhf_hitl.reward.training.head_learning import learn_head
from rlhf_hitl.reward.training.learnt_votes import save_learnt_votes
from rlhf_hitl.reward.training.out_of_fold import save_out_of_fold
from rlhf_hitl.reward.training.training_labels import (
    Half,
    collect_seen_prompts,
    describe_labels,
    load_readable_pairs,
)
from rlhf_hitl.store import Store
from rlhf_hitl.types import DEFAULT_LABEL_MODEL

log = logging.getLogger(__name__)


def train_head(
    store: Store,
    backbone: Backbone,
    workspace: Path,
    *,
    uncertainty: UncertaintyMethod = "laplace",
    skip_bad: bool = False,
    label_model: str = DEFAULT_LABEL_MODEL,
    length_neutral: bool = False,
    half: Half | None = None,
) -> RewardModel:
    """Train on the store's `train` labels, save the model and register it.

    How much a vote counts, and the temperature, are chosen by cross-validation over the training prompts.

    Args:
        uncertainty: from the head's posterior (`laplace`), or from an ensemble of heads on drawn prompts (`bootstrap`).

        skip_bad: leave out pairs that the backbone cannot read or tell apart, instead of refusing them.
        label_model: how votes become labels.
        length_neutral: take out of the margins what goes with the answers' lengths.
        half: learn from this half of the training prompts; None: from all.

    Raises:
        BadInput: too few labels, labels that are all ties, or pairs that the backbone cannot read or tell apart.
    """
    backbone.renderer.read_images_from(store.images.load)
    pairs, calibration, left_out = load_readable_pairs(
        store, backbone.renderer, skip_bad=skip_bad, label_model=label_model, half=half
    )
    cache = FeatureCache(workspace / "features", backbone)
    compute_all_features(cache, [*pairs, *calibration])
    if cache.unshown.text:
        log.warning("%s", cache.unshown.text)

    chats = [p.first for p in pairs] + [p.second for p in pairs]
    features, lengths, votes = cache.features(chats), measure_completion_lengths(chats), count_votes(pairs)
    prompts = np.array([p.comparison.prompt.family for p in pairs])
    learnt = learn_head(
        features,
        lengths,
        measure_style(chats),
        votes,
        prompts,
        uncertainty=uncertainty,
        length_neutral=length_neutral,
    )
    model = RewardModel(cache, learnt.standardiser, learnt.head, backend="head", card={})
    model.novelty = learnt.novelty
    model.card = describe_labels(pairs, calibration, cache, left_out) | {
        "masses": {str(weight): round(loss, 4) for weight, loss in learnt.losses.items()},  # vote weight → loss
        "length_alone": round(learnt.length_only_loss, 4),
        "uncertainty": uncertainty,
        "length_neutral": length_neutral,
        "label_model": label_model,
        **({} if half is None else {"half": half}),
    }
    model.seen = find_prompts_seen_before(backbone.name) | collect_seen_prompts(pairs, calibration)
    save_head(store, model, workspace, pairs)
    differences = learnt.standardiser.differences(features, lengths)
    save_out_of_fold(store, model.id, pairs, learnt.out_of_fold.probabilities(differences, model.head.temperature))
    return model


def compute_all_features(cache: FeatureCache, pairs: Sequence[LabelledPair]) -> None:
    """Compute the features of every conversation that is not cached yet, with one progress bar."""
    cache.features(list(dict.fromkeys(chat for p in pairs for chat in (p.first, p.second))))


def save_head(store: Store, model: RewardModel, workspace: Path, learnt: Sequence[LabelledPair]) -> None:
    """Save a model with the votes it has learnt, and register it as the store's newest."""
    folder = workspace / "reward" / model.id
    model.save(folder)
    save_learnt_votes(folder, learnt)
    register_reward_model(store, model, folder)
