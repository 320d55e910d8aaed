"""Adopt somebody else's classifier: its weights as they are, uncertainty and temperature from the labels of a store."""

from __future__ import annotations

from pathlib import Path

from rlhf_hitl.labels.fitting import fit_label_model
from rlhf_hitl.models import DEFAULT_PRECISION
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS
from rlhf_hitl.reward.classifier import add_laplace_posterior, wrap_classifier
from rlhf_hitl.reward.labelled_pairs import count_decided_votes, load_labelled_pairs, select_readable
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.reward.registry import register_reward_model
from rlhf_hitl.reward.seen_prompts import find_prompts_seen_before
from rlhf_hitl.reward.training.training_labels import (
    calibrate_on_pairs,
    collect_seen_prompts,
    compute_differences,
    describe_labels,
    load_calibration_pairs,
)
from rlhf_hitl.store import Store
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, Split


def adopt_classifier(
    store: Store,
    name: str,
    workspace: Path,
    *,
    max_length: int = DEFAULT_MAX_TOKENS,
    dtype: str = DEFAULT_PRECISION,
    skip_bad: bool = False,
    label_model: str = DEFAULT_LABEL_MODEL,
) -> RewardModel:
    """Make a classifier the store's newest reward model.

    Its weights stay. The `train` labels set its uncertainty and its temperature, as far as there are any: it has not
    learnt from them. Without any, the `calibration` labels set the temperature.

    Args:
        skip_bad: leave out pairs that the classifier cannot read or tell apart, instead of refusing them.
        label_model: how votes become labels.
    """
    model = wrap_classifier(name, workspace / "features", max_length=max_length, dtype=dtype)
    model.cache.backbone.renderer.read_images_from(store.images.load)
    fitted, left_out = fit_label_model(store, label_model), LeftOut("pair")
    train, calibration = load_labelled_pairs(store, Split.TRAIN, fitted), load_calibration_pairs(store, fitted)
    total = len(train) + len(calibration)
    train, calibration = (
        select_readable(part, model.cache.backbone.renderer, left_out) for part in (train, calibration)
    )
    left_out.refuse_or_warn(total, skip_bad=skip_bad)
    votes = count_decided_votes(train)
    model.head = add_laplace_posterior(model.head, [(compute_differences(model, train), votes)])
    model.head = calibrate_on_pairs(model, train or calibration)
    model.card = describe_labels(train, calibration, model.cache, left_out) | {"label_model": label_model}
    model.seen = find_prompts_seen_before(name) | collect_seen_prompts(train, calibration)
    folder = workspace / "reward" / model.id
    model.save(folder)
    register_reward_model(store, model, folder)
    return model
