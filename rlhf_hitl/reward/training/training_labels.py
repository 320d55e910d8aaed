"""The labels that a training reads from a store, and what the model card says of them.

Importing this module costs no torch and no scikit-learn: too few labels are refused before either is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.fitting import fit_label_model
from rlhf_hitl.labels.label_models import LabelModel
from rlhf_hitl.reward.labelled_pairs import (
    LabelledPair,
    compute_first_shares,
    hash_labelled_pairs,
    load_labelled_pairs,
    select_decided,
    select_readable,
)
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.reward.seen_prompts import SeenPrompts
from rlhf_hitl.store import Store
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.feature_cache import FeatureCache
    from rlhf_hitl.reward.head import Head
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.reward.rendering import Renderer

MIN_DECIDED_LABELS = 8  # with fewer, a head predicts nothing but its prior
#: Of the training prompts, drawn by their hash: two models that learn from one each have no prompt in common.
Half = Literal["first", "second"]


def load_training_pairs(
    store: Store, label_model: str | LabelModel = DEFAULT_LABEL_MODEL, half: Half | None = None
) -> list[LabelledPair]:
    """Return the labelled pairs of the train split. Raises BadInput where there are too few with a preference."""
    pairs = load_labelled_pairs(store, Split.TRAIN, label_model)
    if half is not None:
        pairs = [p for p in pairs if find_half(p.comparison.prompt.family) == half]
    require_enough_labels(pairs, store)
    return pairs


def find_half(family: str) -> Half:
    """Return the half that the prompts of a family belong to."""
    return "first" if hashlib.sha256(f"half:{family}".encode()).digest()[0] % 2 == 0 else "second"


def require_enough_labels(pairs: Sequence[LabelledPair], store: Store) -> None:
    """Raise BadInput where too few labels have a preference."""
    if len(select_decided(pairs)) < MIN_DECIDED_LABELS:
        labels = say_count(len(select_decided(pairs)), "label")
        raise BadInput(
            f"{labels} with a preference in the train split of {store.safe_url}",
            expected=f"{MIN_DECIDED_LABELS} or more",
            fix="rate more comparisons (`rlhf-hitl serve`) or import votes (`rlhf-hitl import`)",
        )


def load_readable_pairs(
    store: Store,
    renderer: Renderer,
    *,
    skip_bad: bool,
    label_model: str = DEFAULT_LABEL_MODEL,
    half: Half | None = None,
) -> tuple[list[LabelledPair], list[LabelledPair], LeftOut]:
    """Return the training and the calibration pairs that a model can read and tell apart, and the others.

    Args:
        skip_bad: leave the others out, with a warning.
        half: of the training prompts; None: all of them.

    Raises:
        BadInput: there are others and `skip_bad` is not set, or too few labels are left.
    """
    fitted = fit_label_model(store, label_model)
    pairs, calibration = load_training_pairs(store, fitted, half), load_calibration_pairs(store, fitted)
    left_out = LeftOut("labelled pair")
    total = len(pairs) + len(calibration)
    pairs, calibration = (select_readable(part, renderer, left_out) for part in (pairs, calibration))
    left_out.refuse_or_warn(total, skip_bad=skip_bad)
    require_enough_labels(pairs, store)
    return pairs, calibration, left_out


def load_calibration_pairs(store: Store, label_model: str | LabelModel = DEFAULT_LABEL_MODEL) -> list[LabelledPair]:
    """Return the labelled pairs of the calibration split that have a vote for one side."""
    return select_decided(load_labelled_pairs(store, Split.CALIBRATION, label_model))


def compute_differences(model: RewardModel, pairs: Sequence[LabelledPair]) -> np.ndarray:
    """Return the head's inputs of the first completions less those of the second, (n, d)."""
    return model.differences([p.first for p in pairs], [p.second for p in pairs])


def calibrate_on_pairs(model: RewardModel, pairs: Sequence[LabelledPair]) -> Head:
    """Return the model's head with the temperature that fits pairs which it has not learnt best (1 without any)."""
    from rlhf_hitl.reward.head_fitting import calibrate_temperature  # scikit-learn

    pairs = select_decided(pairs)
    margins, stds = model.head.margins(compute_differences(model, pairs))
    prompts = np.array([p.comparison.prompt.family for p in pairs])
    return calibrate_temperature(model.head, margins, stds, compute_first_shares(pairs), prompts)


def describe_labels(
    train: Sequence[LabelledPair], calibration: Sequence[LabelledPair], cache: FeatureCache, left_out: LeftOut
) -> dict:
    """Return the fields of a model card that describe the labels of a training."""
    return describe_training(
        cache,
        data_hash=hash_labelled_pairs(train),
        train_labels=len(train),
        train_votes=sum(p.label.votes for p in train),
        calibration_labels=len(calibration),
        simulated_labels=sum(p.label.simulated for p in [*train, *calibration]),
        left_out=left_out,
    )


def describe_training(
    cache: FeatureCache,
    *,
    data_hash: str,
    train_labels: int,
    train_votes: int,
    calibration_labels: int,
    simulated_labels: int,
    left_out: LeftOut,
) -> dict:
    """Return the fields of a model card that every training writes."""
    return {
        "rlhf_hitl": __version__,
        "data_hash": data_hash,
        "train_labels": train_labels,
        "train_votes": train_votes,
        "calibration_labels": calibration_labels,
        "simulated": simulated_labels > 0,
        "simulated_labels": simulated_labels,
        "prompts_cut": cache.dropped,
        "completions_cut": cache.cut,
        "left_out": left_out.as_dict(),
        "unshown": cache.unshown.as_dict(),
    }


def collect_seen_prompts(train: Sequence[LabelledPair], calibration: Sequence[LabelledPair]) -> SeenPrompts:
    """Return the prompts that a model has seen after learning from these labels."""
    return SeenPrompts.of(*([p.comparison.prompt.family for p in pairs] for pairs in (train, calibration)))
