"""Training the head backend: features once, then a Bayesian head in seconds."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from rlhf_hitl import __version__
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.reward import head as heads
from rlhf_hitl.reward.features import Backbone, FeatureCache
from rlhf_hitl.reward.model import WEIGHTS, RewardModel, lengths, load
from rlhf_hitl.reward.seen_prompts import Seen, seen_before
from rlhf_hitl.reward.training.labelled_pairs import (
    LabelledPair,
    data_hash,
    decided,
    labelled_pairs,
    share_of_decided,
    votes,
)
from rlhf_hitl.store import Store
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model, get_reward_model, list_reward_models
from rlhf_hitl.types import Split

log = logging.getLogger(__name__)

LEARNT = "learnt_votes.json"  # what a head has learnt of each pair: (9,) votes
Uncertainty = Literal["laplace", "bootstrap"]
OF_ONE_MODEL = ("evaluations", "masses", "length_alone")  # on a card: figures that are not those of the next
FEWEST_LABELS = 8  # below this a head says nothing but its prior
MASSES = (1.0, 0.3, 0.1, 0.03)  # of a vote; which is right hangs on how much alike the labels of one prompt are


def train_head(
    store: Store, backbone: Backbone, workspace: Path, *, uncertainty: Uncertainty = "laplace"
) -> RewardModel:
    """Train on the store's `train` labels, calibrate on its `calibration` labels, save and enter it in the store.

    How much of a vote counts is chosen by cross-validation over the training prompts.

    Args:
        uncertainty: of the head's posterior (`laplace`) or of an ensemble of heads on drawn prompts (`bootstrap`).

    Raises:
        BadInput: too few labels, or labels that are all ties.
    """
    pairs = training_pairs(store)
    calibration = decided(labelled_pairs(store, Split.CALIBRATION))
    cache = FeatureCache(workspace / "features", backbone)
    every = list(dict.fromkeys(chat for p in [*pairs, *calibration] for chat in (p.first, p.second)))
    cache.features(every)  # every conversation once, with one progress bar

    chats = [p.first for p in pairs] + [p.second for p in pairs]
    features, size, said = cache.features(chats), lengths(chats), votes(pairs)
    prompts = np.array([p.comparison.prompt.family for p in pairs])
    standardiser = heads.Standardiser.fit(features, size)
    differences = standardiser.differences(features, size)
    mass, losses = best_mass(differences, said, prompts)
    of_length = length_alone(differences, said, prompts)
    if losses[mass] >= of_length:
        log.warning(
            "on training prompts it was not fitted to, the head predicts raters no better than the answers' lengths "
            "alone do: have more prompts rated before it is relied on"
        )
    head = heads.fit(differences, said, mass=mass)
    if uncertainty == "bootstrap":
        head = heads.bootstrapped(head, differences, said, prompts)
    model = RewardModel(cache, standardiser, head, backend="head", card={})
    model.head = calibrated(model, calibration)
    model.card = card(pairs, calibration, cache) | {
        "masses": {str(tried): round(loss, 4) for tried, loss in losses.items()},
        "length_alone": round(of_length, 4),
        "uncertainty": uncertainty,
    }
    model.seen = seen_before(backbone.name) | seen(pairs, calibration)
    enter(store, model, workspace / "reward" / model.id, learnt=pairs)
    return model


def best_mass(differences: np.ndarray, said: np.ndarray, prompts: np.ndarray) -> tuple[float, dict[float, float]]:
    """Of MASSES, that whose heads predict unseen prompts best, and the losses of all.

    Args: as of `cross_validated`.
    """
    losses = {mass: cross_validated(differences, said, prompts, mass) for mass in MASSES}
    return min(losses, key=lambda mass: losses[mass]), losses


def length_alone(differences: np.ndarray, said: np.ndarray, prompts: np.ndarray) -> float:
    """The loss of heads that read nothing but the lengths, as of `best_mass`."""
    _, losses = best_mass(differences[:, -1:], said, prompts)
    return min(losses.values())


def cross_validated(
    differences: np.ndarray, said: np.ndarray, prompts: np.ndarray, mass: float = 1.0, folds: int = 5
) -> float:
    """Mean negative log likelihood, a vote, of preferences by heads that saw no label of their prompts.

    Args:
        differences: (n, d) inputs of the first completion less those of the second.
        said: (n, 9) votes.
        prompts: (n,) which prompt a pair is of; whole prompts make a fold.
        mass: how much of a vote counts in fitting.
    """
    names, index = np.unique(prompts, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[index] % min(folds, len(names))
    first, second = said[:, : heads.TIE].sum(1), said[:, heads.TIE + 1 :].sum(1)
    loss = 0.0
    for k in np.unique(fold):
        seen, asked = fold != k, fold == k
        if not seen.any():
            return math.inf  # a single prompt says nothing of others
        head = heads.fit(differences[seen], said[seen], mass=mass)
        p = np.clip(head.probabilities(*head.margins(differences[asked])), 1e-12, 1 - 1e-12)
        loss -= float((first[asked] * np.log(p) + second[asked] * np.log1p(-p)).sum())
    return loss / float((first + second).sum())


def update(model: RewardModel, pair: LabelledPair, said: np.ndarray | None = None) -> RewardModel:
    """The model after one more label, in milliseconds: the head's posterior moves, nothing is refitted.

    Its calibration stays and its card counts the label.

    Args:
        said: (9,) votes that are new to the model, of a label it knows; by default it knows nothing of the label.
    """
    difference = model.differences([pair.first], [pair.second])[0]
    new = votes([pair])[0] if said is None else said
    first_met = said is None
    counted = {
        "train_labels": model.card["train_labels"] + first_met,
        "train_votes": model.card["train_votes"] + (pair.label.votes if first_met else 0),
        "updated": model.card.get("updated", 0) + 1,
    }
    kept = {key: said for key, said in model.card.items() if key not in OF_ONE_MODEL}
    updated = RewardModel(
        model.cache, model.standardiser, model.head.updated(difference, new), backend=model.backend,
        card=kept | counted,
    )  # fmt: skip
    updated.seen = model.seen and model.seen | seen([pair], [])
    return updated


def catch_up(store: Store, model: RewardModel, workspace: Path) -> RewardModel:
    """The model after the votes that came in since it was trained, label by label, calibrated anew and entered in the
    store; the model itself where there are none.

    Raises:
        BadInput: it keeps no list of what it has learnt, or some of that was corrected since: votes cannot be unlearnt.
    """
    path = Path(get_reward_model(store, model.id).path) / LEARNT
    if not path.is_file():
        raise BadInput(
            f"reward model {model.id}",
            expected=f"a model with {LEARNT} beside it, as `train-reward --backend head` leaves",
            fix="train again without --update",
        )
    learnt = {key: np.array(said) for key, said in json.loads(path.read_text()).items()}
    pairs, calibration = training_pairs(store), decided(labelled_pairs(store, Split.CALIBRATION))
    now = dict(zip(map(_key, pairs), votes(pairs)))
    lost = [key for key, said in learnt.items() if (now.get(key, np.zeros(9)) < said - 1e-9).any()]
    if lost:
        raise BadInput(
            f"{len(lost)} labels that reward model {model.id} has learnt, {lost[0].split()[0]} the first of them",
            expected="votes that only grew",
            fix="train again without --update: raters have corrected theirs since",
        )
    every = list(dict.fromkeys(chat for p in [*pairs, *calibration] for chat in (p.first, p.second)))
    model.cache.features(every)  # all that are new at once, with one progress bar
    updated = model
    for pair in pairs:
        before = learnt.get(_key(pair))
        new = now[_key(pair)] - (0 if before is None else before)
        if new.any():
            updated = update(updated, pair, None if before is None else new)
    if updated is model:
        return model
    updated.head = calibrated(updated, calibration)
    updated.card = updated.card | card(pairs, calibration, model.cache)
    updated.seen = updated.seen and updated.seen | seen([], calibration)
    enter(store, updated, workspace / "reward" / updated.id, learnt=pairs)
    return updated


def _key(pair: LabelledPair) -> str:
    return f"{pair.comparison.id} {pair.label.first} {pair.label.second}"


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


def seen(train: list[LabelledPair], calibration: list[LabelledPair]) -> Seen:
    """Which prompts a model has met that learnt from these labels."""
    return Seen.of(*([p.comparison.prompt.family for p in pairs] for pairs in (train, calibration)))


def enter(store: Store, model: RewardModel, folder: Path, *, learnt: list[LabelledPair] | None = None) -> None:
    """Save a model and make it the store's newest, with the votes it has learnt where it can go on from them."""
    model.save(folder)
    if learnt is not None:
        known = {_key(pair): said.tolist() for pair, said in zip(learnt, votes(learnt))}
        write_text_atomically(folder / LEARNT, json.dumps(known))
    add_reward_model(store, _record(model, folder))


def _record(model: RewardModel, folder: Path) -> RewardModelRecord:
    return RewardModelRecord(
        id=model.id,
        backend=model.backend,
        path=str(folder.resolve()),
        backbone=model.cache.backbone.name,
        data_hash=model.card["data_hash"],
        simulated=model.card["simulated"],
        figures={k: v for k, v in model.card.items() if isinstance(v, int | float)},
    )


def open_reward_model(store: Store, name: str | None, workspace: Path, *, enter: bool = True) -> RewardModel:
    """A reward model by folder or id; the store's newest for None. One the store did not know is entered in it, as of
    when it was trained: to be looked at makes no model the newest.

    Args:
        enter: False leaves the store as it is.

    Raises:
        NotFound: there is none, or its folder is gone.
    """
    cache = workspace / "features"
    if name and Path(name).is_dir():
        model, folder = load(name, cache), Path(name)
        if enter and model.id not in {known.id for known in list_reward_models(store)}:
            trained = datetime.fromtimestamp((folder / WEIGHTS).stat().st_mtime, UTC)
            add_reward_model(store, replace(_record(model, folder), created_at=trained))
        return model
    return load(get_reward_model(store, name or None).path, cache)
