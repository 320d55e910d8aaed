"""Measure the accuracy of the head backend on real votes about unseen prompts: HH helpful-base, MT-Bench, LLMFAO.

    python benchmarks/reward_accuracy.py --data ../shared/data --workspace DIR

A fifth of each set's prompts is held out, five times, so that every label is predicted once, by a head that saw nothing
of its prompt. The others are split much as a store splits them: every sixth prompt is left to calibration, the rest fit
the head and its temperature. Two floors are measured on the same labels: the longer (or shorter) answer wins, and a bag
of words, both fitted to the labels of the head. The constants of the head were chosen on other labels, the rest of HH
helpful-base (`reward/standardiser.py`).

The features are the slow part (`features_speed.py`; there are a million tokens):
they are kept in the workspace as they are computed, so that a run that was stopped can go on. `--hh-pairs` limits the
pairs of HH, by comparison id, which is a hash. `--quick` reads few labels, cut to 64 tokens, in two splits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from record import write_result

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.evaluation.floors import find_length_direction, predict_bag_of_words_margins
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.labelled_pairs import (
    LabelledPair,
    count_votes,
    load_labelled_pairs,
)
from rlhf_hitl.reward.novelty import join_pair
from rlhf_hitl.reward.rendering import Conversation, measure_completion_lengths
from rlhf_hitl.reward.style import measure_style
from rlhf_hitl.reward.training.head_learning import learn_head
from rlhf_hitl.stats.calibration import estimate_calibration_error
from rlhf_hitl.stats.intervals import clustered_share_interval
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split

SETS = {
    "mt_bench": "mt_bench/mtbench_human_joined.jsonl.gz",
    "llmfao": "llmfao/crowd-comparisons.csv",
    "hh": "hh_rlhf/helpful-base.test.jsonl.gz",
}
FOLDS, CALIBRATION = 5, 6  # one prompt in five is held out, and of the others one in six calibrates


def read_labels_of_set(path: Path, limit: int | None) -> list[LabelledPair]:
    """Return the labels of a preference set, in order of comparison id, at most `limit` of them."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/votes.db", create=True)
        import_path(store, path)
        pairs = [pair for split in Split for pair in load_labelled_pairs(store, split)]
    return sorted(pairs, key=lambda p: p.comparison.id)[:limit]


def list_chats(pairs: Sequence[LabelledPair]) -> list[Conversation]:
    return [p.first for p in pairs] + [p.second for p in pairs]


def cross_validate_set(
    pairs: Sequence[LabelledPair], features: np.ndarray, seed: int, folds: int
) -> tuple[dict[str, float | int], np.ndarray]:
    """Return the figures, and whether each label with a preference was predicted (0.5: no preference predicted).

    `features` are those of `list_chats`, (2 pairs, width).
    """
    n = len(pairs)
    lengths, votes = measure_completion_lengths(list_chats(pairs)), count_votes(pairs)
    styles = measure_style(list_chats(pairs))
    families = np.array([p.comparison.prompt.family for p in pairs])
    names, family = np.unique(families, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    margins, probabilities, words, by_length = np.zeros(n), np.full(n, 0.5), np.zeros(n), np.zeros(n)
    longer = lengths[:n] - lengths[n:]
    vote_weights: list[str] = []
    for k in range(min(folds, len(names))):
        held_out, others = shuffled[k::folds], np.delete(shuffled, np.s_[k::folds])
        calibrating = np.isin(family, others[::CALIBRATION])
        predicted = np.flatnonzero(np.isin(family, held_out)).tolist()
        fitting = np.flatnonzero(np.isin(family, others) & ~calibrating).tolist()
        both = [*fitting, *(i + n for i in fitting)]
        learnt = learn_head(features[both], lengths[both], styles[both], votes[fitting], families[fitting])
        vote_weights.append(str(learnt.head.vote_weight))
        ahead = [*predicted, *(i + n for i in predicted)]
        differences = learnt.standardiser.differences(features[ahead], lengths[ahead])
        novelty = None if learnt.novelty is None else join_pair(*np.split(learnt.novelty(features[ahead]), 2))
        margins[predicted], stds = learnt.head.margins(differences, novelty)
        probabilities[predicted] = learnt.head.probabilities(margins[predicted], stds)
        word_margins = predict_bag_of_words_margins([pairs[i] for i in fitting], [pairs[i] for i in predicted])
        words[predicted] = 0 if word_margins is None else word_margins
        by_length[predicted] = longer[predicted] * find_length_direction([pairs[i] for i in fitting])
    print("vote weight chosen in each split:", ", ".join(vote_weights), file=sys.stderr)
    return compute_figures(pairs, margins, probabilities, words, longer, by_length, families)


def compute_figures(
    pairs: Sequence[LabelledPair],
    margins: np.ndarray,
    probabilities: np.ndarray,
    words: np.ndarray,
    longer: np.ndarray,
    by_length: np.ndarray,
    families: np.ndarray,
) -> tuple[dict[str, float | int], np.ndarray]:
    is_decided = np.array([p.label.preferred is not None for p in pairs])
    truth = np.array([1.0 if p.label.preferred == p.label.first else -1.0 for p in pairs])[is_decided]

    def score_correct(m: np.ndarray) -> np.ndarray:
        return np.where(m[is_decided] == 0, 0.5, m[is_decided] * truth > 0)

    is_correct = score_correct(margins)
    low, high = clustered_share_interval(is_correct, families[is_decided])
    p = probabilities[is_decided]
    right = score_correct(probabilities - 0.5)
    ece = estimate_calibration_error(np.maximum(p, 1 - p), right, families[is_decided])
    floors = float(score_correct(by_length).mean()), float(score_correct(words).mean())
    figures = {
        "labels": int(is_decided.sum()),
        "prompts": len(set(families[is_decided])),
        "accuracy": float(is_correct.mean()),
        "accuracy.low": low,
        "accuracy.high": high,
        "accuracy.floor": max(0.5, *floors),
        "floor.longer": float(score_correct(longer).mean()),
        "floor.length": floors[0],
        "floor.bag_of_words": floors[1],
        "ece": ece[0],
        "ece.low": ece[1],
        "ece.high": ece[2],
    }
    return figures, is_correct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the three sets.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument(
        "--workspace",
        help="The folder to keep features in, so that a second run, or one that was stopped, reuses them.",
    )
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--hh-pairs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    limits = dict.fromkeys(SETS, 60) if args.quick else {"hh": args.hh_pairs}
    figures: dict[str, float | int | None] = {"hh.pairs": limits["hh"]}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        cache = FeatureCache(Path(args.workspace or folder) / "features", backbone)
        for name, path in SETS.items():
            pairs = read_labels_of_set(Path(args.data) / path, limits.get(name))
            features = cache.features(list_chats(pairs))
            found, _ = cross_validate_set(pairs, features, args.seed, 2 if args.quick else FOLDS)
            figures |= {f"{name}.{key}": value for key, value in found.items()}
    notes = (
        "Labels with a preference; intervals take the labels of one prompt together; the floor is the highest of a "
        "coin, length and words. "
        f"HH: {limits['hh']} pairs of helpful-base, Anthropic's test split, most of which fit the head measured."
    )
    write_result("reward_accuracy", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
