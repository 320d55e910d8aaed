"""Update a head with new votes, in milliseconds and without a refit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_given_votes, count_votes
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.novelty import Novelty, join_pair
from rlhf_hitl.reward.registry import register_reward_model
from rlhf_hitl.reward.training.head_learning import calibrate_head, measure_length_slopes
from rlhf_hitl.reward.training.head_training import compute_all_features, save_head
from rlhf_hitl.reward.training.learnt_votes import (
    LEARNT_VOTES_FILE,
    load_learnt_votes,
    make_pair_id,
    refuse_corrected_votes,
)
from rlhf_hitl.reward.training.out_of_fold import OutOfFold, save_out_of_fold
from rlhf_hitl.reward.training.training_labels import (
    collect_seen_prompts,
    compute_differences,
    describe_labels,
    load_readable_pairs,
)
from rlhf_hitl.store import Store
from rlhf_hitl.store.reward_models import display_name, get_reward_model

# Fields of a card that hold for one model only, not for the updated one.
FIELDS_OF_ONE_MODEL = ("evaluations", "masses", "length_alone", "name", "trained_on")


def update_with_label(model: RewardModel, pair: LabelledPair, new_votes: np.ndarray | None = None) -> RewardModel:
    """Return the model after one more label: the head's posterior moves, nothing is refitted.

    Its calibration stays, and its card counts the label.

    Args:
        new_votes: (9,) those votes of a label that the model has not learnt yet; by default all votes are new, because
            the model has not learnt the label.
    """
    difference = compute_differences(model, [pair])[0]
    is_new_label = new_votes is None
    votes = count_votes([pair])[0] if new_votes is None else new_votes
    counts = {
        "train_labels": model.card["train_labels"] + is_new_label,
        "train_votes": model.card["train_votes"] + (pair.label.votes if is_new_label else 0),
        "updated": model.card.get("updated", 0) + 1,
    }
    kept = {key: value for key, value in model.card.items() if key not in FIELDS_OF_ONE_MODEL}
    updated = RewardModel(
        model.cache, model.standardiser, model.head.updated(difference, votes), backend=model.backend,
        card=kept | counts,
    )  # fmt: skip
    updated.novelty = model.novelty
    updated.seen = model.seen and model.seen | collect_seen_prompts([pair], [])
    return updated


def update_with_new_votes(store: Store, model: RewardModel, workspace: Path) -> RewardModel:
    """Update a model label by label with the votes that came in since it was trained, calibrate it anew, save and
    register it. Without new votes the model itself is returned.

    Raises:
        BadInput: the model keeps no record of what it has learnt, or some of that was corrected since.
    """
    record = get_reward_model(store, model.id)
    model_name = display_name(record, with_id=True)
    learnt, given = load_learnt_votes(Path(record.path), model_name)
    # What the model cannot read it has not learnt either.
    pairs, calibration, left_out = load_readable_pairs(
        store,
        model.cache.backbone.renderer,
        skip_bad=True,
        label_model=model.card.get("label_model", "shares"),
        half=model.card.get("half"),
    )
    current, now_given = (
        dict(zip(map(make_pair_id, pairs), count(pairs))) for count in (count_votes, count_given_votes)
    )
    refuse_corrected_votes(given, now_given, model_name)
    compute_all_features(model.cache, [*pairs, *calibration])
    updated = model
    for pair in pairs:
        pair_id = make_pair_id(pair)
        before = learnt.get(pair_id)
        if before is not None and np.allclose(now_given[pair_id], given[pair_id]):
            continue  # its raters may be trusted more or less than before: that is for the next training
        new_votes = np.maximum(0, current[pair_id] - (0 if before is None else before))
        if new_votes.any():
            updated = update_with_label(updated, pair, None if before is None else new_votes)
    if updated is model:
        return model
    prompts = np.array([p.comparison.prompt.family for p in pairs])
    votes = np.stack([current[make_pair_id(pair)] for pair in pairs])
    differences = compute_differences(updated, pairs)
    out_of_fold = OutOfFold.fit(differences, votes, prompts, updated.head.vote_weight)
    if updated.card.get("length_neutral"):
        out_of_fold = out_of_fold.without_length(measure_length_slopes(differences))
    novelty = None if updated.novelty is None else _measure_left_out_novelty(updated, pairs, prompts)
    usual = 0.0 if updated.novelty is None else updated.novelty.usual
    updated.head = calibrate_head(updated.head, out_of_fold, differences, votes, prompts, novelty, usual)
    updated.card = updated.card | describe_labels(pairs, calibration, model.cache, left_out)
    updated.seen = updated.seen and updated.seen | collect_seen_prompts([], calibration)
    save_head(store, updated, workspace, pairs)
    save_out_of_fold(store, updated.id, pairs, out_of_fold.probabilities(differences, updated.head.temperature))
    return updated


def remove_length(store: Store, model: RewardModel, workspace: Path) -> RewardModel:
    """Make a model of another whose margins do not go with length, save and register it; temperature and doubt stay.

    Raises:
        BadInput: the model was trained by an earlier version, or is no head.
    """
    neutral = RewardModel(
        model.cache, model.standardiser, model.head.without_length(), backend=model.backend,
        card={k: v for k, v in model.card.items() if k not in FIELDS_OF_ONE_MODEL} | {"length_neutral": True},
    )  # fmt: skip
    neutral.novelty, neutral.seen = model.novelty, model.seen
    folder = workspace / "reward" / neutral.id
    learnt = Path(get_reward_model(store, model.id).path) / LEARNT_VOTES_FILE
    neutral.save(folder)
    if learnt.is_file():
        write_text_atomically(folder / LEARNT_VOTES_FILE, learnt.read_text(encoding="utf-8"))
    register_reward_model(store, neutral, folder)
    return neutral


def _measure_left_out_novelty(model: RewardModel, pairs: Sequence[LabelledPair], prompts: np.ndarray) -> np.ndarray:
    """Return the novelty (n,) of pairs when their prompt is left out. The model's own scale of it stays."""
    features = model.cache.features([p.first for p in pairs] + [p.second for p in pairs])
    found, n = Novelty.fit(features, np.tile(prompts, 2)), len(pairs)
    assert found is not None, "there are as many prompts as when it was trained, or more"
    return join_pair(found[1][:n], found[1][n:])
