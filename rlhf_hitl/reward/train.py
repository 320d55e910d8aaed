"""Training the head backend: features once, then a Bayesian head in seconds."""

from __future__ import annotations

from pathlib import Path

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward import head as heads
from rlhf_hitl.reward.data import (
    LabelledPair,
    data_hash,
    decided,
    labelled_pairs,
    share_of_decided,
    targets,
    weights,
)
from rlhf_hitl.reward.features import Backbone, FeatureCache
from rlhf_hitl.reward.model import RewardModel, lengths, load
from rlhf_hitl.store import Store, ledger
from rlhf_hitl.types import Split

FEWEST_LABELS = 8  # below this a head says nothing but its prior


def train_head(store: Store, backbone: Backbone, workspace: Path) -> RewardModel:
    """Train on the store's `train` labels, calibrate on its `calibration` labels, save and enter it in the store.

    Raises:
        BadInput: too few labels, or labels that are all ties.
    """
    pairs = training_pairs(store)
    calibration = decided(labelled_pairs(store, Split.CALIBRATION))
    cache = FeatureCache(workspace / "features", backbone)
    chats = [chat for p in [*pairs, *calibration] for chat in (p.first, p.second)]
    cache.features(list(dict.fromkeys(chats)))  # every conversation once, with one progress bar

    n = len(pairs)
    train_chats = [p.first for p in pairs] + [p.second for p in pairs]
    standardiser = heads.Standardiser.fit(cache.features(train_chats), lengths(train_chats))
    inputs = standardiser(cache.features(train_chats), lengths(train_chats))
    head = heads.fit(inputs[:n] - inputs[n:], targets(pairs), weights(pairs))
    model = RewardModel(cache, standardiser, head, backend="head", card={})
    model.head = calibrated(model, calibration)
    model.card = card(pairs, calibration, cache)
    enter(store, model, workspace / "reward" / model.id)
    return model


def training_pairs(store: Store) -> list[LabelledPair]:
    pairs = labelled_pairs(store, Split.TRAIN)
    if len(decided(pairs)) < FEWEST_LABELS:
        raise BadInput(
            f"{len(decided(pairs))} labels with a preference in the train split of {store.safe_url}",
            expected=f"{FEWEST_LABELS} or more",
            fix="rate more comparisons (`rlhf-hitl serve`) or import votes (`rlhf-hitl import`)",
        )
    return pairs


def calibrated(model: RewardModel, calibration: list[LabelledPair]) -> heads.Head:
    """The model's head with the temperature that the calibration split asks for (1 without calibration labels)."""
    differences = model.differences([p.first for p in calibration], [p.second for p in calibration])
    return heads.calibrate(model.head, differences, share_of_decided(calibration))


def card(pairs: list[LabelledPair], calibration: list[LabelledPair], cache: FeatureCache) -> dict:
    """What a reader of the saved model must know of its training."""
    return {
        "rlhf_hitl": __version__,
        "data_hash": data_hash(pairs),
        "train_labels": len(pairs),
        "train_votes": sum(p.label.votes for p in pairs),
        "calibration_labels": len(calibration),
        "simulated": any(p.label.simulated for p in [*pairs, *calibration]),
        "prompts_cut": cache.dropped,
        "completions_cut": cache.cut,
    }


def enter(store: Store, model: RewardModel, folder: Path) -> None:
    """Save a model and make it the store's newest."""
    model.save(folder)
    ledger.add_reward_model(store, _record(model, folder))


def _record(model: RewardModel, folder: Path) -> ledger.RewardModelRecord:
    return ledger.RewardModelRecord(
        id=model.id,
        backend=model.backend,
        path=str(folder.resolve()),
        backbone=model.cache.backbone.name,
        data_hash=model.card["data_hash"],
        simulated=model.card["simulated"],
        figures={k: v for k, v in model.card.items() if isinstance(v, int | float)},
    )


def open_reward_model(store: Store, name: str | None, workspace: Path) -> RewardModel:
    """A reward model by folder or id; the store's newest for None. One the store did not know is entered in it.

    Raises:
        NotFound: there is none, or its folder is gone.
    """
    cache = workspace / "features"
    if name and Path(name).is_dir():
        model = load(name, cache)
        if model.id not in {known.id for known in ledger.reward_models(store)}:
            ledger.add_reward_model(store, _record(model, Path(name)))
        return model
    return load(ledger.reward_model(store, name or None).path, cache)
