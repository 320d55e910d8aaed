"""Sequence classifiers as reward models: ours after full training, or anybody's from a folder or the hub.

A classifier is a backbone and one last linear map, its score head. What that head reads are the features, its weights
are the head's weights, and a Laplace posterior over them is the uncertainty. So it is scored, calibrated, evaluated and
used for routing like any other reward model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import DEFAULT_PRECISION, load_config
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import compute_laplace_covariance
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.pretrained import (
    find_score_head,
    is_sequence_classifier,
    load_sequence_classifier,
    locate_full_model,
)
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.views import SCORE_POOLING
from rlhf_hitl.wording import say_count


def load_classifier(name: str) -> PreTrainedModel:
    """Load a sequence classifier with one label and a trained score head, in float32.

    Raises:
        BadInput: another kind of model, another number of labels, or weights without the score head, which transformers
            would fill with random numbers.
    """
    path = locate_full_model(name)
    config = load_config(path)
    kinds = ", ".join(config.architectures or [])
    if not is_sequence_classifier(path) or config.num_labels != 1:
        raise BadInput(
            f"classifier {name!r}: {kinds or 'no architecture'} with {say_count(config.num_labels, 'label')}",
            expected="a ...ForSequenceClassification with 1 label, the reward",
            fix="take a reward model, or train this one: `rlhf-hitl train-reward --backbone`",
        )
    model, lacking = load_sequence_classifier(path)
    if missing := [name for name in lacking if "position_ids" not in name]:
        raise BadInput(
            f"classifier {name!r} without {', '.join(missing[:3])}",
            expected="all of its weights, the score head's among them",
            fix="save the whole model: a LoRA run must train and keep the score head (modules_to_save)",
        )
    return model.eval()


def wrap_classifier(
    name: str, cache: Path, *, max_length: int = DEFAULT_MAX_TOKENS, dtype: str = DEFAULT_PRECISION
) -> RewardModel:
    """Make a reward model of a classifier as it is: with its margins, and without uncertainty.

    Raises:
        BadInput: as `load_classifier`.
    """
    model = load_classifier(name)
    head_name, score_head = find_score_head(model)
    weights = score_head.weight.detach().double().numpy()[0]
    bias = 0.0 if score_head.bias is None else float(score_head.bias.detach())
    del model  # before the backbone is loaded, so that only one copy is in memory
    # A decoder's head reads the last token's state, which the backbone gives without the classifier around it.
    pooling = "last" if head_name == "score" else SCORE_POOLING
    backbone = Backbone(name, layer=-1, pooling=pooling, max_length=max_length, dtype=dtype)
    squared_norm = float(weights @ weights)
    # Subtracting this mean from the features adds the bias to the rewards.
    mean = np.zeros(len(weights)) if squared_norm == 0 else -bias / squared_norm * weights
    standardiser = Standardiser(mean, np.eye(len(weights)), 0.0, 1.0)
    no_covariance = np.zeros((len(weights) + 1, len(weights) + 1))
    # The head's last input is the length, which a classifier does not read.
    head = Head(np.append(weights, 0.0), no_covariance, (1.0, 1.0))
    return RewardModel(FeatureCache(cache, backbone), standardiser, head, backend="classifier", card={})


def add_laplace_posterior(head: Head, labels: Iterable[tuple[np.ndarray, np.ndarray]]) -> Head:
    """Return the head with a Laplace posterior over its weights under a prior of precision 1. The weights stay.

    Args:
        labels: in chunks, each the differences of inputs (n, d) and how much they count (n,).
    """
    width = len(head.weights) - 1
    covariance = np.zeros_like(head.covariance)
    chunks = ((differences[:, :width], counts) for differences, counts in labels)
    covariance[:width, :width] = compute_laplace_covariance(chunks, head.weights[:width])
    return Head(head.weights, covariance, head.precisions, head.temperature, head.thresholds)
