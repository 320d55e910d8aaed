"""Sequence classifiers as reward models: ours after full training, or anybody's from a folder or the hub.

A classifier is a backbone and one last linear map, its score head. What that head reads are the features, its weights
the head's weights, and a Laplace posterior over them is the uncertainty. So it is scored, calibrated, evaluated and
routed with like any other reward model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_config, load_model
from rlhf_hitl.reward.features import Backbone, FeatureCache, quiet_loading, score_head, whole_model
from rlhf_hitl.reward.head import Head, Standardiser, calibrate, laplace
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.seen_prompts import is_classifier, seen_before
from rlhf_hitl.reward.training.labelled_pairs import LabelledPair, decided, labelled_pairs, share_of_decided
from rlhf_hitl.reward.training.train import card, enter, seen
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split


def load_classifier(name: str) -> PreTrainedModel:
    """A sequence classifier with one label and a trained score head, in float32.

    Raises:
        BadInput: another kind of model, another number of labels, or weights in which the score head is missing: what
            transformers would make of those has a head of random numbers.
    """
    path = whole_model(name)
    config = load_config(path)
    kinds = ", ".join(config.architectures or [])
    if not is_classifier(path) or config.num_labels != 1:
        raise BadInput(
            f"classifier {name!r}: {kinds or 'no architecture'} with {config.num_labels} labels",
            expected="a ...ForSequenceClassification with 1 label, the reward",
            fix="take a reward model, or train this one: `rlhf-hitl train-reward --backbone`",
        )
    with quiet_loading():
        loaded = load_model(AutoModelForSequenceClassification, path, output_loading_info=True, dtype=torch.float32)
    model, found = loaded
    if missing := sorted(key for key in found["missing_keys"] if "position_ids" not in key):
        raise BadInput(
            f"classifier {name!r} without {', '.join(missing[:3])}",
            expected="all of its weights, the score head's among them",
            fix="save the whole model: a LoRA run must train and keep the score head (modules_to_save)",
        )
    return model.eval()


class Fp32Score(torch.nn.Linear):
    """A score head that computes in fp32 under any autocast: on the bf16 grid small margins flip or tie.

    With `ends`, the places in a row where its conversations end, every token has the rewards of them all: whichever
    token transformers' classifier takes for the end of the row, it answers with (1, conversations).
    """

    ends: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        states = input if self.ends is None else input[:, self.ends]
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            rewards = torch.nn.functional.linear(states.float(), self.weight.float(), bias)
        return rewards if self.ends is None else rewards.transpose(1, 2).expand(-1, input.shape[1], -1)


def classifier_to_train(name: str, **options: Any) -> PreTrainedModel:
    """A sequence classifier with one label in float32, on the weights of any language model; its score head in fp32.

    A head that is there is trained on. A new one starts with every reward equal: no margin that nobody taught.

    Raises:
        BadInput: a classifier with several labels, or an architecture that transformers has no classifier of.
    """
    path = whole_model(name)
    config = load_config(path)
    if config.num_labels != 1 and is_classifier(path):
        raise BadInput(
            f"model_name_or_path {name!r}, a classifier with {config.num_labels} labels",
            expected="a language model, or a classifier with 1 label",
            fix="start from the language model it was made of",
        )
    with quiet_loading():
        loaded = load_model(
            AutoModelForSequenceClassification,
            path,
            num_labels=1,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    model, found = loaded
    where, old = score_head(model)
    head = Fp32Score(old.in_features, 1, bias=old.bias is not None)
    if f"{where}.weight" in found["missing_keys"]:
        for weights in head.parameters():
            torch.nn.init.zeros_(weights)
    else:
        head.load_state_dict(old.state_dict())
    model.set_submodule(where, head)
    return model


def as_reward_model(name: str, cache: Path, *, max_length: int = 1024, dtype: str = "auto") -> RewardModel:
    """A classifier as it stands: its margins, and no uncertainty yet.

    Raises:
        BadInput: as `load_classifier`.
    """
    model = load_classifier(name)
    where, head = score_head(model)
    weights = head.weight.detach().double().numpy()[0]
    bias = 0.0 if head.bias is None else float(head.bias.detach())
    del model  # before the backbone is loaded: one copy at a time
    # A decoder's head reads the last token's state, which the backbone gives without the classifier around it.
    pooling = "last" if where == "score" else "score"
    backbone = Backbone(name, layer=-1, pooling=pooling, max_length=max_length, dtype=dtype)
    size = float(weights @ weights)
    mean = np.zeros(len(weights)) if size == 0 else -bias / size * weights  # features less this carry the bias
    standardiser = Standardiser(mean, np.eye(len(weights)), 0.0, 1.0)
    nothing = np.zeros((len(weights) + 1, len(weights) + 1))
    # The head's last input is the length, which a classifier does not read.
    made = Head(np.append(weights, 0.0), nothing, (1.0, 1.0))
    return RewardModel(FeatureCache(cache, backbone), standardiser, made, backend="classifier", card={})


def with_posterior(head: Head, labels: Iterable[tuple[np.ndarray, np.ndarray]]) -> Head:
    """The head with a Laplace posterior over its weights, as labels leave it under a prior of precision 1. They come in
    chunks, of each differences (n, d) and how much they count (n,). The weights stay."""
    width = len(head.weights) - 1
    covariance = np.zeros_like(head.covariance)
    chunks = ((differences[:, :width], counts) for differences, counts in labels)
    covariance[:width, :width] = laplace(chunks, head.weights[:width])
    return Head(head.weights, covariance, head.precisions, head.temperature, head.thresholds)


def adopt(store: Store, name: str, workspace: Path, *, max_length: int = 1024, dtype: str = "auto") -> RewardModel:
    """Take a classifier into the store as its newest reward model: its weights as they are, its uncertainty from the
    store's `train` labels and its temperature from the `calibration` labels (as far as there are any)."""
    model = as_reward_model(name, workspace / "features", max_length=max_length, dtype=dtype)
    train, calibration = labelled_pairs(store, Split.TRAIN), decided(labelled_pairs(store, Split.CALIBRATION))
    counts = np.array([p.label.votes * (1 - p.label.probabilities[1]) for p in train])
    model.head = with_posterior(model.head, [(_differences(model, train), counts)])
    model.head = calibrate(model.head, _differences(model, calibration), share_of_decided(calibration))
    model.card = card(train, calibration, model.cache)
    model.seen = seen_before(name) | seen(train, calibration)
    enter(store, model, workspace / "reward" / model.id)
    return model


def _differences(model: RewardModel, pairs: Sequence[LabelledPair]) -> np.ndarray:
    return model.differences([p.first for p in pairs], [p.second for p in pairs])
