"""Part `teaches` of `labels.py`: does a reward model learn more from labels that know their raters?

One head is fitted to the labels of the rater model and one to the plain shares of the votes, on the same pairs, and
both are asked about the votes on prompts that neither has seen: a fifth of the prompts is held out, five times, and of
the others every sixth sets the temperature. The rater model, too, is fitted to the votes on the other prompts alone.
What is predicted are single votes that prefer a side, as they were given, not labels of either model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from reward_accuracy import CALIBRATION, FOLDS, SETS, list_chats

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.labels.fitting import fit_to_votes
from rlhf_hitl.labels.label_models import LabelModel, Shares
from rlhf_hitl.labels.votes import LabelVote, read_votes
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head_fitting import calibrate_temperature, fit_head
from rlhf_hitl.reward.labelled_pairs import LabelledPair, compute_first_shares, count_votes, select_decided
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.stats.intervals import clustered_mean_interval
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons

SEEDS = 3
NOTE = (
    "teaches: differences to the head that learnt the shares, over single held-out votes that prefer a side, in nats "
    "for the log likelihood; intervals take the votes on one prompt together."
)


def measure(args: argparse.Namespace) -> tuple[dict[str, float | int | None], str]:
    """Return `teaches.SET.accuracy_gain` and `teaches.SET.log_likelihood_gain` with their intervals.

    Args:
        args: with `data`, `workspace` (None: features are kept nowhere), `backbone`, `max_length`, `quick`.
    """
    figures: dict[str, float | int | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        cache = FeatureCache(Path(args.workspace or folder) / "features", backbone)
        for name in ("mt_bench",) if args.quick else ("mt_bench", "llmfao"):
            votes, pairs = read_set(Path(args.data) / SETS[name], 60 if args.quick else None)
            features = cache.features(list_chats(pairs))
            found = compare_on_set(votes, pairs, features, seeds=1 if args.quick else SEEDS)
            figures |= {f"teaches.{name}.{key}": value for key, value in found.items()}
    return figures, NOTE


def read_set(path: Path, limit: int | None) -> tuple[dict[str, list[LabelVote]], list[LabelledPair]]:
    """Return the votes of a set by comparison, and its usable pairs (with labels that are their shares)."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/votes.db", create=True)
        import_path(store, path)
        votes = dict(sorted(read_votes(store)))
        comparisons = {c.id: c for c in find_comparisons(store)}
    pairs = [LabelledPair(comparisons[i], label) for i in votes for label in Shares().make_labels(i, votes[i])]
    return votes, [pair for pair in pairs if pair.is_usable][:limit]


def compare_on_set(
    votes: Mapping[str, list[LabelVote]], pairs: Sequence[LabelledPair], features: np.ndarray, seeds: int
) -> dict[str, float | int]:
    families = np.array([p.comparison.prompt.family for p in pairs])
    counts = np.array([p.label.counts for p in pairs], float)
    correct, log_likelihood = np.zeros((2, len(pairs))), np.zeros((2, len(pairs)))
    for seed in range(seeds):
        for number in range(2):
            margins, p = cross_validate(votes, pairs, features, families, seed, rates_raters=number == 1)
            for first in (True, False):
                share = counts[:, 0 if first else 2]
                signed = margins if first else -margins
                correct[number] += share * np.where(signed == 0, 0.5, signed > 0) / seeds
                log_likelihood[number] += share * np.log(np.clip(p if first else 1 - p, 1e-12, 1)) / seeds
    n = counts[:, 0] + counts[:, 2]
    figures: dict[str, float | int] = {"votes": int(n.sum()), "prompts": len(set(families[n > 0]))}
    for name, of, bound in (("accuracy", correct, 1.0), ("log_likelihood", log_likelihood, np.inf)):
        gains = np.repeat((of[1] - of[0]) / np.maximum(n, 1), n.astype(int))
        low, high = clustered_mean_interval(gains, np.repeat(families, n.astype(int)), (-bound, bound))
        figures |= {name: float(of[1].sum() / n.sum()), f"{name}.shares": float(of[0].sum() / n.sum())}
        figures |= {f"{name}_gain": float(gains.mean()), f"{name}_gain.low": low, f"{name}_gain.high": high}
    return figures


def cross_validate(
    votes: Mapping[str, list[LabelVote]],
    pairs: Sequence[LabelledPair],
    features: np.ndarray,
    families: np.ndarray,
    seed: int,
    *,
    rates_raters: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the margin and the probability (n,) that a head gives each pair's first side, having seen no vote on its
    prompt; fitted to labels of the rater model or to shares."""
    n = len(pairs)
    lengths = measure_completion_lengths(list_chats(pairs))
    names, family = np.unique(families, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    margins, probabilities = np.zeros(n), np.full(n, 0.5)
    for k in range(min(FOLDS, len(names))):
        held_out, others = shuffled[k::FOLDS], np.delete(shuffled, np.s_[k::FOLDS])
        known, calibrating = np.isin(family, others), np.isin(family, others[::CALIBRATION])
        predicted = np.flatnonzero(np.isin(family, held_out))
        fitting: list[int] = np.flatnonzero(known & ~calibrating).tolist()
        calibration = [i for i in np.flatnonzero(calibrating).tolist() if select_decided([pairs[i]])]
        label_model: LabelModel = Shares()
        if rates_raters:
            ids = sorted({pairs[i].comparison.id for i in np.flatnonzero(known).tolist()})
            label_model = fit_to_votes(((i, votes[i]) for i in ids), "raters")
        rows = count_votes([_relabel(pairs[i], label_model, votes) for i in fitting])
        both = [*fitting, *(i + n for i in fitting)]
        standardiser = Standardiser.fit(features[both], lengths[both])
        differences = standardiser.differences(features, lengths)
        vote_weight, _ = choose_vote_weight(differences[fitting], rows, families[fitting])
        head = fit_head(differences[fitting], rows, vote_weight=vote_weight)
        targets = compute_first_shares([pairs[i] for i in calibration])
        head = calibrate_temperature(head, *head.margins(differences[calibration]), targets, families[calibration])
        margins[predicted], stds = head.margins(differences[predicted])
        probabilities[predicted] = head.probabilities(margins[predicted], stds)
    return margins, probabilities


def _relabel(pair: LabelledPair, label_model: LabelModel, votes: Mapping[str, list[LabelVote]]) -> LabelledPair:
    labels = label_model.make_labels(pair.comparison.id, votes[pair.comparison.id])
    of_pair = pair.label.first, pair.label.second
    return LabelledPair(pair.comparison, next(x for x in labels if (x.first, x.second) == of_pair))
